"""Who has the GPU: what somebody waits for goes at once, and other work when nobody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

PAUSE_S = 0.3  # behind a call, before other work goes on: another one may follow


def begin(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Begins work as a task. Whoever awaits it meets its failure; nobody has to (else Pyodide would tell of it)."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    return task


class Interrupted(Exception):
    """A call has come in the middle of other work, which is to be begun anew."""


class Turns:
    """Calls never wait. Other work comes in short pieces; after each wait of its own it asks `check`, before it touches
    the GPU again, so that it holds a call up for no longer than what it has submitted takes."""

    def __init__(self) -> None:
        self._calls = 0
        self._begun = 0  # calls so far
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._seen = 0  # calls that had begun when other work last went on
        self.rested_s = 0.0  # how long other work has waited for calls

    @contextmanager
    def call(self) -> Iterator[None]:
        """While it lasts, other work rests."""
        self._calls += 1
        self._begun += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    def check(self) -> None:
        """Raises Interrupted if a call has begun since other work went on."""
        if self._begun != self._seen:
            raise Interrupted

    async def idle(self) -> None:
        """Waits until no call is under way, nor has been for a moment."""
        begin = time.monotonic()
        while self._calls or self._seen != self._begun:
            self._seen = self._begun
            await self._quiet.wait()
            await asyncio.sleep(PAUSE_S)
        self.rested_s += time.monotonic() - begin

    async def when_idle(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives: it is begun when nobody waits, and once more from its beginning if it was interrupted."""
        while True:
            await self.idle()
            with suppress(Interrupted):
                return await work()
