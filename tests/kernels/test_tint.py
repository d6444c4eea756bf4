"""Kernels in Chromium's compiler, Tint: with subgroup matrices, which software adapters and naga lack, and with
functions of formats under other names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.template import wgsl
from llamaweb.operations.mul_mat_vecs import Product, mul_mat_vecs_kernel
from llamaweb.profile import DESKTOP, DeviceProfile, SubgroupMatrix
from tests.dawn import wrong
from tests.every_kernel import kind, models, tried

# What browsers say of NVIDIA's and Intel's GPUs, and of Apple's.
NVIDIA = replace(DESKTOP, f16=True, subgroup_matrices=(SubgroupMatrix("f16", "f32", 16, 16, 16),))
INTEL = replace(NVIDIA, subgroup_size=16, subgroup_matrices=(SubgroupMatrix("f16", "f32", 8, 16, 16),))
APPLE = replace(NVIDIA, packed_dot=False, subgroup_matrices=(SubgroupMatrix("f32", "f32", 8, 8, 8),))


def of_matrices(profile: DeviceProfile, every: int) -> list[Kernel]:
    """Of each kind and width of tile one, of one model in so many."""
    plans = (each for model in list(models())[::every] for each in tried(model, profile, "full", "matrix"))
    kernels = (kernel for plan in plans for kernel in plan.kernels if kernel.template == "mul_mat_matrix")
    return list({(kind(kernel), dict(kernel.constants)["tile_n"]): kernel for kernel in kernels}.values())


@pytest.mark.parametrize(("profile", "every"), [(NVIDIA, 1), (INTEL, 4), (APPLE, 4)], ids=["nvidia", "intel", "apple"])
def test_kernels_of_matrix_units_compile(profile: DeviceProfile, every: int) -> None:
    kernels = of_matrices(profile, every)
    assert {dict(kernel.constants)["epilogue"] for kernel in kernels} >= {"store", "add"}
    for kernel, said in zip(kernels, wrong([wgsl(kernel) for kernel in kernels]), strict=True):
        assert said is None, (kernel, said)


def test_products_in_one_dispatch_compile_in_every_format() -> None:
    products = (Product(40, 512, 0, 0), Product(7, 512, 512, 64, "tanh"))
    kernels = [mul_mat_vecs_kernel(products, (format,) * 2, DESKTOP).kernel for format in FORMATS.values()]
    assert wrong([wgsl(kernel) for kernel in kernels]) == [None] * len(FORMATS)


def test_tint_sees_a_matrix_of_another_type_and_one_that_is_not_a_subgroups() -> None:
    head = "enable f16; enable subgroups; enable chromium_experimental_subgroup_matrix;\n"
    head += "diagnostic(off, chromium.subgroup_matrix_uniformity); var<workgroup> tile: array<f16, 64>;\n"
    main = "@compute @workgroup_size(32) fn main() { let m: subgroup_matrix_left<%s, 8, 8> = %s; }"
    load = "subgroupMatrixLoad<subgroup_matrix_left<f16, 8, 8>, row_major>(&tile, 0u, 8u)"
    sound, type, side = wrong(
        [head + main % each for each in (("f16", load), ("f32", load), ("f16", load.replace("left", "right")))]
    )
    assert sound is None
    assert type is not None and "f32" in type
    assert side is not None and "subgroup_matrix_right" in side
