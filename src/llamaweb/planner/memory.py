"""Where values live in the arena: greedy by size over their lifetimes, as static memory planners do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    times life is between the two; what is aligned comes first, as only the last value needs no padding behind it.
    """
    bound = lower_bound(values)
    by_size = sorted(range(len(values)), key=lambda i: (-values[i].size, values[i].first))
    by_life = sorted(by_size, key=lambda i: values[i].first - values[i].last)
    by_area = sorted(by_size, key=lambda i: -values[i].size * (values[i].last - values[i].first + 1))
    orders = (
        by_size,
        by_life,
        by_area,
        *(sorted(order, key=lambda i: values[i].size % alignment) for order in (by_size, by_life, by_area)),
    )
    best: tuple[list[int], int] | None = None
    for order in orders:
        found = _place(values, order, alignment)
        best = found if best is None or found[1] < best[1] else best
        if best[1] == bound:
            break
    assert best
    return best


def _place(values: Sequence[Lifetime], order: Sequence[int], alignment: int) -> tuple[list[int], int]:
    offsets = [0] * len(values)
    placed: list[int] = []
    for i in order:
        value = values[i]
        at = 0
        for j in sorted((j for j in placed if _meet(values[j], value)), key=lambda j: offsets[j]):
            if at + value.size <= offsets[j]:
                break
            at = max(at, align(offsets[j] + values[j].size, alignment))
        offsets[i] = at
        placed.append(i)
    return offsets, max((offsets[i] + v.size for i, v in enumerate(values)), default=0)


def lower_bound(values: Sequence[Lifetime]) -> int:
    """The largest sum of sizes alive at any step: no plan is smaller."""
    steps = range(max((v.last for v in values), default=-1) + 1)
    return max((sum(v.size for v in values if v.first <= s <= v.last) for s in steps), default=0)


def align(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def _meet(a: Lifetime, b: Lifetime) -> bool:
    return a.first <= b.last and b.first <= a.last
