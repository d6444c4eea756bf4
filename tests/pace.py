"""How long something takes, without seconds: beside something else, in the same process and in its own time, so that
neither the machine nor what else it does matters."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(what: Callable[[], object], times: int = 3) -> float:
    """The least of some times of this process; to be compared with another."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        what()
        taken.append(time.process_time() - start)
    return min(taken)


def rounds(what: Callable[[], object], times: int = 3) -> float:
    """How many rounds of a Python loop that does nothing take as long, least of some times."""

    def loop() -> None:
        for _ in range(500_000):
            pass

    return seconds(what, times) / seconds(loop) * 500_000
