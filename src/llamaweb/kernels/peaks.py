"""Plain kernels that show what a device can do at best: bytes and operations a second, and an empty dispatch's time."""

from __future__ import annotations

from llamaweb.kernels.kernel import Kernel, Launch, Slot
from llamaweb.profile import DeviceProfile

_CHAINS = 8
_WORKGROUP = 256


def read(profile: DeviceProfile) -> tuple[Launch, int]:
    """A kernel that reads slot src once, and how many bytes src should have: more than caches hold."""
    size = (32 if profile.software else 512) << 20
    size = min(size, profile.max_storage_buffer_binding_size // 16 * 16, profile.max_buffer_size // 16 * 16)
    slots = (Slot("src", "vec4<u32>", "read"), Slot("y", "u32", "read_write"))
    kernel = Kernel("peak_read", (("workgroup", _WORKGROUP),), slots)
    return Launch(kernel, (64 if profile.software else 4096, 1, 1)), size


def fma(profile: DeviceProfile) -> tuple[Launch, int]:
    """A kernel of nothing but float32 multiply-adds, and how many operations it makes."""
    count, workgroups = (256, 64) if profile.software else (1024, 8192)
    return _fma(count, workgroups), 2 * 4 * _CHAINS * count * workgroups * _WORKGROUP


def dispatch() -> Launch:
    """A kernel that does next to nothing, and waits for the one before it."""
    return Launch(Kernel("peak_dispatch", (), (Slot("y", "u32", "read_write"),)), (1, 1, 1))


def steps(barriers: bool) -> Launch:
    """A kernel of arithmetic in steps, or the same with the invocations of a workgroup waiting for each other after
    each; there is arithmetic enough to hide that on a GPU."""
    return _fma(64, 256, barriers)


def busy(workgroups: int) -> Launch:
    """So many workgroups, each of arithmetic enough for every lane of a GPU's core."""
    return _fma(256, workgroups)


def _fma(count: int, workgroups: int, barriers: bool = False) -> Launch:
    constants = (("barriers", barriers), ("chains", _CHAINS), ("steps", count), ("workgroup", _WORKGROUP))
    return Launch(Kernel("peak_fma", constants, (Slot("y", "u32", "read_write"),)), (workgroups, 1, 1))
