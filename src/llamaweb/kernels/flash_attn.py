"""Variants of the attention of a batch: which tiles fit a device, the default, and those worth timing. Pure.

widths: of the cache's rows (kernels/cache.py), multiples of 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from llamaweb.kernels.cache import Widths
from llamaweb.kernels.kernel import Variant
from llamaweb.profile import DeviceProfile

# Tokens, positions, and invocations along both; the first that is valid and fills the device is the default.
_GPU = (
    *((64, 32, 16, 8), (32, 64, 8, 16), (32, 32, 8, 8)),
    *((16, 64, 8, 16), (16, 64, 4, 16), (8, 64, 4, 16), (16, 32, 4, 8), (8, 32, 2, 16)),
)
_CPU = ((16, 16, 8, 4), (8, 16, 8, 4), *_GPU)  # every invocation costs at a barrier, and many results to compile
_LARGE_HEADS = ((4, 32, 4, 16),)  # where none of these fits: heads of up to 576 in 16 KiB
_FULL = 1.5  # workgroups for each core, that fill a GPU
_MOST_HELD = 144  # numbers of an invocation: with more there are no registers for them, and compilers take minutes


@dataclass(frozen=True)
class FlashAttn(Variant):
    """A tile of `queries` tokens by `keys` positions, computed by `wq` times `wk` invocations.

    depth: how many values of each key are in workgroup memory at once; values (V) come in as many bytes. ahead: the
    next keys and values are asked for before the present ones are computed with.
    """

    queries: int
    keys: int
    depth: int
    wq: int
    wk: int
    ahead: bool = True

    def __str__(self) -> str:
        how = f"{self.wq}×{self.wk} invocations, {self.depth} deep{', ahead' if self.ahead else ''}"
        return f"tile {self.queries}×{self.keys}, {how}"

    @property
    def workgroup(self) -> int:
        return self.wq * self.wk

    def rows(self, widths: Widths) -> int:
        """Rows of V in workgroup memory at once; they divide the keys."""
        rows = self.keys
        while rows % 2 == 0 and rows * widths.v > self.keys * self.depth:
            rows //= 2
        return rows

    def parts(self, widths: Widths) -> int:
        """vec4 of the output that an invocation holds for each of its tokens."""
        return -(-widths.v // 4 // self.wk)

    def bytes(self, widths: Widths) -> int:
        """Workgroup memory; rows are padded against bank conflicts."""
        tokens = 4 * (self.queries + min(self.queries // self.wq, 4))  # a number for each token
        queries = 4 * widths.k * (self.queries + 1)
        keys = 4 * self.depth * (self.keys + 1)
        values = 16 * self.rows(widths) * self.parts(widths) * self.wk
        return queries + keys + values + tokens * (self.keys + self.wk)

    def valid(self, widths: Widths, profile: DeviceProfile) -> bool:
        """Whether the kernel can be made of it for a device."""
        return (
            self.queries // self.wq in (1, 2, 4, 8)
            and self.queries % self.wq == self.keys % self.wk == widths.k % self.depth == self.depth % 8 == 0
            and self.queries // self.wq * (self.keys // self.wk + 4 * self.parts(widths)) <= _MOST_HELD
            and self.workgroup <= profile.max_compute_invocations_per_workgroup
            and self.bytes(widths) <= profile.max_compute_workgroup_storage_size
        )


def default(widths: Widths, n_head: int, n_tokens: int, profile: DeviceProfile) -> FlashAttn:
    """The largest tile whose workgroups still fill the device: each key and value then serves the most tokens."""
    tiles = _deepest(_CPU if profile.software else _GPU, widths, profile)
    full = (v for v in tiles if profile.software or -(-n_tokens // v.queries) * n_head >= _FULL * profile.cores)
    return next(full, min(tiles, key=lambda v: (abs(v.queries - 16), tiles.index(v))))


def candidates(widths: Widths, n_head: int, n_tokens: int, profile: DeviceProfile, mode: str) -> list[FlashAttn]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    first = default(widths, n_head, n_tokens, profile)
    found = _deepest(_GPU, widths, profile)
    if mode == "full":
        each = product((64, 32, 16, 8), (4, 2), (8, 16), (4, 2))
        grid = [(q, wk * keys, q // tokens, wk) for q, tokens, wk, keys in each if 32 <= q // tokens * wk <= 256]
        found += [replace(v, ahead=False) for v in found] + _deepest(grid, widths, profile)
    # What any device runs is there for a device on which all others are wrong.
    return list(dict.fromkeys([first, *found, default(widths, n_head, n_tokens, DeviceProfile())]))


def _deepest(tiles: Iterable[tuple[int, int, int, int]], widths: Widths, profile: DeviceProfile) -> list[FlashAttn]:
    """Variants of the tiles that are valid, each of the most depth that there is memory for."""
    depths = [d for d in range(widths.k, 7, -8) if widths.k % d == 0]

    def fitting(tiles: Iterable[tuple[int, int, int, int]]) -> list[FlashAttn]:
        each = ((FlashAttn(q, k, d, wq, wk) for d in depths) for q, k, wq, wk in tiles)
        return [v for of_tile in each if (v := next((v for v in of_tile if v.valid(widths, profile)), None))]

    return fitting(tiles) or fitting(_LARGE_HEADS)
