"""How a variant is checked, without a device."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamaweb.kernels.tuner import Shape
from tests.no_page import no_page


def is_taken_for_right(tile: int, wrong_from: int, n_tokens: int = 512) -> bool:
    """Whether a variant of this tile is, whose results are wrong from a token on."""
    plain, place = (
        (SimpleNamespace(kernel=SimpleNamespace(template="mul_mat"), token_tile=size),) for size in (32, tile)
    )

    async def results(of: Any, shape: Shape, n_tokens: int, runs: range, seed: int) -> AsyncIterator[Any]:
        found = np.ones((n_tokens, 4), np.float32)
        if of is place:
            found[wrong_from:] = 0
        yield SimpleNamespace(to_bytes=found.tobytes)

    with no_page(Array=None):
        module = importlib.import_module("llamaweb.gpu.trials")
        trials = module.Trials.__new__(module.Trials)
    trials._executor = SimpleNamespace(plan=SimpleNamespace(n_ctx=2048))
    trials._random = np.random.default_rng(0)
    trials._results = results
    trials._shares = {}
    shape = Shape("mul_mat", "q4_0", 64, 64, "store", n_tokens=n_tokens)
    return bool(asyncio.run(trials._same(SimpleNamespace(shape=shape), place, plain)))


@pytest.mark.parametrize("tile", [8, 32, 64, 128])
def test_a_variant_that_is_wrong_anywhere_in_its_tile_or_behind_it_is_seen(tile: int) -> None:
    assert is_taken_for_right(tile, 512)
    for token in (0, tile - 1, tile):
        assert not is_taken_for_right(tile, token), token


def test_a_batch_smaller_than_a_tile_is_seen_whole() -> None:
    assert is_taken_for_right(128, 40, n_tokens=40) and not is_taken_for_right(128, 39, n_tokens=40)
