"""Where the cached keys and values of each layer lie: side by side, in a further buffer where one is full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamaweb.kernels.cache import Cache
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Binding
from llamaweb.profile import DeviceProfile


@dataclass(frozen=True)
class CacheLayout:
    """Of each layer: its cache, where its keys lie and where its values. regions: the buffers, in bytes."""

    caches: tuple[Cache, ...]
    keys: tuple[Binding, ...]
    values: tuple[Binding, ...]
    regions: dict[str, int]

    @property
    def largest(self) -> int:
        """Bytes of the largest of them: it is bound as one range."""
        return max(binding.size for binding in (*self.keys, *self.values))


def lay_out_caches(caches: Sequence[Cache], profile: DeviceProfile) -> CacheLayout:
    regions = {"kv.0": 0}
    placed: list[Binding] = []
    for size in (size for cache in caches for size in cache.bytes):
        region, at = f"kv.{len(regions) - 1}", regions[f"kv.{len(regions) - 1}"]
        if at and at + size > profile.max_buffer_size:
            region, at = f"kv.{len(regions)}", 0
        placed.append(Binding(region, at, size))
        regions[region] = align(at + size, profile.min_storage_buffer_offset_alignment)
    return CacheLayout(tuple(caches), tuple(placed[::2]), tuple(placed[1::2]), regions)
