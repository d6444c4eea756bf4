"""Products of one token, each of a matrix and an input of its own, in one dispatch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llamaweb.graph import VECTORS, Tensor
from llamaweb.kernels.checks.case import (
    Case,
    Expected,
    Run,
    evaluated,
    in_lane_order,
    rng,
    weight,
    whole,
)
from llamaweb.kernels.formats import BLOCK, Format, format_of, named, whole_blocks
from llamaweb.kernels.kernel import Kernel, Launch, Slot, arena, kernel
from llamaweb.kernels.mul_mat_vec import MulMatVec, default
from llamaweb.operations.operation import Operation, Site, Use
from llamaweb.operations.step import Step, View
from llamaweb.profile import DeviceProfile

_MOST_BYTES = 128 << 20  # of a weight, which any device's binding holds
MOST_ROWS = 32  # of a product that are compared


@dataclass(frozen=True)
class Product:
    """y = function(W x), with W of `rows` rows of `columns` numbers; x and y from a number of their values on.
    function: an epilogue, or "store"."""

    rows: int
    columns: int
    x: int
    y: int
    function: str = "store"


def together(tensors: list[Tensor], max_bindings: int) -> bool:
    """Whether products of these may be one dispatch: of floats, or of rows of one length in one format."""
    formats = [format_of(tensor.type, tensor.name) for tensor in tensors]
    alike = len({(tensor.type, tensor.row) for tensor in tensors}) == 1
    codes = any(format.codebook for format in formats)
    bindings = sum(len(format.planes) for format in formats) + codes + 2  # and x and y
    small = all(_bytes(format, tensor) <= _MOST_BYTES for format, tensor in zip(formats, tensors, strict=True))
    return (alike or all(t.type in VECTORS for t in tensors)) and bindings <= max_bindings and small


def _bytes(format: Format, tensor: Tensor) -> int:
    return whole_blocks(tensor.row) * tensor.rows // format.block_size * format.block_bytes


def joined(steps: list[Step], y: list[View]) -> Step:
    """One step of those; y: where their results are, in one value."""
    products = [
        Product(w.rows, w.row, step.values["x"].at, to.at, step.params.get("epilogue", "store"))
        for step, to in zip(steps, y, strict=True)
        for w in step.weights["w"]
    ]
    weights = {f"w{i}": step.weights["w"] for i, step in enumerate(steps)}
    values = {"x": View.of(steps[0].values["x"].value), "y": View.of(y[0].value)}
    return Step("mul_mat_vecs", "+".join(s.name for s in steps), values, weights, {"products": tuple(products)})


class MulMatVecs(Operation):
    name = "mul_mat_vecs"
    templates = ("mul_mat_vecs",)
    in_lanes = frozenset({"x"})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        formats = tuple(format_of(tensor.type, tensor.name) for (tensor,) in step.weights.values())
        return mul_mat_vecs_kernel(step.params["products"], formats, site.profile, x_lanes="x" in step.lane_order)

    def flops(self, use: Use) -> int:
        return sum(2 * p.rows * p.columns for p in use.constants["products"])

    def case(self, kernel: Kernel) -> Case:
        """The first rows of each product; what the others read may be anything."""
        c, random = dict(kernel.constants), rng(kernel)
        formats = [named(name) for name in c["formats"]]
        inputs: dict[int, np.ndarray] = {}
        renamed: dict[str, str] = {}
        data, expected, made = [], [], None
        for i, (product, format) in enumerate(zip(c["products"], formats, strict=True)):
            rows = min(product.rows, MOST_ROWS)
            w = weight(format, whole_blocks(product.columns), ((0, rows),), product.columns)
            if format.repacked:  # all are of one format, and may be one weight
                made = w if made is None or rows > made.groups[0][1] else made
                renamed |= {f"w{i}_{plane.name}": f"w_{plane.name}" for plane in format.planes}
            else:
                data.append(whole(f"w{i}_qs", w.raw))
            x = inputs.setdefault(product.x, random.standard_normal(product.columns, np.float32))
            y = w.dense[:, : product.columns] @ x.astype(np.float64)
            y = y if product.function == "store" else evaluated((product.function, 0), [y])
            expected.append(Expected("y", np.array([4 * product.y]), y[None].astype(np.float32)))
        data += [whole("x", in_lane_order(x) if c["x_lanes"] else x, 4 * at) for at, x in inputs.items()]
        reach = {"y": 4 * max(p.y + p.rows for p in c["products"])}
        return Case((Run(kernel, (c["workgroups"], 1, 1), renamed),), tuple(data), tuple(expected), made, reach)


def mul_mat_vecs_kernel(
    products: tuple[Product, ...], formats: tuple[Format, ...], profile: DeviceProfile, *, x_lanes: bool = False
) -> Launch:
    """formats: of each product's weight. x_lanes: each x is in lane order."""
    longest = max(whole_blocks(p.columns) for p in products)
    v = _variant(formats[0], longest, sum(p.rows for p in products), profile)
    slots = [Slot(f"w{i}_{p.name}", p.type, "read") for i, format in enumerate(formats) for p in format.planes]
    slots += [Slot("w_codes", formats[0].codebook.type, "read")] if formats[0].codebook else []
    per_workgroup = v.workgroup // v.lanes * v.rows
    workgroups = sum(-(-p.rows // per_workgroup) for p in products)
    shader = kernel(
        "mul_mat_vecs",
        [*slots, arena("x"), arena("y", "f32")],
        k=longest,
        n=sum(p.rows for p in products),
        products=products,
        formats=tuple(format.name for format in formats),
        split=formats[0].split,
        x_lanes=x_lanes,
        workgroup=v.workgroup,
        lanes=v.lanes,
        subgroup=v.subgroup,
        rows_per_group=v.rows,
        workgroups=workgroups,
    )
    plain = mul_mat_vecs_kernel(products, formats, DeviceProfile(), x_lanes=x_lanes) if v.subgroup else None
    return Launch(shader, (workgroups, 1, 1), plain=plain)


def _variant(format: Format, k: int, n: int, profile: DeviceProfile) -> MulMatVec:
    """As of a product alone; but of short rows no more lanes than there are blocks, and of few rows fewer at once, so
    that every core has some."""
    blocks = k // BLOCK
    if blocks < profile.subgroup_size:
        return MulMatVec(64, min(1 << (blocks - 1).bit_length(), 64), 2, 0)
    v = default(format, k, n, "store", replace(profile, packed_dot=False))
    while v.rows > 1 and n * v.lanes < v.workgroup * v.rows * profile.cores:
        v = replace(v, rows=v.rows // 2)
    return v
