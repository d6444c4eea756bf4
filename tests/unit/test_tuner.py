"""Which variants are tried, and which is chosen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from llamaweb.ggml import GGMLType
from llamaweb.kernels import flash_attn, template
from llamaweb.kernels.cache import CACHE_FORMATS
from llamaweb.kernels.formats import FORMATS, named
from llamaweb.kernels.library import Attention
from llamaweb.kernels.mul_mat import PLAIN
from llamaweb.kernels.mul_mat_vec import MulMatVec, default, mul_mat_vec
from llamaweb.kernels.template import wgsl
from llamaweb.kernels.tuner import (
    GAIN,
    Shape,
    Trial,
    alike,
    choose,
    finalists,
    to_json,
    worth_tuning,
)
from llamaweb.operations.flash_attn import attention_shape
from llamaweb.planner.variants import candidates, from_json
from llamaweb.profile import DESKTOP, DeviceProfile
from llamaweb.rope import Rope
from tests.shaders import workgroup_bytes

Q4_0 = FORMATS[GGMLType.Q4_0]
SHAPE = Shape("mul_mat_vec", "q4_0", 576, 1536, "store", norm=True)
GLU = Shape("mul_mat_vec", "q4_0", 4096, 28672, "swiglu", norm=True)


@pytest.mark.parametrize("size", [0, 4, 16, 32, 64])
@pytest.mark.parametrize("shape", [SHAPE, GLU])
@pytest.mark.parametrize("mode", ["auto", "full"])
@pytest.mark.parametrize("packed_dot", [True, False])
def test_candidates_are_valid_on_the_device_and_begin_with_the_default(
    size: int, shape: Shape, mode: str, packed_dot: bool
) -> None:
    profile = replace(DESKTOP, subgroup_size=size, packed_dot=packed_dot)
    found = candidates(shape, profile, mode)
    assert found[0] == default(Q4_0, shape.k, shape.n, shape.epilogue, profile)
    assert len(set(found)) == len(found) > 3
    assert any(v.packed for v in found) == (packed_dot and size >= 4)
    for v in found:
        assert v.workgroup <= profile.max_compute_invocations_per_workgroup and v.workgroup % v.lanes == 0
        assert v.blocks == 1 or v.lanes * v.blocks <= shape.k // 32
        assert not v.subgroup or (v.subgroup == size and (v.lanes % size == 0 or 2 * v.lanes == size))
        assert shape.epilogue != "swiglu" or v.rows % 2 == 0
    assert set(candidates(shape, profile, "auto")) <= set(candidates(shape, profile, "full")) | {found[0]}


@pytest.mark.parametrize(("k", "lanes"), [(1536, 16), (2048, 32), (3072, 32)])
def test_half_a_subgroup_shares_a_row_where_the_rest_would_idle(k: int, lanes: int) -> None:
    for n, epilogue in ((1024, "store"), (6448, "store"), (8192, "swiglu")):
        found = candidates(Shape("mul_mat_vec", "q4_0", k, n, epilogue), DESKTOP, "auto")
        assert isinstance(found[0], MulMatVec) and found[0].lanes == lanes
        assert any(isinstance(v, MulMatVec) and v.packed and v.lanes == 16 for v in found) == (lanes == 16)


@pytest.mark.parametrize("shape", [SHAPE, GLU, replace(GLU, n=4096, epilogue="add")])
@pytest.mark.parametrize("size", [4, 16, 32, 64])
def test_sums_through_workgroup_memory_are_tried_where_there_are_subgroups(shape: Shape, size: int) -> None:
    profile = replace(DESKTOP, subgroup_size=size)
    plain = mul_mat_vec(Q4_0, shape.k, shape.n, profile, epilogue=shape.epilogue).plain
    for mode in ("auto", "full"):
        first, *others = candidates(shape, profile, mode)
        shared = [v for v in others if isinstance(v, MulMatVec) and not v.subgroup]
        assert 1 <= len(shared) <= 2 and replace(first, subgroup=0, packed=False) in shared
        assert all("shared memory" in str(v) for v in shared) and "shared memory" not in str(first)
        # What any device runs, which the others are checked against, is among them.
        launches = [mul_mat_vec(Q4_0, shape.k, shape.n, profile, epilogue=shape.epilogue, variant=v) for v in shared]
        assert plain in launches


@pytest.mark.parametrize("size", [0, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("invocations", [256, 1024])
@pytest.mark.parametrize("format", ["q4_0", "q6_k"])
def test_what_is_tried_of_a_token_takes_no_more_workgroup_memory_than_there_is(
    size: int, invocations: int, format: str
) -> None:
    profile = replace(DESKTOP, subgroup_size=size, max_compute_invocations_per_workgroup=invocations)
    assert profile.max_compute_workgroup_storage_size == 16384
    of_name = named(format)
    for k in (2048, 8192):
        norms = {"eps": 1e-5, "post_eps": 1e-5}
        for v in candidates(Shape("mul_mat_vec", format, k, 4096, "store"), profile, "full"):
            assert isinstance(v, MulMatVec)
            declared = workgroup_bytes(wgsl(mul_mat_vec(of_name, k, 4096, profile, **norms, variant=v).kernel))
            assert declared <= v.bytes(k) <= profile.max_compute_workgroup_storage_size, v


@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 256])
@pytest.mark.parametrize("invocations", [256, 1024])
def test_candidates_for_attention_of_a_token_fit_the_device(head_dim: int, invocations: int) -> None:
    limits = {"max_compute_invocations_per_workgroup": invocations, "max_compute_workgroup_storage_size": 32768}
    profile = replace(DESKTOP, **limits)
    attention = Attention(Rope("norm", 8), head_dim, 32, 8, 1024, 1.0, type_v=CACHE_FORMATS["q8_0"])
    shape = attention_shape("flash_attn_vec", attention, 1, splits=8)
    found = candidates(shape, profile, "full")
    assert found[0] == candidates(shape, profile, "off")[0] and len(set(found)) == len(found) > 3
    assert set(candidates(shape, profile, "auto")) <= set(found)
    assert max(v.workgroup for v in found) == min(512, invocations)
    assert all(v.bytes(attention.widths, 32) <= profile.max_compute_workgroup_storage_size for v in found)
    assert {v.heads for v in found} == {1, 2, 4}
    assert from_json(to_json({shape: found[-1]}), [shape], profile) == {shape: found[-1]}


@pytest.mark.parametrize(
    "profile", [DESKTOP, replace(DESKTOP, subgroup_size=4, software=True), replace(DESKTOP, subgroup_size=64)]
)
@pytest.mark.parametrize("mode", ["auto", "full"])
def test_what_any_device_runs_of_a_batch_is_among_what_is_tried(profile: DeviceProfile, mode: str) -> None:
    product = Shape("mul_mat", "q4_0", 4096, 28672, "swiglu", n_tokens=512)
    assert PLAIN in candidates(product, profile, mode)
    attention = Attention(Rope("norm", 8), 128, 32, 8, 1024, 1.0)
    any_device = flash_attn.default(attention.widths, 32, 512, DeviceProfile())
    assert any_device in candidates(attention_shape("flash_attn", attention, 512), profile, mode)


def test_weights_are_asked_for_ahead_of_the_input_as_long_as_all_workgroups_run_at_once() -> None:
    gpu = replace(DESKTOP, subgroup_size=32, cores=128)

    def ahead(k: int, n: int, epilogue: str = "store") -> bool:
        return default(named("q4_0"), k, n, epilogue, gpu).ahead

    assert ahead(1536, 6448) and ahead(1536, 8192, "swiglu") and ahead(1024, 9216, "swiglu")
    assert not ahead(1536, 24576, "geglu") and not ahead(1536, 2560) and not ahead(2048, 6144)
    tried = candidates(Shape("mul_mat_vec", "q4_0", 1536, 8192, "swiglu"), gpu, "auto")
    assert any(isinstance(v, MulMatVec) and v.ahead and v.packed for v in tried)
    assert any(isinstance(v, MulMatVec) and v.ahead and not v.packed for v in tried)


def test_a_format_that_is_not_in_bytes_has_no_packed_variants() -> None:
    assert not any(v.packed for v in candidates(replace(GLU, format="f16"), DESKTOP, "full"))
    assert default(Q4_0, 4096, 28672, "swiglu", DESKTOP).packed


def trial(variant: MulMatVec, microseconds: float, *, right: bool = True, default: bool = False) -> Trial:
    return Trial(SHAPE, variant, microseconds, right, default)


def test_the_fastest_right_variant_is_chosen_if_it_beats_the_default_by_more_than_noise() -> None:
    a, b, c = (MulMatVec(64, 32, rows, 32) for rows in (1, 2, 4))
    default = trial(a, 10, default=True)
    assert choose([default, trial(b, 5), trial(c, 7)]) == {SHAPE: b}
    assert choose([default, trial(b, 5, right=False), trial(c, 7)]) == {SHAPE: c}
    assert choose([default, trial(b, 10 * GAIN + 0.01)]) == {SHAPE: a}


def test_a_default_that_is_wrong_or_does_not_compile_gives_way_to_what_is_right() -> None:
    a, b, c = (MulMatVec(64, 32, rows, 32) for rows in (1, 2, 4))
    assert choose([trial(a, 5, right=False, default=True), trial(b, 12), trial(c, 10)]) == {SHAPE: c}
    assert choose([trial(b, 12), trial(c, 10)]) == {SHAPE: c}
    assert choose([trial(a, 5, right=False, default=True), trial(b, 12, right=False)]) == {}


def test_a_comparison_of_nothing_shows_nothing() -> None:
    assert alike(0.0, 4.0, 1e-6) and alike(3e-6, 4.0, 1e-6) and not alike(5e-6, 4.0, 1e-6)
    assert not alike(0.0, 0.0, 1e-6)  # two kernels that write nothing
    assert not any(alike(error, norm, 1e-6) for error, norm in ((math.nan, 4.0), (1.0, math.inf), (math.nan, math.nan)))


def test_choices_are_kept_as_json_and_damaged_ones_are_as_if_not_there() -> None:
    variant = candidates(SHAPE, DESKTOP, "full")[3]
    stored = to_json({SHAPE: variant})
    assert from_json(stored, [SHAPE, GLU], DESKTOP) == {SHAPE: variant}
    assert from_json(stored, [SHAPE], DeviceProfile()) == {}  # not valid there: it needs subgroups
    for damaged in (None, [], {SHAPE.key: 3}, {SHAPE.key: {"workgroup": "x"}}, {SHAPE.key: {"lanes": 1}}):
        assert from_json(damaged, [SHAPE], DESKTOP) == {}


def test_an_edition_of_the_kernels_changes_with_any_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def edition_of(files: dict[str, str]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        monkeypatch.setattr(template, "asset_dir", lambda _: folder)
        return template.edition.__wrapped__()

    files = {"mul_mat.wgsl": "a", "formats/q4_0.wgsl": "b"}
    others = [files | {"mul_mat.wgsl": "c"}, files | {"new.wgsl": ""}, {"mul_mat.wgsl": "a", "formats/q4_1.wgsl": "b"}]
    assert edition_of(files) == edition_of(files)
    assert len({edition_of(each) for each in (files, *others)}) == 4


def test_a_software_adapter_is_tuned_only_if_asked() -> None:
    cpu = replace(DESKTOP, software=True)
    assert not worth_tuning(cpu, "auto") and worth_tuning(cpu, "full")
    assert worth_tuning(DESKTOP, "auto") and not worth_tuning(DESKTOP, "off")


def test_the_default_and_the_fastest_right_variants_of_each_shape_are_timed_again() -> None:
    tried = [
        trial(MulMatVec(128, 32, 2, 32), 9.0, default=True),
        trial(MulMatVec(128, 32, 4, 32), 3.0, right=False),
        trial(MulMatVec(128, 64, 2, 32), 5.0),
        trial(MulMatVec(128, 64, 4, 32), 4.0),
        trial(MulMatVec(256, 64, 4, 32), 6.0),
        replace(trial(MulMatVec(64, 32, 2, 32), 2.0), shape=GLU),
    ]
    assert finalists(tried, 2) == [[0, 2, 3], [5]]
