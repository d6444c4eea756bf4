"""naga, the WGSL compiler of Firefox, in CPython: PyPI's wgpu on Mesa's software Vulkan."""

from __future__ import annotations

from typing import Any

import wgpu

from llamaweb.kernels.kernel import Kernel
from llamaweb.profile import DeviceProfile
from tests.matrix_units import played

LANES = 8  # of a subgroup of Mesa's
# What naga has without knowing its name: the built-ins are there for a device with wgpu's own feature.
UNKNOWN = "enable subgroups;\n"
# What every device has, and what Mesa's has
LEAST = DeviceProfile()
LAVAPIPE = DeviceProfile(
    max_storage_buffers_per_shader_stage=10,
    max_compute_workgroup_storage_size=32768,
    subgroup_size=LANES,
    packed_dot=True,
)


class Naga:
    """A device with a profile's features and limits, and no others: it refuses what such a device would."""

    def __init__(self, profile: DeviceProfile) -> None:
        adapters = wgpu.gpu.enumerate_adapters_sync()
        software = [a for a in adapters if (a.info["backend_type"], a.info["adapter_type"]) == ("Vulkan", "CPU")]
        assert software, "There is no software Vulkan; install Mesa's (Debian: `apt-get install mesa-vulkan-drivers`)."
        features = ["subgroup", "subgroup-barrier"] if profile.subgroup_size else []
        limits = {
            "max-storage-buffers-per-shader-stage": profile.max_storage_buffers_per_shader_stage,
            "max-compute-invocations-per-workgroup": profile.max_compute_invocations_per_workgroup,
            "max-compute-workgroup-size-x": profile.max_compute_invocations_per_workgroup,
            "max-compute-workgroup-storage-size": profile.max_compute_workgroup_storage_size,
        }
        features += ["shader-f16"] if profile.f16 else []
        self.device: Any = software[0].request_device_sync(required_features=features, required_limits=limits)

    def module(self, text: str) -> Any:
        """Parses and checks a shader, with matrix units played; raises wgpu.GPUError with naga's words."""
        text = played(text, LANES) if "subgroup_matrix" in text else text
        return self.device.create_shader_module(code=text.replace(UNKNOWN, ""))

    def pipeline(self, kernel: Kernel, text: str) -> Any:
        """Compiles a kernel to its end, within the device's limits."""
        types = {"read": "read-only-storage", "read_write": "storage"}
        entries = [
            {"binding": i, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": types[slot.access]}}
            for i, slot in enumerate(kernel.slots)
        ]
        group = self.device.create_bind_group_layout(entries=entries)
        layout = self.device.create_pipeline_layout(bind_group_layouts=[group])
        compute = {"module": self.module(text), "entry_point": "main"}
        return self.device.create_compute_pipeline(layout=layout, compute=compute)
