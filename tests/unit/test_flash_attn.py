"""Which tiles of attention are valid on a device, and which is its default."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from llamaweb.kernels import flash_attn_vec as vec
from llamaweb.kernels import library
from llamaweb.kernels.cache import LARGEST_HEAD, Widths
from llamaweb.kernels.flash_attn import FlashAttn, candidates, default
from llamaweb.kernels.template import wgsl
from llamaweb.profile import DESKTOP, DeviceProfile
from llamaweb.rope import Rope

CPU = replace(DESKTOP, software=True, subgroup_size=4, max_compute_workgroup_storage_size=32 << 10)
LARGE = replace(DESKTOP, max_compute_workgroup_storage_size=48 << 10)
PROFILES = {"any": DeviceProfile(), "cpu": CPU, "large": LARGE}
WIDTHS = [Widths(size, size) for size in range(8, LARGEST_HEAD + 1, 8)]
WIDTHS += [Widths(192, 128), Widths(96, 64), Widths(576, 512), Widths(24, 40), Widths(64, 576)]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_every_head_has_a_tile_that_fits_the_device(profile: DeviceProfile, widths: Widths) -> None:
    for n_tokens in (2, 100, 512):
        first = default(widths, 12, n_tokens, profile)
        auto, full = (candidates(widths, 12, n_tokens, profile, mode) for mode in ("auto", "full"))
        assert first == auto[0] == full[0]
        assert set(auto) <= set(full) and len(set(full)) == len(full)
        for v in full:
            assert v.valid(widths, profile)
            assert v.bytes(widths) <= profile.max_compute_workgroup_storage_size and v.workgroup <= 256
            assert v.keys % v.rows(widths) == 0 and widths.k % v.depth == 0
            assert 4 * v.wk * v.parts(widths) >= widths.v


@pytest.mark.parametrize("size", [0, 4, 8, 16, 32, 64])
def test_every_head_has_a_variant_for_a_token_that_fits_the_device(size: int) -> None:
    for profile in (replace(DeviceProfile(), subgroup_size=size), replace(LARGE, subgroup_size=size)):
        for widths, group, splits in product(WIDTHS, (1, 3, 7, 12), (1, 16)):
            tried = vec.candidates(widths, group, splits, profile, "full")
            assert tried[0] == vec.default(widths, group, splits, profile)
            assert all(v.valid(widths, group, profile) for v in tried)


def test_few_heads_are_given_smaller_tiles() -> None:
    assert default(Widths(64, 64), 32, 512, LARGE).queries > default(Widths(64, 64), 9, 512, LARGE).queries


def test_a_tile_that_divides_into_no_invocations_is_not_valid() -> None:
    good = FlashAttn(32, 32, 32, 8, 8)
    assert good.valid(Widths(64, 64), LARGE)
    changes: list[dict[str, int]] = [
        {"keys": 36},
        {"queries": 36},
        {"depth": 24},
        {"depth": 4},
        {"wq": 2},
        {"keys": 512},
    ]
    for change in changes:
        assert not replace(good, **change).valid(Widths(64, 64), LARGE), change


@pytest.mark.parametrize("values", [0, 48])
@pytest.mark.parametrize("head_dim", [8, 24, 64, 80, 128, 256, 320, 512])
def test_workgroup_memory_is_what_the_shader_declares(head_dim: int, values: int) -> None:
    attention = library.Attention(Rope("norm", 8), head_dim, 4, 2, 256, 1.0, head_dim_v=values)
    widths = attention.widths
    for v in candidates(widths, 4, 512, LARGE, "full"):
        text = wgsl(library.flash_attn(attention, 512, LARGE, variant=v).kernel)
        tokens, wk = v.queries // v.wq, v.wk
        some = 4 * min(tokens, 4)
        row = -(-tokens // 4) * some * v.wq + some
        sizes = {
            f"queries: array<QueryRow, {head_dim // 4}>": head_dim // 4 * 16 * (v.queries + 1),
            f"keys: array<KeyRow, {v.depth // 4}>": v.depth // 4 * 16 * (v.keys + 1),
            f"values: array<array<array<vec4<f32>, {wk}>, {v.parts(widths)}>, {v.rows(widths)}>": 16
            * (wk * v.parts(widths) * v.rows(widths)),
            f"weights: array<WeightRow, {v.keys}>": v.keys * row,
            f"of_lanes: array<WeightRow, {wk}>": wk * row,
        }
        assert all(f"var<workgroup> {declared};" in text for declared in sizes)
        assert sum(sizes.values()) == v.bytes(widths)
