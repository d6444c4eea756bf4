"""How dispatches are timed where the device's clock is not what it should be."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from tests.no_page import no_page


class Clock:
    """A device on which a dispatch takes 10 µs, whose timestamps are `ticks` times as far apart; from outside, time
    passes as it does (`outside` False: it seems to stand still)."""

    def __init__(self, ticks: float, outside: bool = True) -> None:
        self._ticks, self._outside = ticks, outside
        self.ms = 0.0

    async def run(self, steps: Any, n_tokens: int, repeats: int) -> float:
        self.ms += 0.01 * repeats * self._outside
        return 1e4 * repeats * self._ticks

    async def time(self, source: str) -> tuple[float, str]:
        """Microseconds that a Timer finds for one dispatch, and by what."""

        def replayed(steps: Any, first: int, count: int, n_tokens: int) -> None:
            self.ms += 0.01 * self._outside

        def file(name: str) -> Any:
            timer = SimpleNamespace(run=self.run, close=lambda: None)
            return lambda *_: timer if name == "gpu/timer.js" else SimpleNamespace(run=replayed)

        async def done(promise: Any = None) -> Any:
            return await promise if promise else None

        device = SimpleNamespace(
            profile=SimpleNamespace(timestamp_query=source == "timestamps"),
            handle=SimpleNamespace(queue=SimpleNamespace(onSubmittedWorkDone=lambda: None)),
            buffer=lambda *_: None,
            destroy=lambda _: None,
            check=lambda: None,
            wait=done,
        )
        with no_page(), pytest.MonkeyPatch.context() as patch:
            module = importlib.import_module("llamaweb.gpu.timer")
            patch.setattr(module, "js_file", file)
            patch.setattr(module, "now_ms", lambda: self.ms)
            timer = module.Timer(device)
            us = await timer.time(SimpleNamespace(length=1), reset=lambda: None)
            timer.close()
            return us, timer.source


@pytest.mark.parametrize("source", ["timestamps", "batches"])
def test_a_dispatch_takes_what_the_clock_says(source: str) -> None:
    assert asyncio.run(Clock(1).time(source)) == (pytest.approx(10), source)


@pytest.mark.parametrize("ticks", [0, -1])
def test_timestamps_that_stand_still_or_run_back_give_way_to_batches(ticks: float) -> None:
    assert asyncio.run(Clock(ticks).time("timestamps")) == (pytest.approx(10), "batches")


def test_a_time_is_never_zero() -> None:
    us, _ = asyncio.run(Clock(0, outside=False).time("timestamps"))
    assert us > 0
