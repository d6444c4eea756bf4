"""The end of a graph: whose logits are wanted, and what becomes of them."""

from __future__ import annotations

from typing import Any

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import Step


def output_rows(g: Graph, x: Tensor) -> Tensor:
    """The rows whose logits are wanted: all, or the last token's alone."""
    g.output_index = len(g.nodes)
    if g.outputs == "all" or g.n_tokens == 1:
        return x
    return g.node("last_row", "output_rows", (x.row, 1), (x,))


def sample(g: Graph, logits: Tensor) -> Tensor:
    """The next token out of the logits, or (outputs "all") each row's log-probability of its target."""
    op = "cross_entropy" if g.outputs == "all" else "sample"
    return g.node(op, op, (logits.rows,), (logits,))


class LastRow(Operation):
    """A copy of the batch's last row."""

    name = "last_row"

    def lower(self, node: Tensor, low: Lowering) -> None:
        values = {"x0": low.view(node.src[0]), "y": low.new(node)}
        low.emit("elementwise", node.name, values, expression=0, last_row=True)


class Sample(Operation):
    name = "sample"
    templates = ("sample",)
    case_tokens = 1

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.emit(self.name, node.name, {"logits": low.view(node.src[0])})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        return sample_kernel(step.values["logits"].row)


class CrossEntropy(Sample):
    name = "cross_entropy"
    templates = ("cross_entropy",)
    case_tokens = 2

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        n, n_tokens = step.values["logits"].row, step.n_tokens
        return cross_entropy_kernel(n, n_tokens, IO.targets(site.n_ubatch), IO.results(site.n_ubatch))


def sample_kernel(n: int) -> Launch:
    slots = [arena("logits", "f32"), Slot("batch", "u32", "read_write")]
    return Launch(kernel("sample", slots, n=n, workgroup=256), (1, 1, 1))


def cross_entropy_kernel(n: int, n_tokens: int, targets: int, results: int) -> Launch:
    """targets, results: their first words in the I/O region."""
    slots = [arena("logits", "f32"), Slot("batch", "u32", "read_write")]
    shader = kernel("cross_entropy", slots, n=n, workgroup=128, targets=targets, results=results)
    return Launch(shader, (1, n_tokens, 1), 1)
