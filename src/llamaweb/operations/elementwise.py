"""Operations number by number: a kernel for each expression of them (wgsl/common/functions.wgsl has the functions)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from llamaweb.graph import Graph, Tensor, misfit
from llamaweb.kernels.kernel import BATCH, Launch, Slot, arena, kernel
from llamaweb.operations.operand import Expression, Operand, operands
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import Step


def elementwise(g: Graph, expression: Expression, src: tuple[Tensor, ...], name: str) -> Tensor:
    """An expression over operands, as long as the first; a shorter one repeats along each row, and the first row of
    a weight is every token's."""
    for x in src[1:]:
        if src[0].row % x.row or (x.op != "weight" and x.rows != src[0].rows):
            raise misfit(name, f"{x.name} is {list(x.shape)}, which does not repeat along {list(src[0].shape)}")
    return g.node("elementwise", name, src[0].shape, src, expression=expression)


def add(g: Graph, x: Tensor, y: Tensor, name: str) -> Tensor:
    return elementwise(g, ("add", 0, 1), (x, y), name)


def mul(g: Graph, x: Tensor, y: Tensor, name: str) -> Tensor:
    return elementwise(g, ("mul", 0, 1), (x, y), name)


def scale(g: Graph, x: Tensor, factor: float, name: str) -> Tensor:
    return elementwise(g, ("mul", 0, float(factor)), (x,), name)


def softcap(g: Graph, x: Tensor, cap: float, name: str) -> Tensor:
    """cap * tanh(x / cap)"""
    return elementwise(g, ("mul", ("tanh", ("mul", 0, 1.0 / cap)), float(cap)), (x,), name)


def unary(g: Graph, function: str, x: Tensor, name: str) -> Tensor:
    """function: by its name in an expression."""
    return elementwise(g, (function, 0), (x,), name)


def swiglu(g: Graph, gate: Tensor, up: Tensor, name: str) -> Tensor:
    """silu(gate) * up"""
    return elementwise(g, ("swiglu", 0, 1), (gate, up), name)


def geglu(g: Graph, gate: Tensor, up: Tensor, name: str) -> Tensor:
    """gelu(gate) * up, with gelu's tanh approximation (arXiv:1606.08415)"""
    return elementwise(g, ("geglu", 0, 1), (gate, up), name)


def swiglu_oai(g: Graph, gate: Tensor, up: Tensor, name: str) -> Tensor:
    """gpt-oss's: x * sigmoid(1.702 x) * (y + 1), with gate and up within 7: x = min(gate, 7), y = clamp(up, -7, 7)."""
    return elementwise(g, ("swiglu_oai", 0, 1), (gate, up), name)


def view(g: Graph, x: Tensor, first: int, row: int, name: str) -> Tensor:
    """Numbers `first` to `first + row - 1` of each row."""
    return g.node("view", name, (row, x.rows), (x,), first=first)


def heads_of(g: Graph, x: Tensor, first: int, each: int, apart: int, name: str) -> Tensor:
    """Of every `apart` numbers of a row, `each` from number `first` on, side by side."""
    shape = (x.row // apart * each, x.rows)
    return g.node("heads_of", name, shape, (x,), first=first, each=each, apart=apart)


def plane(g: Graph, x: Tensor, i: int, name: str) -> Tensor:
    """Matrix i of x (row, T, n)."""
    return g.node("plane", name, x.shape[:2], (x,), plane=i)


def concat(g: Graph, heads: tuple[Tensor, ...], sizes: tuple[int, ...], name: str) -> Tensor:
    """Heads that are one of each of the operands' behind each other, of so many numbers; an operand of one head has it
    for all."""
    n_head = max(x.row // size for x, size in zip(heads, sizes, strict=True))
    return g.node("concat", name, (n_head * sum(sizes), heads[0].rows), heads, sizes=sizes)


class Elementwise(Operation):
    name = "elementwise"
    templates = ("elementwise",)
    case_rows = True
    in_lanes = frozenset({"x0", "x1", "x2", "x3", "y"})
    parts = apart = in_lanes

    def lower(self, node: Tensor, low: Lowering) -> None:
        values, weights = {}, {}
        for i, src in enumerate(node.src):
            if src.op == "weight":
                weights[f"x{i}"] = (src,)
            else:
                values[f"x{i}"] = low.groups(src)
        values["y"] = low.new(node)
        low.emit(self.name, node.name, values, weights, expression=node.params["expression"])

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p, y = step.params, step.values["y"]
        rows = {slot: view.row for slot, view in step.values.items()}
        rows |= {slot: weight.row for slot, (weight,) in step.weights.items()}
        found = operands(step) | {slot: Operand(slot) for slot in step.weights}
        found = {slot: replace(o, repeats=rows[slot] if rows[slot] < y.row else 0) for slot, o in sorted(found.items())}
        result, last = found.pop("y"), p.get("last_row", False)
        return elementwise_kernel(p["expression"], y.row, y.n_tokens, found, result, set(step.weights), last_row=last)

    def moved(self, slot: str, use: Use) -> int:
        return 4 * int(use.constants["n"]) * use.tokens if slot in use.values else use.sizes[slot]


class HeadsOf(Operation):
    """No step, where what reads it reads groups."""

    name = "heads_of"

    def lower(self, node: Tensor, low: Lowering) -> None:
        p = node.params
        low.put(node, low.view(node.src[0]).groups(p["first"], p["each"], p["apart"]))


class Concat(Operation):
    """A copy of each operand."""

    name = "concat"

    def lower(self, node: Tensor, low: Lowering) -> None:
        y, sizes = low.new(node), node.params["sizes"]
        for i, (x, size) in enumerate(zip(node.src, sizes, strict=True)):
            low.copy(low.groups(x), y.groups(sum(sizes[:i]), size, sum(sizes)), f"{node.name}.{i}")


class PartOfRows(Operation):
    """No step: what reads it reads a part of each row."""

    name = "view"

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.put(node, low.view(node.src[0]).part(node.params["first"], node.row))


class Plane(Operation):
    """No step: what reads it reads one of a value's planes."""

    name = "plane"

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.put(node, replace(low.view(node.src[0]), plane=node.params["plane"]))


def elementwise_kernel(
    expression: Expression,
    n: int,
    n_tokens: int,
    of: dict[str, Operand],
    y: Operand,
    weights: Collection[str] = (),
    *,
    last_row: bool = False,
) -> Launch:
    """n numbers of each token. weights: slots of operands that are weights. last_row: of the batch's last token."""
    bound = dict.fromkeys(o.slot for o in of.values() if o.slot != "y")
    slots = [Slot(name, "f32", "read" if name in weights else "read_write") for name in bound]
    slots = [*slots, *([BATCH] if last_row else []), arena("y", "f32")]
    shader = kernel(
        "elementwise",
        slots,
        n=n,
        expression=expression,
        operands=tuple(of.items()),
        y=y,
        last_row=last_row,
        workgroup=64,
    )
    return Launch(shader, (-(-n // 64), n_tokens, 1), 1 if n_tokens > 1 else 0)
