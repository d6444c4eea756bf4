"""Rows of a table at the batch's tokens."""

from __future__ import annotations

from typing import Any

from llamaweb.ggml import GGMLType
from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.formats import Format, format_of, whole_blocks
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import BATCH, Launch, arena, kernel, weight
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import Step


def get_rows(g: Graph, table: Tensor, name: str, *, of_positions: bool = False) -> Tensor:
    """Rows of `table` (row, N) at the input tokens, or at their positions: (row, n_tokens)."""
    of_texts = of_positions and g.pooling is not None
    shape = (table.row, g.n_tokens)
    return g.node("get_rows", name, shape, (table, g.tokens), of_positions=of_positions, of_texts=of_texts)


class GetRows(Operation):
    """With `host`, a table, among its params: the rows of this batch's tokens, which the host has written as float32
    (planner/tables.py)."""

    name = "get_rows"
    templates = ("get_rows",)
    case_rows = True
    in_lanes = frozenset({"y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.emit(self.name, node.name, {"y": low.new(node)}, {"w": (node.src[0],)}, **node.params)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        m, p = site.matrix, step.params
        options = {"scale": p.get("scale", 1.0), "y_lanes": "y" in step.lane_order}
        if "host" in p:
            format, pitch = format_of(GGMLType.F32, p["host"].name), whole_blocks(p["host"].row)
            return get_rows_kernel(format, pitch, site.n_ubatch, step.n_tokens, by="row", **options)
        assert m
        by = "position" if p["of_positions"] else "token"
        piece = (m.first, m.rows) if m.rows < m.whole else None
        texts = IO.texts(site.n_ubatch) if p["of_texts"] else None
        return get_rows_kernel(m.format, m.pitch, m.whole, step.n_tokens, by=by, texts=texts, piece=piece, **options)

    def moved(self, slot: str, use: Use) -> int:
        size = use.sizes[slot]
        return size if slot == "y" else size * use.tokens // int(use.constants["rows"])


def get_rows_kernel(
    format: Format,
    k: int,
    rows: int,
    n_tokens: int,
    *,
    by: str = "token",
    texts: tuple[int, int] | None = None,
    scale: float = 1.0,
    y_lanes: bool = False,
    piece: tuple[int, int] | None = None,
) -> Launch:
    """by: what tells the row of the table that a token gets: the "token", its "position" or its "row" in the batch.
    texts: words of the I/O region (`IOLayout.texts`), where positions are those in each of a batch's texts. piece: the
    first row and how many there are, where a binding holds only some of the table's `rows`."""
    shader = kernel(
        "get_rows",
        [*weight(format), BATCH, arena("y")],
        format=format.name,
        split=format.split,
        k=k,
        rows=rows,
        by=by,
        texts=texts,
        scale=scale,
        y_lanes=y_lanes,
        piece=piece,
        workgroup=32,
    )
    return Launch(shader, (1, n_tokens, 1), 1 if n_tokens > 1 else 0)
