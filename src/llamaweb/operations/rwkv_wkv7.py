"""RWKV 7's recurrence (arXiv:2503.14456): a matrix a head, that fades and is corrected by each token."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, batch, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import State, Step, Value, View

_LEAST = 1e-12  # of what a key's length is divided by
MOST_CHUNK = 8  # tokens at a time, …
_CHUNK_BYTES = 14 << 10  # … whose numbers workgroup memory holds; it has 16 KiB on any device


def rwkv_wkv7(
    g: Graph,
    of_tokens: tuple[Tensor, ...],
    v: Tensor,
    of_heads: tuple[Tensor, ...],
    size: int,
    eps: float,
    name: str,
    *,
    residual: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """For each token and head of `size` numbers, as v (n, T):

    fade = exp(-exp(-1/2) sigmoid(w)); a = sigmoid(a); kk = k k_k, of length 1; k = k (1 + (a - 1) k_a);
    S = S fade - (S kk) (x) (a kk) + v (x) k; y = (layer_norm(S r) scale + shift + sum(r k r_k) v) gate.

    of_tokens: r, w, k, a and the gate, as v; of_heads: k_k, k_a, r_k, scale and shift (n). eps: of the norm, which is
    each head's. residual: values of this layer and their mix, as v, which is the first layer's then: in v's place is
    own + (v - own) sigmoid(mix). S is zero before the first token."""
    src = (*of_tokens, v, *(residual or ()), *of_heads)
    return g.node("rwkv_wkv7", name, v.shape, src, size=size, eps=eps, mixed=residual is not None)


class RwkvWkv7(Operation):
    name = "rwkv_wkv7"
    templates = ("rwkv_wkv7",)
    in_lanes = frozenset({"y"})
    parts = frozenset({"x", "v", "y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        """What each token has lies side by side in one value x, but for v, or the first layer's."""
        p, n = node.params, node.row
        r, w, k, a, gate, v, *residual = node.src[:-5]
        beside = (r, w, k, a, gate, *residual)
        x = View.of(Value(node.name + ".x", len(beside) * n, v.rows, in_blocks=False))
        for i, part in enumerate(beside):
            low.copy(low.view(part), x.part(i * n, n), f"{part.name}.beside")
        values = {"x": x, "v": low.view(v), "y": low.new(node)}
        state = State(node.name, 4 * n * p["size"])
        low.emit(self.name, node.name, values, {"of_heads": node.src[-5:]}, state=state, **p)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p, y = step.params, step.values["y"]
        places = {slot: (view.first, view.pitch if y.n_tokens > 1 else 0) for slot, view in step.values.items()}
        lanes = "y" in step.lane_order
        return rwkv_wkv7_kernel(p["size"], y.row // p["size"], p["eps"], places, mixed=p["mixed"], lanes=lanes)

    def flops(self, use: Use) -> int:
        c = use.constants
        return 8 * int(c["n_head"]) * int(c["size"]) ** 2 * use.tokens

    def moved(self, slot: str, use: Use) -> int:
        return use.sizes[slot] * (2 if slot == "state" else 1)

    def written(self, slot: str) -> bool:
        return slot in ("y", "state")

    def case(self, kernel: Kernel) -> Case:
        """More tokens than a chunk has, behind others, or one."""
        c, random, n_past = dict(kernel.constants), rng(kernel), 5
        places = dict(c["places"])
        n_tokens = c["chunk"] + 1 if c["chunk"] > 1 else 1
        size, n = c["size"], c["size"] * c["n_head"]
        x = random.standard_normal((n_tokens, 7 if c["mixed"] else 5, n), np.float32)
        v = random.standard_normal((n_tokens, n), np.float32)
        of_heads = random.standard_normal((5, n), np.float32)
        state = random.standard_normal((c["n_head"], size, size), np.float32)
        y, after = time_mixed(x, v, of_heads, state.astype(np.float64), c["eps"])
        at = {slot: 4 * (first + pitch * np.arange(n_tokens)) for slot, (first, pitch) in places.items()}
        data = (
            *(Data("x", at["x"], x.reshape(n_tokens, -1)), Data("v", at["v"], v)),
            *(whole("of_heads", of_heads), batch(n_tokens, n_past), whole("state", state)),
        )
        if c["lanes"]:
            y = y.reshape(-1, 8, 4).swapaxes(0, 1).reshape(1, -1)
        expected = (
            Expected("y", at["y"], y.astype(np.float32)),
            Expected("state", np.array([0]), after.astype(np.float32).reshape(1, -1)),
        )
        return Case((Run(kernel, (c["n_head"], 1, 1)),), data, expected)


def time_mixed(
    x: np.ndarray, v: np.ndarray, of_heads: np.ndarray, state: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """In numpy: y (tokens, n), and the state (n_head, keys, values) behind it. x: (tokens, 5 or 7, n)."""
    n_head, size = state.shape[:2]
    k_k, k_a, r_k, scale, shift = of_heads.astype(np.float64).reshape(5, n_head, size)
    each = []
    for row, first in zip(x.astype(np.float64), v.astype(np.float64), strict=True):
        r, w, k, a, gate, *residual = row.reshape(-1, n_head, size)
        a, fade = _sigmoid(a), np.exp(-np.exp(-0.5) * _sigmoid(w))
        own = first.reshape(n_head, size)
        if residual:
            own = residual[0] + (own - residual[0]) * _sigmoid(residual[1])
        kk = k * k_k
        kk /= np.maximum(np.sqrt(np.square(kk).sum(-1, keepdims=True)), _LEAST)
        k = k * (1 + (a - 1) * k_a)
        told = np.einsum("hkv,hk->hv", state, kk)
        state = state * fade[:, :, None] - (a * kk)[:, :, None] * told[:, None] + k[:, :, None] * own[:, None]
        y = np.einsum("hkv,hk->hv", state, r)
        y = y - y.mean(-1, keepdims=True)
        y = y / np.sqrt(np.square(y).mean(-1, keepdims=True) + eps) * scale + shift
        each.append(((y + (r * k * r_k).sum(-1, keepdims=True) * own) * gate).reshape(-1))
    return np.stack(each), state


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rwkv_wkv7_kernel(
    size: int,
    n_head: int,
    eps: float,
    places: dict[str, tuple[int, int]],
    *,
    mixed: bool = False,
    lanes: bool = False,
) -> Launch:
    """places: of x, v and y, where the first token's numbers begin, and how far from there the next token's are; 0: it
    is alone. mixed: x has v of this layer and its mix, and v is the first layer's. lanes: y is in lane order."""
    slots = [arena("x", "f32"), arena("v", "f32"), Slot("of_heads", "f32", "read"), BATCH]
    of_token = 4 * 7 * size  # bytes: r, fade, k, kk, a kk, v and y
    shader = kernel(
        "rwkv_wkv7",
        [*slots, Slot("state", "f32", "read_write"), arena("y", "f32")],
        size=size,
        n_head=n_head,
        eps=eps,
        least=_LEAST,
        mixed=mixed,
        lanes=lanes,
        places=tuple(sorted(places.items())),
        chunk=min(max(_CHUNK_BYTES // of_token, 1), MOST_CHUNK) if places["y"][1] else 1,
        workgroup=size,
    )
    return Launch(shader, (n_head, 1, 1))
