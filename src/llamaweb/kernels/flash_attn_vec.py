"""Variants of the attention of one token: which fit a device, the default, and those worth timing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llamaweb.kernels.kernel import is_cpu
from llamaweb.profile import DeviceProfile

_UNIT = 8  # values of a head that are asked for together


@dataclass(frozen=True)
class FlashAttnVec:
    """`workgroup` invocations for a head. Each asks for `pieces` of a key, of 8 values, before it computes with the
    first, and for pieces of `values` positions of V."""

    workgroup: int
    pieces: int = 8
    values: int = 4

    def __str__(self) -> str:
        return f"workgroup {self.workgroup}, {self.pieces} pieces of a key, {self.values} values"

    def tile(self, head_dim: int) -> int:
        """Positions of a step."""
        return 1024 if head_dim <= 128 else 512

    def groups(self, head_dim: int) -> int:
        """Parts of the workgroup that sum values, each of other positions."""
        return self.workgroup // (head_dim // _UNIT)

    def bytes(self, head_dim: int) -> int:
        """Workgroup memory, with scales of a quantized cache."""
        token = 4 * (3 + 1) * head_dim + 4 * head_dim // 16
        return token + 4 * self.tile(head_dim) + 4 * self.workgroup + 4 * self.groups(head_dim) * head_dim

    def valid(self, head_dim: int, profile: DeviceProfile) -> bool:
        return (
            head_dim // _UNIT <= self.workgroup <= profile.max_compute_invocations_per_workgroup
            and self.bytes(head_dim) <= profile.max_compute_workgroup_storage_size
        )


def default(profile: DeviceProfile) -> FlashAttnVec:
    """On a CPU every invocation of a workgroup costs; on a GPU few barriers win."""
    return FlashAttnVec(64 if is_cpu(profile) else 256)


def candidates(head_dim: int, profile: DeviceProfile, mode: str) -> list[FlashAttnVec]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    full = mode == "full"
    pieces = [p for p in ((4, 8, 16) if full else (8, 16)) if p <= max(8, head_dim // _UNIT)]
    grid = product((64, 128, 256, 512) if full else (128, 256, 512), pieces, (2, 4, 8) if full else (4, 8))
    found = [v for v in (FlashAttnVec(*each) for each in grid) if v.valid(head_dim, profile)]
    return list(dict.fromkeys([default(profile), *found]))
