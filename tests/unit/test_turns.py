"""Calls go first; other work rests meanwhile, and begins anew where it was interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llamaweb import turns as module
from llamaweb.turns import Interrupted, Turns


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0)


def pieces(turns: Turns, done: list[str], n: int = 3) -> Any:
    async def work() -> str:
        for i in range(n):
            turns.check()
            done.append(f"piece {i}")
            await asyncio.sleep(0)
        turns.check()
        return "all"

    return work


def test_work_that_nobody_interrupts_is_done_once() -> None:
    async def body() -> None:
        turns, done = Turns(), []
        assert await turns.when_idle(pieces(turns, done)) == "all"
        assert done == ["piece 0", "piece 1", "piece 2"]

    asyncio.run(body())


def test_a_call_begins_at_once_and_work_begins_anew_when_it_has_ended() -> None:
    async def body() -> None:
        turns, done = Turns(), []
        task = asyncio.ensure_future(turns.when_idle(pieces(turns, done)))
        while len(done) < 2:
            await asyncio.sleep(0)
        with turns.call():
            done.append("call")
            for _ in range(10):
                await asyncio.sleep(0)
            done.append("ended")
        assert await task == "all"
        at = done.index("call")
        assert done[:at] == ["piece 0", "piece 1"]
        assert done[at:] == ["call", "ended", "piece 0", "piece 1", "piece 2"]

    asyncio.run(body())


def test_work_is_interrupted_too_by_a_call_that_has_ended_meanwhile() -> None:
    async def body() -> None:
        turns = Turns()
        await turns.idle()
        with turns.call():
            pass
        with pytest.raises(Interrupted):
            turns.check()
        await turns.idle()
        turns.check()

    asyncio.run(body())


def test_work_rests_until_the_last_of_several_calls_has_ended() -> None:
    async def body() -> None:
        turns, done = Turns(), []
        one, two = turns.call(), turns.call()
        one.__enter__(), two.__enter__()
        task = asyncio.ensure_future(turns.when_idle(pieces(turns, done)))
        for call in (one, two):
            await asyncio.sleep(0.01)
            assert not done
            call.__exit__(None, None, None)
        await task
        assert done

    asyncio.run(body())
