"""The gated delta rule (arXiv:2412.06464): a matrix a head, that fades and is corrected by each token."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, batch, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import State, Step


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
    name = "gated_delta_net"
    templates = ("gated_delta_net",)
    parts = frozenset({"qkv", "y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        qkv, alpha, beta, dt_bias, a = node.src
        p = node.params
        values = {"qkv": low.view(qkv), "alpha": low.view(alpha), "beta": low.view(beta), "y": low.new(node)}
        if values["alpha"].value is values["beta"].value:
            values["beta"] = low.rows(beta)  # no value can be bound twice
        state = State(node.name, 4 * p["n_head"] * p["size"] ** 2)
        low.emit(self.name, node.name, values, {"dt_bias": (dt_bias,), "a": (a,)}, state=state, **p)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p = step.params
        places = {slot: (view.first, view.pitch) for slot, view in step.values.items()}
        return gated_delta_net_kernel(p["size"], p["n_key"], p["n_head"], p["grouped"], p["eps"], places)

    def flops(self, use: Use) -> int:
        c = use.constants
        return 8 * int(c["n_head"]) * int(c["size"]) ** 2 * use.tokens

    def moved(self, slot: str, use: Use) -> int:
        return use.sizes[slot] * (2 if slot == "state" else 1)

    def written(self, slot: str) -> bool:
        return slot in ("y", "state")

    def case(self, kernel: Kernel) -> Case:
        """Two tokens behind others, or one."""
        c, random, n_past = dict(kernel.constants), rng(kernel), 5
        places = dict(c["places"])
        n_tokens = 2 if places["y"][1] else 1
        size, n_key, n_head = c["size"], c["n_key"], c["n_head"]
        qkv = random.standard_normal((n_tokens, (2 * n_key + n_head) * size), np.float32)
        alpha, beta = (random.standard_normal((n_tokens, n_head), np.float32) for _ in range(2))
        bias, a = random.standard_normal(n_head, np.float32), -np.exp(random.standard_normal(n_head, np.float32))
        state = random.standard_normal((n_head, size, size), np.float32)
        y, after = corrected(qkv, alpha, beta, bias, a, state.astype(np.float64), n_key, c["grouped"], c["eps"])
        rows = np.arange(n_tokens)
        inputs = (("qkv", qkv), ("alpha", alpha), ("beta", beta))
        data = [
            *(Data(s, 4 * (places[s][0] + places[s][1] * rows), values) for s, values in inputs),
            *(whole("dt_bias", bias), whole("a", a), batch(n_tokens, n_past), whole("state", state)),
        ]
        expected = (
            Expected("y", 4 * (places["y"][0] + places["y"][1] * rows), y.astype(np.float32)),
            Expected("state", np.array([0]), after.astype(np.float32).reshape(1, -1)),
        )
        return Case((Run(kernel, (n_head, 1, 1)),), tuple(data), expected)


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
    """In numpy: y (tokens, n_head * size), and the state (n_head, keys, values) behind it."""
    n_head, size = state.shape[:2]
    of = np.arange(n_head) // (n_head // n_key) if grouped else np.arange(n_head) % n_key
    each = []
    fades = np.exp(a * np.logaddexp(0, alpha.astype(np.float64) + dt_bias))
    for row, fade, b in zip(qkv.astype(np.float64), fades, 1 / (1 + np.exp(-beta.astype(np.float64))), strict=True):
        q, k = row[: 2 * n_key * size].reshape(2, n_key, size)
        q, k = (x[of] / np.sqrt(np.square(x[of]).sum(-1, keepdims=True) + eps) for x in (q, k))
        v = row[2 * n_key * size :].reshape(n_head, size)
        state = state * fade[:, None, None]
        delta = b[:, None] * (v - np.einsum("hkv,hk->hv", state, k))
        state = state + k[:, :, None] * delta[:, None]
        each.append((np.einsum("hkv,hk->hv", state, q) / np.sqrt(size)).reshape(-1))
    return np.stack(each), state


def gated_delta_net_kernel(
    size: int, n_key: int, n_head: int, grouped: bool, eps: float, places: dict[str, tuple[int, int]]
) -> Launch:
    """places: of values, where the first token's numbers begin, and how far from there the next token's are."""
    slots = [*(arena(name, "f32") for name in ("qkv", "alpha", "beta")), Slot("dt_bias", "f32", "read")]
    slots += [Slot("a", "f32", "read"), BATCH, Slot("state", "f32", "read_write"), arena("y", "f32")]
    shader = kernel(
        "gated_delta_net",
        slots,
        size=size,
        n_key=n_key,
        n_head=n_head,
        grouped=grouped,
        eps=eps,
        places=tuple(sorted(places.items())),
        workgroup=max(32, 1 << (size - 1).bit_length()),
    )
    return Launch(shader, (n_head, 1, 1))
