"""Every kernel's text in Firefox's compiler, naga; the browser tests run them in Chromium's.

Each kernel is looked at once, whatever devices it is for. No profile has subgroup matrices, which are Chromium's own:
these are in test_tint.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any, NamedTuple

import pytest
import wgpu

from llamaweb.graph import VECTORS
from llamaweb.kernels import library, peaks
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.kernel import Kernel, Slot
from llamaweb.kernels.template import wgsl
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.profile import DESKTOP, DeviceProfile
from tests.every_kernel import kind, models, of_formats, of_heads, plan, tried
from tests.naga import Naga
from tests.shaders import workgroup_bytes

LEAST = DeviceProfile()
LARGE = {"max_compute_invocations_per_workgroup": 1024, "max_compute_workgroup_storage_size": 32768}
PROFILES = {
    "least": LEAST,
    "phone with the packed dot": replace(LEAST, packed_dot=True),
    "phone with f16": replace(LEAST, f16=True),
    "software, 4 lanes": replace(DESKTOP, software=True, subgroup_size=4),
    "software, Firefox's": replace(LEAST, software=True, packed_dot=True, f16=True, **LARGE),
    "8 lanes": replace(DESKTOP, subgroup_size=8),
    "16 lanes": replace(DESKTOP, subgroup_size=16),
    "16 lanes, f16, large": replace(DESKTOP, subgroup_size=16, f16=True, **LARGE),
    "desktop": DESKTOP,
    "32 lanes, nothing else": replace(LEAST, subgroup_size=32),
    "32 lanes, f16": replace(DESKTOP, f16=True),
    "32 lanes, f16, large": replace(DESKTOP, f16=True, **LARGE),
    "64 lanes": replace(DESKTOP, subgroup_size=64),
    "64 lanes, f16, no packed dot": replace(DESKTOP, subgroup_size=64, f16=True, packed_dot=False),
    "lanes that vary": replace(DESKTOP, subgroup_size=0, f16=True),
}
BY_PROFILE = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def share(profile: DeviceProfile) -> list[tuple[GGUFFile, dict[str, Any]]]:
    """Of the models, a device's share: what takes long is done once for each model, each on another device."""
    return list(models())[list(PROFILES.values()).index(profile) :: len(PROFILES)]


@cache
def naga(f16: bool, lanes: bool) -> Naga:
    """A device with these features and no others."""
    return Naga(replace(LEAST, f16=f16, subgroup_size=32 if lanes else 0))


class Needs(NamedTuple):
    """What a kernel asks of a device, and naga's word that it is sound there."""

    features: frozenset[str]
    slots: int
    invocations: int
    memory: int
    module: Future[Any]


NAGA = ThreadPoolExecutor(max_workers=2)  # which parse texts while Python makes the next


@cache
def needs(kernel: Kernel) -> Needs:
    """That of a kernel, on a device with the features that it asks for alone."""
    text = wgsl(kernel)
    features = frozenset(re.findall(r"^\s*enable (.*);", text, re.MULTILINE))
    module = NAGA.submit(naga("f16" in features, "subgroups" in features).module, text)
    if any(name in text for name in ("packed_4x8_integer_dot_product", "dot4I8Packed", "dot4U8Packed", "pack4x")):
        features |= {"packed dot"}
    (size,) = re.findall(r"@workgroup_size\(([\d, ]+)\)", text)
    return Needs(features, len(kernel.slots), prod(map(int, size.split(","))), workgroup_bytes(text), module)


def check(kernels: Iterable[Kernel], profile: DeviceProfile) -> None:
    """A device is asked for no feature that it has not, and for no more than it allows."""
    there = {"f16": profile.f16, "subgroups": profile.subgroup_size > 0, "packed dot": profile.packed_dot}
    for kernel, asked in [(kernel, needs(kernel)) for kernel in kernels]:
        assert asked.module.result(), kernel
        assert all(there[feature] for feature in asked.features), kernel
        assert asked.slots <= profile.max_storage_buffers_per_shader_stage, kernel
        assert asked.invocations <= profile.max_compute_invocations_per_workgroup, kernel
        assert asked.memory <= profile.max_compute_workgroup_storage_size, kernel


@BY_PROFILE
def test_every_kernel_of_every_format_is_sound_on_a_device(profile: DeviceProfile) -> None:
    """Of the sizes of heads and their caches, a third on each device."""
    heads = list(of_heads())[list(PROFILES.values()).index(profile) % 3 :: 3]
    found = dict.fromkeys(kernel for model in (*of_formats(), *heads) for kernel in plan(model, profile).kernels)
    check(found, profile)
    assert {kernel.template for kernel in found} >= {"get_rows", "mul_mat", "mul_mat_vec", "flash_attn"}
    assert {dict(kernel.constants).get("format") for kernel in found} >= {f.name for f in FORMATS.values()}


COMPILED: set[tuple] = set()


@BY_PROFILE
def test_kernels_compile_to_their_end_within_the_limits_of_a_device(profile: DeviceProfile) -> None:
    """Of each kind one, on one of the devices."""
    device = Naga(profile)
    for kernel in dict.fromkeys(kernel for model in share(profile) for kernel in plan(model, profile).kernels):
        if kind(kernel) not in COMPILED:
            device.pipeline(kernel, wgsl(kernel))
            COMPILED.add(kind(kernel))


@BY_PROFILE
def test_every_variant_that_tuning_tries_is_sound(profile: DeviceProfile) -> None:
    """All of a model's on every eighth device, and those that a load tries of each."""
    mine = share(profile)
    modes = ["full" if list(PROFILES.values()).index(profile) % 8 == 3 else "auto", *["auto"] * len(mine)]
    found = (each for model, mode in zip(mine, modes, strict=False) for each in tried(model, profile, mode))
    check(dict.fromkeys(kernel for each in found for kernel in each.kernels), profile)


@pytest.mark.parametrize("profile", [LEAST, DESKTOP], ids=["least", "desktop"])
def test_kernels_outside_of_plans_compile(profile: DeviceProfile) -> None:
    device = Naga(profile)
    launches = [library.repack(f, 1) for f in FORMATS.values() if f.repacked]
    launches += [library.find_nan(f, 100) for f in FORMATS.values()]
    launches += [library.vector(type, 1, lane_order=lanes) for type in VECTORS for lanes in (False, True)]
    launches += [library.pad_rows(f, 1) for f in FORMATS.values() if not f.repacked]
    launches += [peaks.read(profile)[0], peaks.fma(profile)[0], peaks.dispatch(), peaks.steps(False), peaks.steps(True)]
    check([launch.kernel for launch in launches], profile)
    for launch in launches:
        device.pipeline(launch.kernel, wgsl(launch.kernel))


def test_naga_sees_a_wrong_type_a_missing_feature_and_what_is_beyond_limits() -> None:
    least, lanes = Naga(LEAST), Naga(DESKTOP)
    shader = "@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { %s }"
    with pytest.raises(wgpu.GPUError, match="expected to be `f32`, but got `u32`"):
        least.module(shader % "let x: f32 = i;")
    with pytest.raises(wgpu.GPUError, match="SUBGROUP"):
        least.module("enable subgroups;\n" + shader % "let x = subgroupAdd(i);")
    lanes.module("enable subgroups;\n" + shader % "let x = subgroupAdd(i);")
    with pytest.raises(wgpu.GPUError, match="expected to be `f32`, but got `u32`"):
        lanes.module("enable subgroups;\n" + shader % "let x: f32 = subgroupAdd(i);")
    with pytest.raises(wgpu.GPUError, match="512 total invocations"):
        least.pipeline(Kernel("x", (), ()), "@compute @workgroup_size(512) fn main() {}")
    nine = tuple(Slot(f"slot{i}", "u32", "read") for i in range(9))
    with pytest.raises(wgpu.GPUError, match="limit is 8, count was 9"):
        least.pipeline(Kernel("x", (), nine), "@compute @workgroup_size(64) fn main() {}")
