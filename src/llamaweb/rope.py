"""Rotary position embedding (ggml_rope_ext): its parameters, and the table of angles the kernels read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from llamaweb.errors import ModelFileError


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv:2309.00071): interpolation over `n_ctx_orig`, ramped between two dimensions."""

    n_ctx_orig: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Rope:
    """mode "norm" rotates neighbours (2i, 2i + 1), "neox" halves (i, i + n_dims / 2), of the n_dims numbers of a head
    from number `offset` on.

    factors: name of the file's tensor that divides the frequencies, (n_dims / 2,), or None; long: that of contexts of
    more than `n_ctx_orig` tokens. attn_factor: of sine and cosine.
    """

    mode: str
    n_dims: int
    base: float = 10000.0
    factor: float = 1.0
    yarn: Yarn | None = None
    factors: str | None = None
    long: str | None = None
    n_ctx_orig: int = 0
    attn_factor: float = 1.0
    offset: int = 0

    @property
    def magnitude(self) -> float:
        """What sine and cosine are multiplied by."""
        return self.attn_factor * (1.0 if self.yarn is None else 1.0 + 0.1 * math.log(max(self.factor, 1.0)))

    @property
    def tensors(self) -> set[str]:
        """Of the file, that it may read."""
        return {name for name in (self.factors, self.long) if name}

    def in_context(self, n_ctx: int) -> Rope:
        """The same with the factors for so many tokens."""
        return replace(self, factors=self.long if n_ctx > self.n_ctx_orig and self.long else self.factors)

    @property
    def still(self) -> Rope:
        """A rotation by no angle, of layers that tell no positions apart; in the same kernels."""
        return replace(self, factor=math.inf, yarn=None, factors=None, long=None, attn_factor=1.0)


def phases(rope: Rope, factors: np.ndarray | None = None) -> np.ndarray:
    """The angle of one position step for each pair, in turns times 2**32: uint32 (n_dims / 2,).

    A position times its phase, wrapped at 32 bits, is the exact fraction of a turn, so that angles stay precise at any
    context length, where float32 products lose digits.
    """
    half = rope.n_dims // 2
    pair = np.arange(half, dtype=np.float64)
    frequency = rope.base ** (-2 * pair / rope.n_dims)
    if factors is not None:
        if factors.shape != (half,) or not np.all(np.isfinite(factors)) or np.any(factors <= 0):
            raise ModelFileError(f"{rope.factors} does not hold {half} positive numbers; the file is damaged.")
        frequency = frequency / factors
    interpolated = frequency / rope.factor
    if rope.yarn is not None:
        low, high = _ramp(rope, rope.yarn)
        own = 1.0 - np.clip((pair - low) / max(0.001, high - low), 0.0, 1.0)
        interpolated = interpolated * (1.0 - own) + frequency * own
    return (np.round(interpolated / (2 * math.pi) * 2**32).astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _ramp(rope: Rope, yarn: Yarn) -> tuple[float, float]:
    """First and last dimension of the ramp between the model's own and the interpolated frequencies."""

    def dimension(beta: float) -> float:
        return rope.n_dims * math.log(yarn.n_ctx_orig / (beta * 2 * math.pi)) / (2 * math.log(rope.base))

    return max(0.0, math.floor(dimension(yarn.beta_fast))), min(rope.n_dims - 1.0, math.ceil(dimension(yarn.beta_slow)))
