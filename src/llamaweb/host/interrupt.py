"""Ctrl-C wherever a command is.

What fetches, writes or computes for seconds without waiting for anything is interrupted where it is. What has a server
or a browser open is cancelled instead, where it awaits, and closes them.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def at_once() -> Iterator[None]:
    """While it lasts, Ctrl-C and SIGTERM raise KeyboardInterrupt where they find the main thread."""
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def in_order() -> Iterator[None]:
    """While it lasts, the first Ctrl-C or SIGTERM cancels the task that is in it, and any other one raises
    KeyboardInterrupt."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def cancel(number: int, frame: Any) -> None:
        if task is None or task.cancelling():
            signal.default_int_handler(number, frame)
        else:
            task.cancel()
            loop.call_soon_threadsafe(lambda: None)  # which wakes it

    with _handled_by(cancel):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    changed = [number for number, old in before.items() if old not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
