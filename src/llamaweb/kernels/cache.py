"""Formats of the cache of keys and values, named as ggml's: one descriptor here, one file of wgsl/cache/ each.

K or V of one layer is n_head_kv times n_ctx rows of a head's values, heads first; in formats with scales, the f16
scales of all rows lie behind all quants. A row is filled up with zeros to a multiple of 8 values (`width`): attention
reads eight at a time. Where values are the first numbers of their keys, K alone is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llamaweb.errors import UnsupportedError

LARGEST_HEAD = 576


def width(head_dim: int) -> int:
    """Values of a row."""
    return -(-head_dim // 8) * 8


class Widths(NamedTuple):
    """Values of a row of keys, and of values."""

    k: int
    v: int


@dataclass(frozen=True)
class CacheFormat:
    """bits: of a value, without its scale. block: values that share an f16 scale; 0: there are none."""

    name: str
    bits: int
    block: int = 0

    def unit(self, head_dim: int) -> int:
        """Values that one invocation writes; scales come in whole words, so where it can be, two blocks."""
        return 8 if not self.block else 2 * self.block if head_dim % (2 * self.block) == 0 else self.block

    def scales_at(self, head_dim: int, rows: int) -> int:
        """Where the scales begin, in words."""
        return rows * width(head_dim) * self.bits // 32

    def bytes(self, head_dim: int, rows: int) -> int:
        words = rows * head_dim // self.unit(head_dim) if self.block else 0
        return 4 * (self.scales_at(head_dim, rows) + words)


CACHE_FORMATS = {
    f.name: f
    for f in (CacheFormat("f16", 16), CacheFormat("f32", 32), CacheFormat("q8_0", 8, 32), CacheFormat("q4_0", 4, 32))
}


@dataclass(frozen=True)
class Cache:
    """The cache of one layer for n_ctx tokens; of a ring, these are the last ones, position p in row p % rows. v: None:
    values are the first numbers of keys. head_dim_v: of values; 0: as of keys."""

    k: CacheFormat
    v: CacheFormat | None
    n_head_kv: int
    head_dim: int
    n_ctx: int
    ring: bool = False
    head_dim_v: int = 0

    @property
    def rows(self) -> int:
        """Rows of a head: a multiple of four, so that no two heads share a vec4 of scales."""
        return -(-self.n_ctx // 4) * 4

    @property
    def bytes(self) -> tuple[int, int]:
        """Of K and of V."""
        rows = self.n_head_kv * self.rows
        values = self.v.bytes(self.head_dim_v or self.head_dim, rows) if self.v else 0
        return self.k.bytes(self.head_dim, rows), values


def cache_format(name: str, head_dim: int = 32) -> CacheFormat:
    """The format of a name; raises UnsupportedError for an unknown one, for heads that no kernel takes, or for a format
    that does not divide them."""
    if head_dim % 2 or head_dim > LARGEST_HEAD:
        raise UnsupportedError(
            f"Attention heads of {head_dim} values are not supported; even sizes up to {LARGEST_HEAD} are."
        )
    format = CACHE_FORMATS.get(name.lower()) if isinstance(name, str) else None
    if format is None:
        raise UnsupportedError(f"The cache format {name!r} is not supported; use one of: {', '.join(CACHE_FORMATS)}.")
    if format.block and head_dim % format.block:
        raise UnsupportedError(
            f"A cache in {format.name} needs heads of a multiple of {format.block}, and the model's have {head_dim}; "
            "use f16."
        )
    return format
