"""Attention in numpy beside the kernels': shapes, rotation, caches, and what a token attends to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llamaweb.kernels import library
from llamaweb.kernels.cache import width
from llamaweb.rope import Rope, phases

rng = np.random.default_rng(3)
NAN = np.float16(np.nan)
NORM, NEOX = Rope("norm", 64), Rope("neox", 64, 500000.0)


@dataclass(frozen=True)
class Heads:
    """A shape of attention, with a rotation."""

    head_dim: int
    n_head: int
    n_head_kv: int
    rope: Rope
    n_ctx: int = 300

    @property
    def rows(self) -> int:
        return self.n_head + 2 * self.n_head_kv

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    def attention(self, **changes: Any) -> library.Attention:
        plain = (self.rope, self.head_dim, self.n_head, self.n_head_kv, self.n_ctx, self.scale)
        return replace(library.Attention(*plain), **changes)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def rotated(x: np.ndarray, rope: Rope, first: int) -> np.ndarray:
    """x (tokens, heads, head_dim) rotated as at positions `first` and on, float64."""
    y = x.astype(np.float64)
    pair = np.arange(rope.n_dims // 2)
    turns = phases(rope) / 2**32 if rope.yarn else rope.base ** (-2.0 * pair / rope.n_dims) / rope.factor / (2 * np.pi)
    angle = 2 * np.pi * (first + np.arange(len(x)))[:, None] * turns
    cos, sin = (rope.magnitude * f(angle)[:, None] for f in (np.cos, np.sin))
    a, b = (2 * pair, 2 * pair + 1) if rope.mode == "norm" else (pair, pair + rope.n_dims // 2)
    a, b = a + rope.offset, b + rope.offset
    y[..., a], y[..., b] = y[..., a] * cos - y[..., b] * sin, y[..., a] * sin + y[..., b] * cos
    return y


def attended(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int = 0, *, head_dim_v: int = 0
) -> np.ndarray:
    """Causal attention of q (tokens, heads, dim), the last tokens of k and v (kv heads, positions, dim or more).
    head_dim_v: of values; 0: as of keys."""
    tokens, n_head, dim = q.shape
    k, v = k[..., :dim], v[..., : head_dim_v or dim]
    k, v = (np.repeat(x.astype(np.float64), n_head // len(x), axis=0) for x in (k, v))
    score = np.einsum("thd,hpd->thp", q.astype(np.float64), k) * scale
    position = k.shape[1] - tokens + np.arange(tokens)
    behind = position[:, None, None] - np.arange(k.shape[1])
    score[np.broadcast_to((behind < 0) | (behind >= (window or k.shape[1])), score.shape)] = -np.inf
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    return np.einsum("thp,hpd->thd", weight, v).reshape(tokens, -1)


def caches(heads: Heads, filled: int) -> tuple[np.ndarray, np.ndarray]:
    """K and V of one layer, f16 (kv heads, n_ctx, width of head_dim): `filled` positions, the rest poison."""
    k, v = (normal(heads.n_head_kv, heads.n_ctx, width(heads.head_dim)).astype(np.float16) for _ in range(2))
    k[..., heads.head_dim :] = v[..., heads.head_dim :] = 0
    k[:, filled:] = v[:, filled:] = NAN
    return k, v
