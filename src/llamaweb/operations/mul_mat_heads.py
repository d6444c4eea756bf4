"""Products of heads, each with a matrix of its own: of one token, or of a batch's in tiles."""

from __future__ import annotations

from typing import Any

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.kernel import Launch
from llamaweb.operations.experts import ByExpert, mul_mat_id_kernel, mul_mat_id_tiles_kernel
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import Step


def mul_mat_heads(g: Graph, weight: Tensor, x: Tensor, name: str) -> Tensor:
    """Of each head, its matrix of `weight` (K, N, n_head) times its K numbers of x (n_head * K, T): (n_head * N, T)."""
    _, n, n_head = weight.shape
    return g.node("mul_mat_heads", name, (n * n_head, x.rows), (weight, x))


class MulMatHeads(Operation):
    """By the kernels of experts: each head is one, and every token has all of them."""

    name = "mul_mat_heads"
    parts = apart = frozenset({"x", "y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        weight, x = node.src
        values = {"x": low.groups(x), "y": low.new(node)}
        low.emit(self.name, node.name, values, {"w": (weight,)}, n_expert=weight.shape[2])

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        m, x, y = site.matrix, step.values["x"], step.values["y"]
        assert m
        (weight,) = step.weights["w"]
        k, n, n_head = weight.shape
        e = ByExpert(
            m.format,
            m.pitch,
            n,
            n_head,
            n_head,
            columns=m.columns,
            own=True,
            piece=(m.first, m.rows) if m.rows < m.whole else None,
            pitches=(x.pitch, 0, y.pitch),
            x_first=x.first,
            y_first=y.first,
            apart=(x.apart or k, y.apart or n),
            routed=False,
        )
        made = mul_mat_id_tiles_kernel if y.n_tokens > 1 else mul_mat_id_kernel
        return made(e, y.n_tokens, site.profile)
