"""What a device decides, as one value. `gpu.device` reads it off an adapter; tests and `inspect` make their own."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from math import log2
from zlib import crc32

MOST_CORES = 128  # of which defaults know: a large GPU, on which they were measured, has as many or a few more


def about_cores(measured: float) -> int:
    """The nearest power of two, so that what is measured again is the same."""
    return 1 << min(max(round(log2(measured)), 0), int(log2(MOST_CORES))) if measured > 0 else 1


@dataclass(frozen=True)
class SubgroupMatrix:
    """A product that the matrix units of a subgroup compute: m x k by k x n, of `component` values added up as `result`
    (GPUSubgroupMatrixConfig)."""

    component: str
    result: str
    m: int
    n: int
    k: int


@dataclass(frozen=True)
class DeviceProfile:
    """Limits and features of a WebGPU adapter, named after them; the defaults are what every WebGPU device has.

    subgroup_size: the size of every subgroup, or 0 where it varies or there are none. packed_dot: WGSL has the dot
    product of 4x8-bit integers. f16: shaders may compute in f16. subgroup_matrices: an experimental feature. software:
    a CPU plays the GPU; the browser says so, or it was seen in what the adapter does (gpu/recognition.py). cores: about
    how many of them a GPU has, a power of two up to MOST_CORES, as `about_cores` gives it; which it is taken for where
    they were not counted.
    """

    name: str = "any WebGPU device"
    max_buffer_size: int = 256 << 20
    max_storage_buffer_binding_size: int = 128 << 20
    max_storage_buffers_per_shader_stage: int = 8
    max_compute_invocations_per_workgroup: int = 256
    max_compute_workgroup_storage_size: int = 16384
    max_compute_workgroups_per_dimension: int = 65535
    min_storage_buffer_offset_alignment: int = 256
    subgroup_size: int = 0
    packed_dot: bool = False
    timestamp_query: bool = False
    f16: bool = False
    subgroup_matrices: tuple[SubgroupMatrix, ...] = ()
    software: bool = False
    cores: int = MOST_CORES

    @property
    def key(self) -> str:
        """What is found out about a device is kept under this: adapters differ in it where no browser names them. What
        was counted is no part of it."""
        told = replace(self, cores=MOST_CORES)
        return f"{self.name} {crc32(repr(astuple(told)).encode()):08x}"


DESKTOP = DeviceProfile(
    name="a desktop GPU",
    max_buffer_size=4 << 30,
    max_storage_buffer_binding_size=(2 << 30) - 4,
    max_storage_buffers_per_shader_stage=10,
    subgroup_size=32,
    packed_dot=True,
)

# What `inspect` plans for, by name: a desktop GPU's usual limits, or what a phone may have no more than.
PROFILES = {"desktop": DESKTOP, "any": DeviceProfile()}
