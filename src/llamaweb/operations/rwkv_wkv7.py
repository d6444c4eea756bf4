"""RWKV 7's recurrence (arXiv:2503.14456): a matrix a head, that fades and is corrected by each token."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, batch, in_lane_order, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import State, Step, Value, View

_LEAST = 1e-12  # of what a key's length is divided by
MOST_CHUNK = 8  # tokens at a time, …
_CHUNK_BYTES = 16 << 10  # … whose numbers workgroup memory holds, as it is on any device


def rwkv_wkv7(
    g: Graph,
    of_tokens: tuple[Tensor, ...],
    v: Tensor,
    of_heads: tuple[Tensor, ...],
    size: int,
    eps: float,
    name: str,
    *,
    residual: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """For each token and head of `size` numbers, as v (n, T):

    fade = exp(-exp(-1/2) sigmoid(w + w_0)); a = sigmoid(a + a_0); kk = k k_k, of length 1; k = k (1 + (a - 1) k_a);
    S = S fade - (S kk) (x) (a kk) + v (x) k; y = (layer_norm(S r) scale + shift + sum(r k r_k) v) gate.

    of_tokens: r, w, k, a and the gate, as v; of_heads: w_0, a_0, k_k, k_a, r_k, scale and shift (n). eps: of the norm,
    which is each head's. residual: values of this layer and their mix, as v, and v_0 (n); v is the first layer's then,
    in whose place is own + (v - own) sigmoid(mix + v_0). S is zero before the first token."""
    own, v_0 = (residual[:2], residual[2:]) if residual else ((), ())
    of_heads = (*of_heads, *v_0)
    src = (*of_tokens, *own, v, *of_heads)
    return g.node("rwkv_wkv7", name, v.shape, src, size=size, eps=eps, n_vectors=len(of_heads))


class RwkvWkv7(Operation):
    name = "rwkv_wkv7"
    templates = ("rwkv_wkv7",)
    case_tokens = MOST_CHUNK + 1
    in_lanes = frozenset({"y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        """What each token has are planes of one value x, but for v, or the first layer's."""
        p = node.params
        *beside, v = node.src[: -p["n_vectors"]]
        x = Value(node.name + ".x", node.row, v.rows, planes=len(beside))
        for i, part in enumerate(beside):
            low.copy(low.view(part), View(x, x.row, plane=i), f"{part.name}.beside")
        values = {"x": View.of(x), "v": low.rows(v), "y": low.new(node)}
        state = State(node.name, 4 * node.row * p["size"])
        of_heads = node.src[-p["n_vectors"] :]
        low.emit(self.name, node.name, values, {"of_heads": of_heads}, state=state, mixed=len(beside) > 5, **p)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p, x, y = step.params, step.values["x"], step.values["y"]
        several = y.n_tokens > 1
        return rwkv_wkv7_kernel(
            p["size"],
            y.row // p["size"],
            p["eps"],
            x.value.plane_bytes // 4,
            y.pitch if several else 0,
            mixed=p["mixed"],
            lanes="y" in step.lane_order,
            alone=site.profile.software,
        )

    def flops(self, use: Use) -> int:
        c = use.constants
        return 8 * int(c["n_head"]) * int(c["size"]) ** 2 * use.tokens

    def case(self, kernel: Kernel) -> Case:
        """More tokens than a chunk has, behind others, or one."""
        c, random, n_past = dict(kernel.constants), rng(kernel), 5
        n_tokens = c["chunk"] + 1 if c["pitch"] else 1
        size, n = c["size"], c["size"] * c["n_head"]
        x = random.standard_normal((n_tokens, 7 if c["mixed"] else 5, n), np.float32)
        v = random.standard_normal((n_tokens, n), np.float32)
        of_heads = random.standard_normal((8 if c["mixed"] else 7, n), np.float32)
        state = random.standard_normal((c["n_head"], size, size), np.float32)
        y, after = time_mixed(x, v, of_heads, state.astype(np.float64), c["eps"])
        at = 4 * c["pitch"] * np.arange(n_tokens)
        planes = 4 * c["apart"] * np.arange(x.shape[1])[:, None]
        data = (
            *(Data("x", (planes + at).reshape(-1), np.concatenate(x.swapaxes(0, 1))), Data("v", at, v)),
            *(whole("of_heads", of_heads), batch(n_tokens, n_past), whole("state", state)),
        )
        if c["lanes"]:
            y = in_lane_order(y[0])[None]
        expected = (
            Expected("y", at, y.astype(np.float32)),
            Expected("state", np.array([0]), after.astype(np.float32).reshape(1, -1)),
        )
        return Case((Run(kernel, (c["n_head"], 1, 1)),), data, expected)


def time_mixed(
    x: np.ndarray, v: np.ndarray, of_heads: np.ndarray, state: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """In numpy: y (tokens, n), and the state (n_head, keys, values) behind it. x: (tokens, 5 or 7, n)."""
    n_head, size = state.shape[:2]
    w_0, a_0, k_k, k_a, r_k, scale, shift, *v_0 = of_heads.astype(np.float64).reshape(-1, n_head, size)
    each = []
    for row, first in zip(x.astype(np.float64), v.astype(np.float64), strict=True):
        r, w, k, a, gate, *residual = row.reshape(-1, n_head, size)
        a, fade = _sigmoid(a + a_0), np.exp(-np.exp(-0.5) * _sigmoid(w + w_0))
        own = first.reshape(n_head, size)
        if residual:
            own = residual[0] + (own - residual[0]) * _sigmoid(residual[1] + v_0[0])
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
    apart: int,
    pitch: int,
    *,
    mixed: bool = False,
    lanes: bool = False,
    alone: bool = False,
) -> Launch:
    """apart: from a plane of x to the next. pitch: from a token's numbers to the next token's; 0: there is one token.
    mixed: x has v of this layer and its mix, and v is the first layer's. lanes: y is in lane order. alone: there are no
    more invocations than columns of a head, as a CPU would have to lay the others aside."""
    slots = [arena("x"), arena("v"), Slot("of_heads", "vec4<f32>", "read"), BATCH]
    of_token = 4 * (8 * size + size // 2)  # bytes: r, fade, k, kk, a kk, v, gate, y and sums
    shader = kernel(
        "rwkv_wkv7",
        [*slots, Slot("state", "f32", "read_write"), arena("y")],
        size=size,
        n_head=n_head,
        eps=eps,
        least=_LEAST,
        apart=apart,
        pitch=pitch,
        mixed=mixed,
        lanes=lanes,
        chunk=min(max(_CHUNK_BYTES // of_token, 1), MOST_CHUNK) if pitch else 1,
        workgroup=size if alone else 256 // size * size,
    )
    return Launch(shader, (n_head, 1, 1))
