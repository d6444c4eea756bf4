"""How much of the GPU's time a trial takes at once, without a GPU: calls wait for no more than that."""

from __future__ import annotations

import asyncio
import importlib
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.tuner import Shape
from llamaweb.planner.plan import Dispatch
from llamaweb.turns import Turns
from tests.no_page import no_page

BATCH = Shape("mul_mat", "q4_0", 4096, 28672, "store", n_tokens=512)
TOKEN = Shape("mul_mat_vec", "q4_0", 4096, 28672, "store")
PROMPT = Shape("flash_attn", "f16/f16", 128, 32, "store", n_tokens=512)
ANSWER = Shape("flash_attn_vec", "f16/f16", 128, 32, "store")
MOST_US = 30e3
PLAIN_KERNEL = Kernel("mul_mat", (), ())


class Clock:
    """Trials whose kernels take so many microseconds a token or place, and what each measurement took at once."""

    def __init__(self, shape: Shape, us: dict[str, float], places: int = 32) -> None:
        with no_page(Array=None):
            self.module = importlib.import_module("llamaweb.gpu.trials")
        kernel, tile = SimpleNamespace(template=shape.op), 32 if shape.n_tokens > 1 else 0
        place = (SimpleNamespace(kernel=kernel, token_tile=tile, workgroups=(448, 16, 1)),)
        self.entries = [self.module._Entry(shape, variant, [place] * places, i == 0) for i, variant in enumerate(us)]
        self.us = us
        self.held: list[float] = []
        self.trials = self.module.Trials.__new__(self.module.Trials)
        self.trials._turns = Turns()
        self.trials._clock = self.clock
        self.trials._shares = {}

    async def clock(self, entry: Any, count: int, n_tokens: int, repetitions: int = 1, about: float = 0.0) -> float:
        us = self.us[entry.variant] * n_tokens
        self.held.append(us * count / self.trials._share(entry.shape).parts)
        return us

    def run(self, right: bool = True) -> dict[str, float]:
        steps: list[None] = []
        asyncio.run(self.trials._fit(self.entries[0]))
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


@pytest.mark.parametrize("us", [500.0, 5e3, 20e3])
@pytest.mark.parametrize("shape", [BATCH, PROMPT, TOKEN, ANSWER], ids=lambda shape: shape.op)
def test_a_slow_gpu_is_given_part_of_a_shape_and_never_more_than_a_slice_of_it(shape: Shape, us: float) -> None:
    clock = Clock(shape, {"default": us, "slower": 3 * us})
    expected = {"default": shape.n_tokens * us, "slower": 3 * shape.n_tokens * us}
    assert clock.run() == pytest.approx(expected)
    assert max(clock.held) <= MOST_US
    # How many runs follow each other without a pause is as bounded.
    share = clock.trials._share(shape)
    few = min(shape.n_tokens, 67)
    assert share.runs * us * few / share.parts <= MOST_US


def test_what_a_part_of_a_product_computes_of_is_no_less_than_the_plain_one_whatever_its_tile() -> None:
    with no_page(Array=None):
        module = importlib.import_module("llamaweb.gpu.trials")

    def columns(n: int, tile: int, share: float) -> tuple[int, int]:
        d = Dispatch("", PLAIN_KERNEL, (), (-(-n // tile), 16, 1))
        (part,) = module._part((d,), share)
        assert part.workgroups[1:] == (16, 1) and 1 <= part.workgroups[0] <= d.workgroups[0]
        return part.workgroups[0], min(part.workgroups[0] * tile, n)

    for n, tile, other, parts in product((64, 100, 960, 4097), (8, 32, 64, 128), (8, 32, 64, 128), (2, 7, 48)):
        whole = -(-n // other)
        x, plain = columns(n, other, 1 / parts)
        assert columns(n, tile, x / (whole - 1 or 1))[1] >= plain


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
