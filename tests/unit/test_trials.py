"""How much of the GPU's time a trial takes at once, without a GPU: calls wait for no more than that."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.kernels.tuner import Shape
from llamaweb.turns import Turns
from tests.no_page import no_page

BATCH = Shape("mul_mat", "q4_0", 4096, 28672, "store", n_tokens=512)
TOKEN = Shape("mul_mat_vec", "q4_0", 4096, 28672, "store")
MOST_US = 30e3


class Clock:
    """Trials whose kernels take so many microseconds a token or place, and what each measurement took at once."""

    def __init__(self, shape: Shape, us: dict[str, float], places: int = 32) -> None:
        with no_page(Array=None):
            self.module = importlib.import_module("llamaweb.gpu.trials")
        place = (SimpleNamespace(kernel=SimpleNamespace(template=shape.op), token_tile=32 if shape == BATCH else 0),)
        self.entries = [self.module._Entry(shape, variant, [place] * places, i == 0) for i, variant in enumerate(us)]
        self.us = us
        self.held: list[float] = []
        self.trials = self.module.Trials.__new__(self.module.Trials)
        self.trials._turns = Turns()
        self.trials._clock = self.clock

    async def clock(self, entry: Any, count: int, n_tokens: int, repetitions: int = 1, about: float = 0.0) -> float:
        us = self.us[entry.variant] * n_tokens
        self.held.append(us * count)
        return us

    def run(self, right: bool = True) -> dict[str, float]:
        steps: list[None] = []
        found = asyncio.run(self.trials._timed(self.entries, [right] * len(self.entries), lambda: steps.append(None)))
        assert len(steps) == len(self.entries)
        return {trial.variant: trial.microseconds for trial in found}


@pytest.mark.parametrize("us", [0.1, 5.0, 50.0])
def test_a_batch_is_timed_on_so_many_tokens_as_take_a_slice(us: float) -> None:
    clock = Clock(BATCH, {"default": us, "faster": us / 2, "slower": 2 * us})
    times = clock.run()
    assert times == pytest.approx({"default": 512 * us, "faster": 256 * us, "slower": 1024 * us})
    assert max(clock.held) <= MOST_US
    assert us > 1 or max(clock.held) == 2 * 512 * us  # a fast GPU is given the whole batch


@pytest.mark.parametrize("us", [3.0, 500.0, 3000.0])
def test_a_token_is_timed_in_so_many_layers_as_take_a_slice(us: float) -> None:
    clock = Clock(TOKEN, {"default": us, "faster": us / 2})
    assert clock.run() == pytest.approx({"default": us, "faster": us / 2})
    assert max(clock.held) <= MOST_US
    assert us > 100 or max(clock.held) == 32 * us


def test_what_is_far_slower_than_the_default_is_not_timed_again() -> None:
    clock = Clock(BATCH, {"default": 5.0, "hopeless": 100.0})
    times = clock.run()
    assert times["hopeless"] == pytest.approx(512 * 100.0)
    assert sum(us > 67 * 50 for us in clock.held) == 1 and max(clock.held) <= MOST_US
