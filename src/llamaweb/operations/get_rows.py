"""Rows of a table at the batch's tokens."""

from __future__ import annotations

from typing import Any

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.formats import Format
from llamaweb.kernels.kernel import BATCH, Launch, arena, kernel, weight
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import Step


def get_rows(g: Graph, table: Tensor, name: str, *, of_positions: bool = False) -> Tensor:
    """Rows of `table` (row, N) at the input tokens, or at their positions: (row, n_tokens)."""
    return g.node("get_rows", name, (table.row, g.n_tokens), (table, g.tokens), of_positions=of_positions)


class GetRows(Operation):
    name = "get_rows"
    templates = ("get_rows",)
    in_lanes = frozenset({"y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.emit(self.name, node.name, {"y": low.new(node)}, {"w": (node.src[0],)}, **node.params)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        m = site.matrix
        assert m
        piece = (m.first, m.rows) if m.rows < m.whole else None
        options = {**step.params, "y_lanes": "y" in step.lane_order, "piece": piece}
        options.pop("lane_order", None)
        return get_rows_kernel(m.format, m.pitch, m.whole, step.n_tokens, **options)

    def moved(self, slot: str, use: Use) -> int:
        size = use.sizes[slot]
        return size if slot == "y" else size * use.tokens // int(use.constants["rows"])


def get_rows_kernel(
    format: Format,
    k: int,
    rows: int,
    n_tokens: int,
    *,
    of_positions: bool = False,
    scale: float = 1.0,
    y_lanes: bool = False,
    piece: tuple[int, int] | None = None,
) -> Launch:
    """piece: the first row and how many there are, where a binding holds only some of the table's `rows`."""
    shader = kernel(
        "get_rows",
        [*weight(format), BATCH, arena("y")],
        format=format.name,
        split=format.split,
        k=k,
        rows=rows,
        of_positions=of_positions,
        scale=scale,
        y_lanes=y_lanes,
        piece=piece,
        workgroup=32,
    )
    return Launch(shader, (1, n_tokens, 1), 1 if n_tokens > 1 else 0)
