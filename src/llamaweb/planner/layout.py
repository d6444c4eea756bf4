"""A phase before it has bindings: its steps, and where their values lie in the arena."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llamaweb.operations.step import Step, Value
from llamaweb.planner.fusion import Steps
from llamaweb.planner.memory import Lifetime, lower_bound, plan_arena


@dataclass(frozen=True)
class Layout:
    """offsets: of each value in the arena, which takes `size` bytes for this phase; lives: from which step to which."""

    steps: Steps
    offsets: dict[Value, int]
    lives: dict[Value, Lifetime]
    size: int
    lower_bound: int

    @property
    def largest(self) -> int:
        """Bytes of the largest value: it is bound as one range."""
        return max(value.bytes for value in self.offsets)


def lay_out(steps: Steps, alignment: int) -> Layout:
    lives = _lifetimes(steps.steps)
    offsets, size = plan_arena(list(lives.values()), alignment)
    return Layout(steps, dict(zip(lives, offsets, strict=True)), lives, size, lower_bound(list(lives.values())))


def _lifetimes(steps: Iterable[Step]) -> dict[Value, Lifetime]:
    """From which step to which each value of the steps lives."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for i, step in enumerate(steps):
        for view in step.values.values():
            first.setdefault(view.value, i)
            last[view.value] = i
    return {value: Lifetime(value.bytes, first[value], last[value]) for value in first}
