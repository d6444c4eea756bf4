"""Where values live in the arena: greedy by size over their lifetimes, as static memory planners do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

_NEAR = 1.05  # times the lower bound
_ROUNDS = 16  # of placing first what came to lie on top


@dataclass(frozen=True)
class Lifetime:
    """A value of `size` bytes, alive from step `first` to step `last`, both inclusive."""

    size: int
    first: int
    last: int


def plan_arena(values: Sequence[Lifetime], alignment: int) -> tuple[list[int], int]:
    """Offsets of the values, so that no two that live at once overlap, and the arena's size in bytes.

    Each in turn at the lowest offset that is free for its whole life (Pisarchyk and Lee, 2020). Largest first is good
    for most graphs; longest-lived first keeps what lives throughout, the residual stream, out of the others' way; size
    times life is between the two; as they are made, each leaves room for the next; what is aligned comes first, as only
    the last value needs no padding behind it. Where none of these comes near the lower bound, what lies on top is
    placed first the next time, for some rounds. What is more than 5 % above it then are arenas of some dozen kB, for
    alignment, and lives that interlock.
    """
    bound = lower_bound(values)
    by_size = sorted(range(len(values)), key=lambda i: (-values[i].size, values[i].first))
    by_life = sorted(by_size, key=lambda i: values[i].first - values[i].last)
    by_area = sorted(by_size, key=lambda i: -values[i].size * (values[i].last - values[i].first + 1))
    as_made = sorted(by_life, key=lambda i: values[i].first)
    orders = [by_size, by_life, by_area, as_made, sorted(as_made, key=lambda i: values[i].first - values[i].last)]
    orders += [sorted(order, key=lambda i: values[i].size % alignment) for order in orders]
    best = _place(values, by_size, alignment)
    for order in orders[1:]:
        if best[1] == bound:
            return best
        best = min(best, _place(values, order, alignment), key=_size)
    for order in orders:
        for _ in range(_ROUNDS):
            if best[1] <= _NEAR * bound:
                return best
            offsets, size = _place(values, order, alignment)
            best = min(best, (offsets, size), key=_size)
            order = sorted(order, key=lambda i: offsets[i] + values[i].size < size)
    return best


def _size(placed: tuple[list[int], int]) -> int:
    return placed[1]


def _place(values: Sequence[Lifetime], order: Sequence[int], alignment: int) -> tuple[list[int], int]:
    offsets = [0] * len(values)
    alive: list[list[int]] = [[] for _ in range(_steps(values))]  # what has its place, by the steps of its life
    for i in order:
        value = values[i]
        life = alive[value.first : value.last + 1]
        at = 0
        for j in sorted(set(chain.from_iterable(life)), key=lambda j: offsets[j]):
            if at + value.size <= offsets[j]:
                break
            at = max(at, align(offsets[j] + values[j].size, alignment))
        offsets[i] = at
        for step in life:
            step.append(i)
    return offsets, max((offsets[i] + v.size for i, v in enumerate(values)), default=0)


def lower_bound(values: Sequence[Lifetime]) -> int:
    """The largest sum of sizes alive at any step: no plan is smaller."""
    change = [0] * (_steps(values) + 1)
    for value in values:
        change[value.first] += value.size
        change[value.last + 1] -= value.size
    return max(accumulate(change))


def _steps(values: Sequence[Lifetime]) -> int:
    return max((value.last for value in values), default=-1) + 1


def align(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment
