"""Which variants of a batch's products a device can run, and how they are kept."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

import pytest

from llamaweb.ggml import GGMLType
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.mul_mat import PRECISIONS, MulMat, default_tile, mul_mat, works
from llamaweb.kernels.template import wgsl
from llamaweb.kernels.tuner import Shape, to_json
from llamaweb.planner.variants import candidates, from_json
from llamaweb.profile import DESKTOP, DeviceProfile, SubgroupMatrix

Q4_K, IQ4_NL = (FORMATS[GGMLType[name]] for name in ("Q4_K", "IQ4_NL"))
TENSOR = replace(DESKTOP, f16=True, subgroup_matrices=(SubgroupMatrix("f16", "f32", 16, 16, 16),))
APPLE = replace(DESKTOP, packed_dot=False, subgroup_matrices=(SubgroupMatrix("f32", "f32", 8, 8, 8),))
INTEGERS = replace(DESKTOP, subgroup_matrices=(SubgroupMatrix("i8", "i32", 16, 16, 32),))
LARGE = tuple(SubgroupMatrix("f16", "f32", *size) for size in ((32, 32, 16), (64, 8, 16), (16, 4, 16)))
MIXED = replace(TENSOR, subgroup_matrices=(*LARGE, SubgroupMatrix("f16", "f32", 8, 16, 16)))
KINDS = {
    "any": (DeviceProfile(), {"f32"}),
    "desktop": (DESKTOP, {"f32", "packed"}),
    "tensor cores": (TENSOR, {"f32", "packed", "f16", "matrix"}),
    "no f16": (replace(TENSOR, f16=False), {"f32", "packed"}),
    "apple": (APPLE, {"f32", "matrix"}),
    "tensor cores of other sizes, too": (MIXED, {"f32", "packed", "f16", "matrix"}),
    "integers alone": (INTEGERS, {"f32", "packed"}),
}
BY_DEVICE = pytest.mark.parametrize(("profile", "kinds"), KINDS.values(), ids=KINDS)
SIZES = {"f16": 2, "f32": 4, "u32": 4}


def tried(profile: DeviceProfile, mode: str, epilogue: str = "swiglu", format: str = "q4_k") -> list[MulMat]:
    found = candidates(Shape("mul_mat", format, 2048, 16384, epilogue, n_tokens=512), profile, mode)
    assert all(isinstance(v, MulMat) for v in found)
    return [v for v in found if isinstance(v, MulMat)]


@BY_DEVICE
@pytest.mark.parametrize("mode", ["auto", "full"])
def test_a_devices_features_decide_the_kinds_that_are_tried(profile: DeviceProfile, kinds: set[str], mode: str) -> None:
    found = tried(profile, mode)
    assert {v.kind for v in found} == kinds
    assert found[0] == default_tile(Q4_K, 2048, 16384, 512, profile) and len(set(found)) == len(found)
    assert {v.kind for v in tried(profile, mode, format="iq4_nl")} == kinds - {"packed"}  # no weights as bytes


@BY_DEVICE
@pytest.mark.parametrize("epilogue", ["swiglu", "add"])
def test_what_is_tried_fits_the_device_as_its_shader_declares(
    profile: DeviceProfile, kinds: set[str], epilogue: str
) -> None:
    for v in tried(profile, "full", epilogue):
        assert works(v, Q4_K, epilogue, profile)
        shader = wgsl(mul_mat(Q4_K, 2048, 16384, 512, profile, epilogue=epilogue, variant=v).kernel)
        size = re.search(r"@workgroup_size\((\d+)(?:, (\d+))?\)", shader)
        assert size and prod(int(n) for n in size.groups() if n) <= 256
        declared = re.findall(r"var<workgroup> \w+: array<(?:vec(\d)<)?(\w+)>?, (\d+)>", shader)
        assert len(declared) == shader.count("var<workgroup>") > 0
        used = sum({"": 1, "3": 4}.get(n, int(n or 1)) * SIZES[type] * int(count) for n, type, count in declared)
        assert used <= profile.max_compute_workgroup_storage_size, v


@pytest.mark.parametrize(("precision", "bits"), PRECISIONS.items())
@pytest.mark.parametrize("mode", ["auto", "full"])
def test_variants_have_the_bits_of_the_precision_and_their_choice_is_kept_apart(
    precision: str, bits: int, mode: str
) -> None:
    shape = Shape("mul_mat", "q4_k", 2048, 16384, "store", n_tokens=512, precision=precision)
    packed = [v for v in candidates(shape, DESKTOP, mode) if isinstance(v, MulMat) and v.kind == "packed"]
    assert packed and {v.bits for v in packed} == {bits}
    assert from_json(to_json({shape: packed[0]}), [shape], DESKTOP) == {shape: packed[0]}
    for other in PRECISIONS.keys() - {precision}:
        assert not from_json(to_json({shape: packed[0]}), [replace(shape, precision=other)], DESKTOP)


def test_extensions_are_enabled_where_a_variant_needs_them_alone() -> None:
    for kind, enabled in {
        "f32": set(),
        "packed": {"packed_4x8_integer_dot_product"},
        "f16": {"f16"},
        "matrix": {"f16", "subgroups", "chromium_experimental_subgroup_matrix"},
    }.items():
        v = next(v for v in tried(TENSOR, "auto") if v.kind == kind)
        shader = wgsl(mul_mat(Q4_K, 2048, 16384, 512, TENSOR, epilogue="swiglu", variant=v).kernel)
        assert set(re.findall(r"^(?:enable|requires) (\w+);", shader, re.MULTILINE)) == enabled


def test_a_packed_product_falls_back_on_one_that_reads_the_same_and_needs_no_feature() -> None:
    launch = mul_mat(Q4_K, 2048, 16384, 512, DESKTOP)
    assert launch.plain and launch.plain.plain is None
    assert launch.plain.kernel.slots == launch.kernel.slots
    assert "requires" in wgsl(launch.kernel) and "requires" not in wgsl(launch.plain.kernel)


def test_choices_of_every_kind_are_kept_as_json() -> None:
    product = Shape("mul_mat", "q4_k", 2048, 16384, "add", n_tokens=512)
    attention = Shape("flash_attn", "f16/f16", 64, 32, "store", n_tokens=512)
    chosen = {shape: candidates(shape, DESKTOP, "full")[2] for shape in (product, attention)}
    assert isinstance(chosen[product], MulMat) and isinstance(chosen[attention], FlashAttn)
    assert from_json(to_json(chosen), [product, attention], DESKTOP) == chosen
