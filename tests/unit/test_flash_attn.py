"""Which tiles of attention are valid on a device, and which is its default."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from llamaweb.kernels import flash_attn_vec as vec
from llamaweb.kernels import library
from llamaweb.kernels.flash_attn import FlashAttn, candidates, default
from llamaweb.kernels.template import wgsl
from llamaweb.profile import DESKTOP, DeviceProfile
from llamaweb.rope import Rope

CPU = replace(DESKTOP, software=True, subgroup_size=4, max_compute_workgroup_storage_size=32 << 10)
LARGE = replace(DESKTOP, max_compute_workgroup_storage_size=48 << 10)
PROFILES = {"any": DeviceProfile(), "cpu": CPU, "large": LARGE}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("head_dim", range(8, 513, 8))
def test_every_head_has_a_tile_that_fits_the_device(profile: DeviceProfile, head_dim: int) -> None:
    for n_tokens in (2, 100, 512):
        first = default(head_dim, 12, n_tokens, profile)
        auto, full = (candidates(head_dim, 12, n_tokens, profile, mode) for mode in ("auto", "full"))
        assert first == auto[0] == full[0]
        assert set(auto) <= set(full) and len(set(full)) == len(full)
        for v in full:
            assert v.valid(head_dim, profile)
            assert v.bytes(head_dim) <= profile.max_compute_workgroup_storage_size and v.workgroup <= 256
            assert v.keys % v.rows(head_dim) == 0 and head_dim % v.depth == 0
            assert 4 * v.wk * v.parts(head_dim) >= head_dim


@pytest.mark.parametrize("size", [0, 4, 8, 16, 32, 64])
def test_every_head_has_a_variant_for_a_token_that_fits_the_device(size: int) -> None:
    for profile in (replace(DeviceProfile(), subgroup_size=size), replace(LARGE, subgroup_size=size)):
        for head_dim, group, splits in product(range(8, 513, 8), (1, 3, 7, 12), (1, 16)):
            tried = vec.candidates(head_dim, group, splits, profile, "full")
            assert tried[0] == vec.default(head_dim, group, splits, profile)
            assert all(v.valid(head_dim, group, profile) for v in tried)


def test_few_heads_are_given_smaller_tiles() -> None:
    assert default(64, 32, 512, LARGE).queries > default(64, 9, 512, LARGE).queries


def test_a_tile_that_divides_into_no_invocations_is_not_valid() -> None:
    good = FlashAttn(32, 32, 32, 8, 8)
    assert good.valid(64, LARGE)
    changes: list[dict[str, int]] = [
        {"keys": 36},
        {"queries": 36},
        {"depth": 24},
        {"depth": 4},
        {"wq": 2},
        {"keys": 512},
    ]
    for change in changes:
        assert not replace(good, **change).valid(64, LARGE), change


@pytest.mark.parametrize("head_dim", [8, 24, 64, 80, 128, 256, 320, 512])
def test_workgroup_memory_is_what_the_shader_declares(head_dim: int) -> None:
    attention = library.Attention(Rope("norm", 8), head_dim, 4, 2, 256, 1.0)
    for v in candidates(head_dim, 4, 512, LARGE, "full"):
        text = wgsl(library.flash_attn(attention, 512, LARGE, variant=v).kernel)
        tokens, wk = v.queries // v.wq, v.wk
        some = 4 * min(tokens, 4)
        row = -(-tokens // 4) * some * v.wq + some
        sizes = {
            f"queries: array<QueryRow, {head_dim // 4}>": head_dim // 4 * 16 * (v.queries + 1),
            f"keys: array<KeyRow, {v.depth // 4}>": v.depth // 4 * 16 * (v.keys + 1),
            f"values: array<array<array<vec4<f32>, {wk}>, {v.parts(head_dim)}>, {v.rows(head_dim)}>": 16
            * (wk * v.parts(head_dim) * v.rows(head_dim)),
            f"weights: array<WeightRow, {v.keys}>": v.keys * row,
            f"of_lanes: array<WeightRow, {wk}>": wk * row,
        }
        assert all(f"var<workgroup> {declared};" in text for declared in sizes)
        assert sum(sizes.values()) == v.bytes(head_dim)
