"""The gated delta rule (arXiv:2412.06464): a matrix a head, that fades and is corrected by each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Run, batch, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operand import Operand, bound, operands
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.recurrence import MOST_CHUNK, Spread, chunk, expected_state, in_fours, padded
from llamaweb.operations.ssm_conv import Convolution
from llamaweb.operations.step import State, Step

_WORKGROUP = 64
_PARTS = 8  # of a column, whose sums each waits for


def gated_delta_net(
    g: Graph,
    qkv: Tensor,
    alpha: Tensor,
    beta: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    sizes: tuple[int, int],
    eps: float,
    name: str,
    *,
    grouped: bool = False,
) -> Tensor:
    """For each token and head: S = exp(a softplus(alpha + dt_bias)) S; S += k (x) sigmoid(beta) (v - S k);
    y = S q / sqrt(size), with q and k of length 1: (n_head * size, T).

    sizes: size, n_key. qkv: q and k of n_key heads of `size` numbers each, then v of all heads. alpha, beta: (n_head,
    T); dt_bias, a: of each head. grouped: neighbouring heads share q and k; else head h has those of head h % n_key.
    eps: under the root of lengths. S is zero before the first token."""
    size, n_key = sizes
    params = {"size": size, "n_key": n_key, "n_head": alpha.row, "grouped": grouped, "eps": eps}
    return g.node("gated_delta_net", name, (alpha.row * size, qkv.rows), (qkv, alpha, beta, dt_bias, a), **params)


class GatedDeltaNet(Operation):
    """Step: qkv may be what a convolution with the state params["conv_state"] makes of it."""

    name = "gated_delta_net"
    templates = ("gated_delta_net",)
    case_tokens = MOST_CHUNK + 1
    parts = frozenset({"qkv", "alpha", "beta", "y"})
    apart = frozenset({"alpha", "beta", "y"})
    convolves = "qkv"

    def lower(self, node: Tensor, low: Lowering) -> None:
        qkv, alpha, beta, *of_heads = node.src
        p = node.params
        values = {"qkv": low.view(qkv), "alpha": low.groups(alpha), "beta": low.groups(beta), "y": low.new(node)}
        state = State(node.name, 4 * p["n_head"] * p["size"] * in_fours(p["size"]))
        low.emit(self.name, node.name, values, {"of_heads": tuple(of_heads)}, state=state, **p)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p = step.params
        sizes = p["size"], p["n_key"], p["n_head"]
        return gated_delta_net_kernel(*sizes, p["grouped"], p["eps"], operands(step), Convolution.of(step))

    def flops(self, use: Use) -> int:
        c = use.constants
        return 8 * int(c["n_head"]) * int(c["size"]) ** 2 * use.tokens

    def case(self, kernel: Kernel, n_tokens: int = 0, n_past: int = 5) -> Case:
        """Unless told, one token more than it takes at a time, or one, behind others."""
        c, random = dict(kernel.constants), rng(kernel)
        of: dict[str, Operand] = dict(c["operands"])
        n_tokens = n_tokens or (c["chunk"] + 1 if of["y"].pitch else 1)
        size, n_key, n_head = c["size"], c["n_key"], c["n_head"]
        qkv = random.standard_normal((n_tokens, (2 * n_key + n_head) * size), np.float32)
        alpha, beta = (random.standard_normal((n_tokens, n_head), np.float32) for _ in range(2))
        bias, a = random.standard_normal(n_head, np.float32), -np.exp(random.standard_normal(n_head, np.float32))
        state = random.standard_normal((n_head, size, size), np.float32)
        before = state.astype(np.float64) * (n_past > 0)
        conv = c["conv"]
        made, more, left = conv.case(qkv, n_past, random) if conv else (qkv, [], None)
        y, after = corrected(made, alpha, beta, bias, a, before, n_key, c["grouped"], c["eps"])
        data = [
            *(of[slot].data(values) for slot, values in (("qkv", qkv), ("alpha", alpha), ("beta", beta))),
            *(whole("of_heads", np.stack([bias, a])), batch(n_tokens, n_past), whole("state", padded(state))),
            *more,
        ]
        expected = of["y"].expected(y), expected_state(padded(after)), *([left] if left else [])
        workgroups = (n_head, -(-size // c["columns"]), 1)
        return Case((Run(kernel, workgroups),), tuple(data), expected)


def corrected(
    qkv: np.ndarray,
    alpha: np.ndarray,
    beta: np.ndarray,
    dt_bias: np.ndarray,
    a: np.ndarray,
    state: np.ndarray,
    n_key: int,
    grouped: bool,
    eps: float,
) -> tuple[np.ndarray, np.ndarray]:
    """In numpy: y (tokens, n_head * size), and the state (n_head, values, keys) behind it."""
    n_head, size = state.shape[:2]
    of = np.arange(n_head) // (n_head // n_key) if grouped else np.arange(n_head) % n_key
    each = []
    fades = np.exp(a * np.logaddexp(0, alpha.astype(np.float64) + dt_bias))
    for row, fade, b in zip(qkv.astype(np.float64), fades, 1 / (1 + np.exp(-beta.astype(np.float64))), strict=True):
        q, k = row[: 2 * n_key * size].reshape(2, n_key, size)
        q, k = (x[of] / np.sqrt(np.square(x[of]).sum(-1, keepdims=True) + eps) for x in (q, k))
        v = row[2 * n_key * size :].reshape(n_head, size)
        state = state * fade[:, None, None]
        delta = b[:, None] * (v - np.einsum("hvk,hk->hv", state, k))
        state = state + delta[:, :, None] * k[:, None]
        each.append((np.einsum("hvk,hk->hv", state, q) / np.sqrt(size)).reshape(-1))
    return np.stack(each), state


def gated_delta_net_kernel(
    size: int,
    n_key: int,
    n_head: int,
    grouped: bool,
    eps: float,
    of: Mapping[str, Operand],
    conv: Convolution | None = None,
) -> Launch:
    """of: where qkv, alpha, beta and y are. conv: of a token's qkv."""
    spread = Spread.of(size, _WORKGROUP, _PARTS)
    # Bytes of a token: k, q and the squares of both, what scales it, its values, and sums; `told` takes 512 once.
    of_token = 4 * (2 * 4 * spread.held + 2 * spread.held + 4 + spread.rows + _WORKGROUP)
    shader = kernel(
        "gated_delta_net",
        [
            *bound(of),
            *(conv.slots if conv else []),
            Slot("of_heads", "f32", "read"),
            BATCH,
            Slot("state", "vec4<f32>", "read_write"),
            arena("y", "f32"),
        ],
        size=size,
        n_key=n_key,
        n_head=n_head,
        grouped=grouped,
        eps=eps,
        conv=conv,
        operands=tuple(sorted(of.items())),
        fours=spread.fours,
        parts=spread.parts,
        columns=spread.rows,
        several=bool(of["y"].pitch),
        chunk=chunk(of_token) if of["y"].pitch else 1,
    )
    return Launch(shader, (n_head, -(-size // spread.rows), 1))
