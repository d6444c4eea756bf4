"""Random weights: numbers of the size that was asked for, in every format that the engine reads."""

from __future__ import annotations

import numpy as np
import pytest

from llamaweb.ggml import GGML_QUANT_SIZES, dequantize
from llamaweb.ggml import GGMLType as T
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.random_blocks import TYPES, random_blocks


def test_every_format_of_the_engine_is_there() -> None:
    assert set(TYPES) == set(FORMATS)


@pytest.mark.parametrize("spread", [0.02, 1.0])
@pytest.mark.parametrize("type", TYPES)
def test_weights_are_numbers_of_the_spread_asked_for(type: T, spread: float) -> None:
    data = random_blocks(type, 1 << 16, spread, np.random.default_rng(1))
    block, size = GGML_QUANT_SIZES[type]
    assert data.dtype == np.uint8 and data.shape == ((1 << 16) // block, size)
    values = dequantize(data, type).astype(np.float64)
    assert np.isfinite(values).all()
    assert np.sqrt(np.mean(values**2)) == pytest.approx(spread, rel=0.1)
    assert 1.5 * spread < np.abs(values).max() < 16 * spread
    if block > 1:
        by_block = np.sqrt(np.mean(values.reshape(-1, block) ** 2, axis=-1))
        assert by_block.max() > 2 * by_block.min() > 0


def test_a_random_state_gives_the_same_blocks_again() -> None:
    first, again, other = (random_blocks(T.Q4_K, 512, 1.0, np.random.RandomState(seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
