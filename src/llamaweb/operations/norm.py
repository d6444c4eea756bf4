"""Norms along rows, or along each of the groups of numbers that rows are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.formats import whole_blocks
from llamaweb.kernels.kernel import NORM, Launch, Slot, arena, kernel
from llamaweb.operations.operand import Expression, Operand, operands
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import Step


def rms_norm(g: Graph, x: Tensor, weight: Tensor | None, eps: float, name: str, *, size: int = 0) -> Tensor:
    """x / rms(x) * weight, along each row, or along each `size` numbers of it, or as many as the weight has."""
    return _norm(g, "rms", x, size or (weight.row if weight else x.row), weight, None, eps, name)


def layer_norm(
    g: Graph, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, name: str, *, size: int = 0
) -> Tensor:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, along each row or each `size` numbers of it."""
    return _norm(g, "layer", x, size or x.row, weight, bias, eps, name)


def l2_norm(g: Graph, x: Tensor, size: int, eps: float, name: str) -> Tensor:
    """x / max(|x|, eps), along each `size` numbers of a row."""
    return _norm(g, "l2", x, size, None, None, eps, name)


def _norm(
    g: Graph, kind: str, x: Tensor, size: int, weight: Tensor | None, bias: Tensor | None, eps: float, name: str
) -> Tensor:
    src = (x, *([weight] if weight else []), *([bias] if bias else []))
    return g.node("norm", name, x.shape, src, kind=kind, size=size, eps=eps, weight=weight, bias=bias)


SLOTS = (("norm_weight", "scale"), ("norm_bias", "shift"))
IN_LANES = tuple(names[0] for names in SLOTS)


@dataclass(frozen=True)
class Groups:
    """`count` groups of `size` numbers, one behind the other, from number `first` of a row of x and `to` of one of y.
    weight: where that of the first group is; step: from there to the next group's."""

    size: int
    count: int
    first: int
    to: int
    weight: int = 0
    step: int = 0


class Norm(Operation):
    """Of any part of a row; step "rms_norm" is the common case. y may be an expression over the result and "gate"."""

    name = "norm"
    templates = ("norm",)
    in_lanes = frozenset({"y"})
    parts = frozenset({"x", "gate", "y"})
    apart = frozenset({"gate"})
    epilogue = True

    def lower(self, node: Tensor, low: Lowering) -> None:
        p, x = node.params, low.view(node.src[0])
        y = low.new(node)
        weight, bias = p["weight"], p["bias"]
        if p["kind"] == "rms" and weight and p["size"] == x.row and x.whole and x.value.in_blocks:
            low.emit("rms_norm", node.name, {"x": x, "y": y}, {"norm_weight": (weight,)}, eps=p["eps"])
            return
        slots = IN_LANES if p["size"] == x.row else ("scale", "shift")
        weights = {slot: (tensor,) for slot, tensor in zip(slots, (weight, bias), strict=True) if tensor}
        low.emit(self.name, node.name, {"x": x, "y": y}, weights, kind=p["kind"], eps=p["eps"], size=p["size"])

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p, x, y = step.params, step.values["x"], step.values["y"]
        pitches, of = (x.pitch, y.pitch), operands(step)
        groups, behind = [], 0
        for part, vector in zip(groups_of(step), next(iter(step.weights.values()), ()) or (None,), strict=False):
            groups.append(replace(part, weight=behind))
            behind += vector.size if vector else 0
        return norm_kernel(
            *(p["kind"], tuple(groups), pitches, p["eps"], y.n_tokens, tuple(step.weights), of.get("gate")),
            epilogue=p.get("epilogue", 0),
            in_place=of["x"].slot == "y",
            y_lanes=of["y"].lanes,
        )


def groups_of(step: Step) -> tuple[Groups, ...]:
    """What a norm is of: one or several kinds of groups."""
    p, x, y = step.params, step.values["x"], step.values["y"]
    if "groups" in p:
        found: tuple[Groups, ...] = p["groups"]
        return found
    size = p["size"]
    vector = next(iter(step.weights.values()), None)
    own = size if vector and vector[0].size > size else 0
    return (Groups(size, x.row // size, x.first, y.first, 0, own),)


def norm_kernel(
    kind: str,
    groups: tuple[Groups, ...],
    pitches: tuple[int, int],
    eps: float,
    n_tokens: int,
    vectors: tuple[str, ...] = (),
    gate: Operand | None = None,
    *,
    epilogue: Expression = 0,
    in_place: bool = False,
    y_lanes: int = 0,
) -> Launch:
    """kind: "rms", "layer" or "l2". pitches: of x and of y. vectors: slots of weights and biases, if there are; those
    of IN_LANES are, of whole rows, in lane order. epilogue: what is written, of the result and, of one kind of groups,
    the gate. y_lanes: the length of the row of y that is in lane order, or 0."""
    count = sum(group.count for group in groups)
    scale, shift = (next((name for name in vectors if name in names), None) for names in SLOTS)
    slots = [arena("gate", "f32")] if gate and gate.slot == "gate" else []
    slots += [*([] if in_place else [arena("x", "f32")]), *(Slot(name, "f32", "read") for name in vectors)]
    shader = kernel(
        "norm",
        [*slots, arena("y", "f32")],
        kind=kind,
        groups=groups,
        x="y" if in_place else "x",
        x_pitch=pitches[0],
        y_pitch=pitches[1],
        eps=eps,
        scale=scale,
        shift=shift,
        gate=gate,
        epilogue=epilogue,
        y_lanes=y_lanes,
        lanes=whole_blocks(groups[0].size) if set(vectors) & set(IN_LANES) else 0,
        workgroup=256 if count == n_tokens == 1 else 64,  # alone, it has the GPU for itself
    )
    return Launch(shader, (count, n_tokens, 1), 1 if n_tokens > 1 else 0)


class RmsNorm(Operation):
    """Of whole rows; with epilogue "add", added to y."""

    name = "rms_norm"
    templates = ("rms_norm",)
    case_rows = True

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        y, epilogue = step.values["y"], step.params.get("epilogue", "store")
        return rms_norm_kernel(y.row, step.params["eps"], y.n_tokens, epilogue=epilogue)


def rms_norm_kernel(row: int, eps: float, n_tokens: int, *, epilogue: str = "store") -> Launch:
    """y = x / rms(x) * weight; epilogue "add" adds it to y. Rows are `row` numbers, in whole blocks of 32."""
    k = whole_blocks(row)
    workgroup = 256 if n_tokens == 1 else 64  # alone, it has the GPU for itself
    slots = [arena("x"), NORM, arena("y")]
    shader = kernel("rms_norm", slots, k=k, columns=row, eps=eps, epilogue=epilogue, workgroup=workgroup)
    return Launch(shader, (1, n_tokens, 1), 1 if n_tokens > 1 else 0)
