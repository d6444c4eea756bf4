"""Products of a weight and rows: of one token's (mul_mat_vec) or a batch's (mul_mat), and rows as these want them."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels import mul_mat as tiles
from llamaweb.kernels import mul_mat_vec as vec
from llamaweb.kernels.checks.products import MOST_TOKENS
from llamaweb.kernels.formats import named
from llamaweb.kernels.kernel import GLU, Launch, Variant
from llamaweb.kernels.mul_mat import PLAIN, PRECISIONS, MulMat
from llamaweb.kernels.tuner import Shape
from llamaweb.operations.operation import Lowering, Matrix, Operation, Site, Use
from llamaweb.operations.step import Step
from llamaweb.profile import DeviceProfile


def mul_mat(g: Graph, weight: Tensor, x: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
    """Rows of `weight` (K, N) times rows of `x` (K, T), plus `bias` (N): (N, T)."""
    return g.node("mul_mat", name, (weight.rows, x.rows), (weight, x, *([bias] if bias else [])))


class _Product(Operation):
    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        m, y, p = _matrix(site), step.values["y"], step.params
        common: dict[str, Any] = {
            "scaled": _scaled(step, m),
            "bias": "bias" in step.weights,
            "epilogue": p.get("epilogue", "store"),
            "factor": p.get("factor"),
            "offset": y.first + m.first,
            "columns": m.columns,
            "variant": variant,
        }
        return self._kernel(step, site, m, common)

    def _kernel(self, step: Step, site: Site, m: Matrix, common: dict[str, Any]) -> Launch:
        raise NotImplementedError

    def shape(self, step: Step, site: Site) -> Shape:
        m, p = _matrix(site), step.params
        epilogue = "store" if "by" in step.values else p.get("epilogue", "store")
        norms = ("eps" in p or "center_eps" in p, "post_eps" in p)
        return Shape(self.name, m.format.name, m.pitch, m.rows, epilogue, *norms, step.n_tokens)

    def flops(self, use: Use) -> int:
        return 2 * int(use.constants["columns"]) * int(use.constants["n"]) * use.tokens

    def moved(self, slot: str, use: Use) -> int:
        return 4 * int(use.constants["k"]) if slot == "x" and use.constants.get("last_row") else use.sizes[slot]


class MulMatVec(_Product):
    """Of one token. Before it may come a norm of its input, and before that the addition of a normed branch."""

    name = "mul_mat_vec"
    templates = ("mul_mat_vec", "mul_mat_vec_packed")
    variants = vec.MulMatVec
    tuned = ("decode",)
    in_lanes = frozenset({"x", "post", "sum", "by", "y"})
    parts = frozenset({"y", "by"})

    def _kernel(self, step: Step, site: Site, m: Matrix, common: dict[str, Any]) -> Launch:
        p = step.params
        return vec.mul_mat_vec(
            m.format,
            m.pitch,
            m.rows,
            site.profile,
            eps=p.get("eps"),
            y_row=step.values["y"].pitch,
            last_row=p.get("last_row", False),
            post_eps=p.get("post_eps"),
            center_eps=p.get("center_eps"),
            norm_bias="norm_bias" in step.weights,
            keeps_sum="sum" in step.values,
            sum_scale="sum_scale" in step.weights,
            by=step.values["by"].first + m.first if "by" in step.values else None,
            by_row=step.values["by"].pitch if "by" in step.values else 0,
            lane_order=step.lane_order,
            **common,
        )

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        return [*vec.candidates(named(shape.format), shape.k, shape.n, shape.epilogue, profile, mode)]


class MulMatOfBatch(_Product):
    """Of several tokens; the graph's mul_mat is one or the other."""

    name = "mul_mat"
    templates = ("mul_mat", "mul_mat_packed", "mul_mat_matrix")
    case_tokens = MOST_TOKENS
    variants = MulMat
    tuned = ("prefill", "embed")
    any_device = PLAIN
    parts = frozenset({"y"})
    packs = True

    def lower(self, node: Tensor, low: Lowering) -> None:
        weight, x, *bias = node.src
        weights = {"w": (weight,)} | ({"bias": (bias[0],)} if bias else {})
        op = "mul_mat_vec" if node.rows == 1 else "mul_mat"
        low.emit(op, node.name, {"x": low.rows(x), "y": low.new(node)}, weights)

    def _kernel(self, step: Step, site: Site, m: Matrix, common: dict[str, Any]) -> Launch:
        stride = step.values["y"].pitch
        return tiles.mul_mat(m.format, m.pitch, m.rows, step.n_tokens, site.profile, stride=stride, **common)

    def shape(self, step: Step, site: Site) -> Shape:
        return replace(super().shape(step, site), precision=site.precision)

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        sizes, bits = (shape.k, shape.n, shape.n_tokens), PRECISIONS[shape.precision]
        return [*tiles.candidates(named(shape.format), *sizes, shape.epilogue, bits, profile, mode)]

    def variant(self, step: Step, site: Site, chosen: Variant | None) -> Variant:
        m = _matrix(site)
        default = tiles.default_tile(m.format, m.pitch, m.rows, step.n_tokens, site.profile, site.bits)
        return super().variant(step, site, chosen) or default


class Quantize(Operation):
    """Rows as integers for the packed dot, or as halves for matrix units; the planner puts it before products whose
    kernel reads them (slot x_q)."""

    name = "quantize"
    templates = ("quantize", "halves")
    prepares = ("y", "x_q")

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        """variant: as what products want the rows."""
        x, y = step.values["x"], step.values["y"]
        return tiles.quantize(y.row, y.n_tokens, variant, site.profile, columns=x.row)


def _scaled(step: Step, m: Matrix) -> tuple[int, ...] | None:
    """Of the tensors that the matrix is of and that have a scale each, where all but the last end."""
    if "tensor_scales" not in step.weights:
        return None
    *ends, _ = accumulate(tensor.rows for tensor in step.weights["w"])
    if step.params.get("epilogue") in GLU:  # the same rows of both
        return tuple(m.rows // 2 for _ in ends)
    return tuple(max(end - m.first, 0) for end in ends)


def _matrix(site: Site) -> Matrix:
    assert site.matrix
    return site.matrix
