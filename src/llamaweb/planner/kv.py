"""Where the cached keys and values of each layer lie: side by side, in a further buffer where one is full, and in
pieces of some heads each where a binding does not hold a layer's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb.kernels.cache import Cache
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Binding
from llamaweb.profile import DeviceProfile


@dataclass(frozen=True)
class CachePiece:
    """Keys and values of a layer's key-value heads `first` and on, `heads` of them; values may lie in the keys."""

    first: int
    heads: int
    keys: Binding
    values: Binding


@dataclass(frozen=True)
class CacheLayout:
    """Of each layer that has one: its cache, and the pieces it lies in. regions: the buffers, in bytes."""

    caches: dict[int, Cache]
    pieces: dict[int, tuple[CachePiece, ...]]
    regions: dict[str, int]

    @property
    def largest(self) -> int:
        """Bytes of the largest range that is bound."""
        bound = [b for pieces in self.pieces.values() for piece in pieces for b in (piece.keys, piece.values)]
        return max((b.size for b in bound), default=0)


def lay_out_caches(caches: dict[int, Cache], profile: DeviceProfile) -> CacheLayout:
    regions = {"kv.0": 0}

    def place(size: int) -> Binding:
        region = f"kv.{len(regions) - 1}"
        at = align(regions[region], profile.min_storage_buffer_offset_alignment)
        if at and at + size > profile.max_buffer_size:
            region, at = f"kv.{len(regions)}", 0
        regions[region] = at + size
        return Binding(region, at, size)

    most = min(profile.max_storage_buffer_binding_size, profile.max_buffer_size)
    pieces = {}
    for layer, cache in caches.items():
        parts = []
        for first, heads in _shares(cache, most):
            keys, values = replace(cache, n_head_kv=heads).bytes
            k = place(keys)
            parts.append(CachePiece(first, heads, k, place(values) if values else k))
        pieces[layer] = tuple(parts)
    return CacheLayout(caches, pieces, {region: size for region, size in regions.items() if size})


def _shares(cache: Cache, most: int) -> list[tuple[int, int]]:
    """The first head and the number of heads of each piece: as few pieces as bindings of `most` bytes allow, alike."""
    held = max(most // max(replace(cache, n_head_kv=1).bytes), 1)
    each = -(-cache.n_head_kv // -(-cache.n_head_kv // held))
    return [(first, min(each, cache.n_head_kv - first)) for first in range(0, cache.n_head_kv, each)]
