"""Variants of the attention of one token: which fit a device, the default, and those worth timing. Pure.

head_dim is here what a row of the cache has (kernels/cache.py): a multiple of 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llamaweb.profile import DeviceProfile

_UNIT = 8  # values of a head that are asked for together


@dataclass(frozen=True)
class FlashAttnVec:
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

    def groups(self, head_dim: int) -> int:
        """Parts of the workgroup that sum values, each of other positions."""
        return self.workgroup // (head_dim // _UNIT)

    def parts(self, head_dim: int, subgroup: int) -> int:
        """Sums that are left of those of the groups, where the ones within a subgroup can be added by shuffles."""
        columns = head_dim // _UNIT
        return self.workgroup // subgroup if subgroup and subgroup % columns == 0 else self.groups(head_dim)

    def bytes(self, head_dim: int, subgroup: int) -> int:
        """Workgroup memory, with scales of a quantized cache."""
        token = (2 + 2 * self.heads) * head_dim + head_dim // 16
        weights = self.heads * (self.workgroup + self.groups(head_dim))
        partial = (self.heads + 1) * (self.workgroup // subgroup) if subgroup else self.workgroup
        sums = self.parts(head_dim, subgroup) * self.heads * head_dim
        return 4 * (token + weights + partial + 2 * self.heads + 1 + sums)

    def valid(self, head_dim: int, group: int, profile: DeviceProfile) -> bool:
        """group: query heads that share a key-value head."""
        return (
            group % self.heads == 0
            and head_dim // _UNIT <= self.workgroup <= profile.max_compute_invocations_per_workgroup
            and self.workgroup % (profile.subgroup_size or 1) == 0
            and self.bytes(head_dim, profile.subgroup_size) <= profile.max_compute_workgroup_storage_size
        )


def default(head_dim: int, group: int, splits: int, profile: DeviceProfile) -> FlashAttnVec:
    """On a CPU every invocation of a workgroup costs; on a GPU few barriers win. Where the context is split, there is
    work enough for heads to be taken together (on an H100 two are best, and four ask for too many registers)."""
    together = (FlashAttnVec(128, values=8, heads=heads) for heads in (2, 3))
    sizes = (64,) if profile.software else (256, 128, 64)
    alone = next((v for v in map(FlashAttnVec, sizes) if v.valid(head_dim, group, profile)), FlashAttnVec(64))
    if splits == 1 or not profile.subgroup_size:
        return alone
    return next((v for v in together if v.valid(head_dim, group, profile)), alone)


def candidates(head_dim: int, group: int, splits: int, profile: DeviceProfile, mode: str) -> list[FlashAttnVec]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    full = mode == "full"
    pieces = [p for p in ((4, 8, 16) if full else (8, 16)) if p <= max(8, head_dim // _UNIT)]
    heads = sorted({1, 2, 3, 4} if full else {1, default(head_dim, group, splits, profile).heads})
    grid = product((64, 128, 256, 512) if full else (64, 128, 256), pieces, (4, 8, 16) if full else (8,), heads)
    found = [v for v in (FlashAttnVec(*each) for each in grid) if v.valid(head_dim, group, profile)]
    return list(dict.fromkeys([default(head_dim, group, splits, profile), *found]))
