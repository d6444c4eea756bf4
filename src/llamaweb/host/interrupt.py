"""Ctrl-C in the midst of work that does not wait for anything.

asyncio answers the first Ctrl-C by cancelling the command, which then closes its browser; but a command sees that only
where it awaits. What fetches, writes or computes for seconds without that is interrupted at once instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def at_once() -> Iterator[None]:
    """While it lasts, Ctrl-C and SIGTERM raise KeyboardInterrupt where they find the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    changed = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
