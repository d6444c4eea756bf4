"""Variants of the attention of one token: which fit a device, the default, and those worth timing. Pure.

widths: of the cache's rows (kernels/cache.py), multiples of 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llamaweb.kernels.cache import Widths
from llamaweb.kernels.kernel import Variant
from llamaweb.profile import DeviceProfile

_UNIT = 8  # values of a head that are asked for together


@dataclass(frozen=True)
class FlashAttnVec(Variant):
    """`workgroup` invocations, each with a position of a step, for `heads` query heads that share a key-value head, so
    that each key is read once for them. One asks for `pieces` of a key, of 8 values, before it computes with the first,
    and for pieces of `values` positions of V, the first of them before the key."""

    workgroup: int
    pieces: int = 8
    values: int = 4
    heads: int = 1

    def __str__(self) -> str:
        heads = f", {self.heads} heads" if self.heads > 1 else ""
        return f"workgroup {self.workgroup}, {self.pieces} pieces of a key, {self.values} values{heads}"

    def groups(self, widths: Widths) -> int:
        """Parts of the workgroup that sum values, each of other positions."""
        return self.workgroup // (widths.v // _UNIT)

    def parts(self, widths: Widths, subgroup: int) -> int:
        """Sums that are left of those of the groups, where the ones within a subgroup can be added by shuffles."""
        columns = widths.v // _UNIT
        return self.workgroup // subgroup if subgroup and subgroup % columns == 0 else self.groups(widths)

    def bytes(self, widths: Widths, subgroup: int) -> int:
        """Workgroup memory, with scales of a quantized cache."""
        token = (1 + 2 * self.heads) * widths.k + widths.v + (widths.k + widths.v) // 32
        weights = self.heads * (self.workgroup + self.groups(widths))
        partial = (self.heads + 1) * (self.workgroup // subgroup) if subgroup else self.workgroup
        sums = self.parts(widths, subgroup) * self.heads * widths.v
        return 4 * (token + weights + partial + 2 * self.heads + 1 + sums)

    def valid(self, widths: Widths, group: int, profile: DeviceProfile) -> bool:
        """group: query heads that share a key-value head."""
        return (
            group % self.heads == 0
            and widths.v // _UNIT <= self.workgroup <= profile.max_compute_invocations_per_workgroup
            and self.workgroup % (profile.subgroup_size or 1) == 0
            and self.bytes(widths, profile.subgroup_size) <= profile.max_compute_workgroup_storage_size
        )


def default(widths: Widths, group: int, splits: int, profile: DeviceProfile) -> FlashAttnVec:
    """On a CPU every invocation of a workgroup costs; on a GPU few barriers win. Where the context is split, there is
    work enough for two heads together; more ask for too many registers (measured on an H100 and an H200)."""
    of_long = (FlashAttnVec(128, values=8, heads=heads) for heads in (2, 1))
    sizes = (64, 128) if profile.software else (256, 128, 64)
    alone = next((v for v in map(FlashAttnVec, sizes) if v.valid(widths, group, profile)), FlashAttnVec(64))
    if splits == 1 or not profile.subgroup_size:
        return alone
    return next((v for v in of_long if v.valid(widths, group, profile)), alone)


def candidates(widths: Widths, group: int, splits: int, profile: DeviceProfile, mode: str) -> list[FlashAttnVec]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    full = mode == "full"
    pieces = [p for p in ((4, 8, 16) if full else (8, 16)) if p <= max(8, widths.k // _UNIT)]
    heads = sorted({1, 2, 3, 4} if full else {1, default(widths, group, splits, profile).heads})
    grid = product((64, 128, 256, 512) if full else (64, 128, 256), pieces, (4, 8, 16) if full else (8,), heads)
    found = [v for v in (FlashAttnVec(*each) for each in grid) if v.valid(widths, group, profile)]
    return list(dict.fromkeys([default(widths, group, splits, profile), *found]))
