"""What a caller is told while a model loads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_MS = 4000  # a rate is of so much of the past


@dataclass(frozen=True)
class Progress:
    """How far a phase is: "header", "weights" (unit "B"), "tuning", "pipelines"; "tokens" of an evaluated text.

    rate: units a second of late, 0 where it is not known; seconds_left: at that rate, None where it is not known.
    """

    phase: str
    done: int
    total: int
    unit: str = ""
    rate: float = 0.0
    seconds_left: float | None = None


class Meter:
    """Makes the Progress of a phase from how much is done; `now_ms` is a clock."""

    def __init__(self, phase: str, unit: str, now_ms: Callable[[], float]) -> None:
        self._phase = phase
        self._unit = unit
        self._now_ms = now_ms
        self._past: deque[tuple[float, int]] = deque()

    def progress(self, done: int, total: int) -> Progress:
        now = self._now_ms()
        self._past.append((now, done))
        while len(self._past) > 2 and now - self._past[1][0] >= WINDOW_MS:
            self._past.popleft()
        before, was = self._past[0]
        rate = 1e3 * (done - was) / (now - before) if now > before else 0.0
        left = (total - done) / rate if rate > 0 and total else None
        return Progress(self._phase, done, total, self._unit, rate, left)
