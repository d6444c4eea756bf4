"""The table of phases: its formula, its scalings, and its precision at long contexts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.families import llama
from llamaweb.rope import Rope, Yarn, phases
from tests.headers import TINY, llama_header
from tests.reference import ReferenceLlama
from tests.tiny import TinyLlama, tiny_llama

UNIT = 2 * math.pi / 2**32


def angles(rope: Rope, factors: np.ndarray | None = None) -> np.ndarray:
    """Radians of one position's step."""
    return phases(rope, factors).astype(np.float64) * UNIT


def test_phases_are_powers_of_the_base() -> None:
    found = angles(Rope("norm", 64, 10000.0))
    np.testing.assert_allclose(found, 10000.0 ** (-np.arange(0, 64, 2) / 64), atol=UNIT)
    assert phases(Rope("neox", 64)).tolist() == phases(Rope("norm", 64)).tolist()


def test_linear_scaling_divides_every_step() -> None:
    plain, scaled = angles(Rope("norm", 64)), angles(Rope("norm", 64, factor=4.0))
    np.testing.assert_allclose(scaled, plain / 4, atol=UNIT)


def test_a_files_factors_divide_their_frequency() -> None:
    factors = np.geomspace(1, 8, 32).astype(np.float32)
    found = angles(Rope("norm", 64, factors="rope_freqs.weight"), factors)
    np.testing.assert_allclose(found, angles(Rope("norm", 64)) / factors, atol=2 * UNIT)


@pytest.mark.parametrize("factors", [np.ones(31), np.zeros(32), np.full(32, np.nan), -np.ones(32)])
def test_factors_that_are_no_factors_are_refused_by_name(factors: np.ndarray) -> None:
    with pytest.raises(ModelFileError, match=r"rope_freqs\.weight"):
        phases(Rope("norm", 64, factors="rope_freqs.weight"), factors.astype(np.float32))


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    rope = Rope("norm", 64, 10000.0, factor=8.0, yarn=Yarn(n_ctx_orig=2048))
    plain, found = angles(replace(rope, factor=1.0, yarn=None)), angles(rope)
    assert found[0] == pytest.approx(plain[0], abs=UNIT) and found[-1] == pytest.approx(plain[-1] / 8, abs=UNIT)
    ratio = found / plain
    assert np.all(np.diff(ratio) <= 1e-4) and np.any((ratio > 0.2) & (ratio < 0.9))


def test_yarn_raises_the_magnitude_with_the_factor() -> None:
    assert Rope("norm", 64, factor=8.0).magnitude == 1.0
    assert Rope("norm", 64, factor=8.0, yarn=Yarn(2048)).magnitude == pytest.approx(1 + 0.1 * math.log(8))
    assert Rope("norm", 64, factor=8.0, yarn=Yarn(2048), attn_factor=0.5).magnitude == pytest.approx(
        0.5 * (1 + 0.1 * math.log(8))
    )


@pytest.mark.parametrize(
    "spec",
    [
        TinyLlama(),
        TinyLlama(rope_base=500000.0, rope_freqs=True),
        TinyLlama(scaling="linear", factor=3.0),
        TinyLlama(scaling="yarn", factor=4.0, n_ctx_orig=64),
        TinyLlama(scaling="yarn", factor=16.0, n_ctx_orig=16, rope_base=500.0, head_dim=64),
        TinyLlama(head_dim=32, rope_dims=16),
    ],
    ids=str,
)
def test_angles_are_those_of_the_numpy_forward_pass(spec: TinyLlama) -> None:
    reference = ReferenceLlama(tiny_llama(spec))
    cos, sin = reference.rope_table(40)
    metadata = {k.removeprefix("llama."): v for k, v in reference.metadata.items() if k.startswith("llama.rope")}
    file = llama_header(**TINY, head_dim=spec.head_dim, metadata=metadata)
    rope = llama.hyperparameters(file).rope
    factors = reference.weight("rope_freqs.weight") if spec.rope_freqs else None
    angle = np.arange(40)[:, None] * angles(rope, factors)
    np.testing.assert_allclose(rope.magnitude * np.cos(angle), cos, atol=2e-6)
    np.testing.assert_allclose(rope.magnitude * np.sin(angle), sin, atol=2e-6)


def test_a_wrapped_product_is_the_exact_fraction_of_a_turn_at_any_position() -> None:
    table = phases(Rope("norm", 128, 500000.0)).astype(object)
    for position in (1, 4095, 131071, 2**31 - 1):
        wrapped = (np.uint64(position) * phases(Rope("norm", 128, 500000.0)).astype(np.uint64)) & np.uint64(0xFFFFFFFF)
        assert wrapped.tolist() == [position * phase % 2**32 for phase in table]
    # What is left is the phase's own rounding: half a unit a position.
    exact = 500000.0 ** (-np.arange(0, 128, 2) / 128)
    assert np.max(np.abs(131071 * (angles(Rope("norm", 128, 500000.0)) - exact))) <= 131071 * UNIT / 2 + 1e-9


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"rope.dimension_count": 15}, ModelFileError, "15"),
        ({"rope.dimension_count": 64}, ModelFileError, "64"),
        ({"rope.freq_base": 0.5}, ModelFileError, "freq_base"),
        ({"rope.freq_base": float("nan")}, ModelFileError, "freq_base"),
        ({"rope.scaling.type": "su"}, UnsupportedError, "'su' is not supported yet; linear, longrope and yarn are"),
    ],
)
def test_rope_metadata_that_makes_no_sense_is_refused(metadata: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        llama.hyperparameters(llama_header(**TINY, metadata=metadata))


def test_the_type_of_a_rotation_with_factors_for_long_contexts_scales_nothing_by_itself() -> None:
    told, untold = ({"rope.scaling.attn_factor": 1.25, **more} for more in ({"rope.scaling.type": "longrope"}, {}))
    ropes = [llama.hyperparameters(llama_header(**TINY, metadata=metadata)).rope for metadata in (told, untold)]
    assert ropes[0] == ropes[1] and ropes[0].magnitude == 1.25


def test_yarn_of_a_factor_below_one_shrinks_neither_sine_nor_cosine() -> None:
    assert [Rope("norm", 16, factor=f, yarn=Yarn(64)).magnitude for f in (0.5, 1.0)] == [1.0, 1.0]
