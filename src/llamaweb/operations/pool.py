"""Pooling: of each text of a batch, one row out of those of its tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, rng, whole
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import Step


def pool(g: Graph, x: Tensor) -> Tensor:
    """Of each text, the mean of its tokens' rows, the first or the last, as the graph's pooling says: (x.row, texts).
    Without any, x: the rows of all tokens."""
    assert g.pooling
    g.output_index = len(g.nodes)
    kind = g.pooling.kind
    return x if kind == "none" else g.node("pool", "pool", (x.row, g.pooling.rows(g.n_tokens)), (x,), kind=kind)


class Pool(Operation):
    name = "pool"
    templates = ("pool",)

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.emit(self.name, node.name, {"x": low.view(node.src[0]), "y": low.new(node)}, **node.params)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, y = step.values["x"], step.values["y"]
        _, begins = IO.texts(site.n_ubatch)
        return pool_kernel(step.params["kind"], y.row, y.n_tokens, (x.pitch, y.pitch), begins, x_first=x.first)

    @staticmethod
    def case(kernel: Kernel) -> Case:
        c, random = dict(kernel.constants), rng(kernel)
        begins = np.array([0, 3, 4, 9], np.uint32)
        x = random.standard_normal((9, c["n"]), np.float32)
        at = c["x_first"] + c["x_pitch"] * np.arange(len(x))
        y = pooled(x, begins.tolist(), c["kind"])
        data = (Data("x", 4 * at, x), whole("batch", begins, 4 * c["begins"]))
        expected = Expected("y", 4 * c["y_pitch"] * np.arange(len(y)), y.astype(np.float32))
        return Case((Run(kernel, (-(-c["n"] // c["workgroup"]), len(y), 1)),), data, (expected,))


def pooled(x: np.ndarray, begins: list[int], kind: str) -> np.ndarray:
    """The same in float64; begins: the first row of each text, and one past the last."""
    parts = [x[first:end].astype(np.float64) for first, end in pairwise(begins)]
    of = {"mean": lambda rows: rows.mean(0), "cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}
    return np.array([of[kind](rows) for rows in parts])


def pool_kernel(kind: str, n: int, texts: int, pitches: tuple[int, int], begins: int, *, x_first: int = 0) -> Launch:
    """n numbers of each text. pitches: of x and of y. begins: the I/O region's word of the first text's first token."""
    shader = kernel(
        "pool",
        [arena("x", "f32"), BATCH, arena("y", "f32")],
        kind=kind,
        n=n,
        x_first=x_first,
        x_pitch=pitches[0],
        y_pitch=pitches[1],
        begins=begins,
        workgroup=64,
    )
    return Launch(shader, (-(-n // 64), texts, 1), 1)
