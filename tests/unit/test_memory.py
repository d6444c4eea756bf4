"""The arena: no two values that live at once overlap, and it is near its lower bound."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llamaweb.planner.memory import Lifetime, align, lower_bound, plan_arena


def random_values(seed: int) -> list[Lifetime]:
    rng = random.Random(seed)
    steps = rng.randint(1, 12)
    values = []
    for _ in range(rng.randint(1, 14)):
        first = rng.randrange(steps)
        last = min(steps - 1, first + rng.choice((0, 1, 1, 2, steps)))
        values.append(Lifetime(rng.choice((1, 4, 255, 256, 257, 1000, 4096, 100_000)), first, last))
    return values


@pytest.mark.parametrize("alignment", [1, 32, 256])
def test_values_that_live_at_once_never_overlap(alignment: int) -> None:
    for seed in range(300):
        values = random_values(seed)
        offsets, size = plan_arena(values, alignment)
        assert all(at % alignment == 0 and at >= 0 for at in offsets)
        assert size == max(at + value.size for at, value in zip(offsets, values, strict=True))
        for i, (a, at) in enumerate(zip(values, offsets, strict=True)):
            for b, bt in list(zip(values, offsets, strict=True))[:i]:
                if set(range(a.first, a.last + 1)) & set(range(b.first, b.last + 1)):
                    assert at + a.size <= bt or bt + b.size <= at, (seed, a, b)


def test_the_lower_bound_is_the_largest_live_set_and_no_plan_is_smaller() -> None:
    for seed in range(300):
        values = random_values(seed)
        steps = range(max(value.last for value in values) + 1)
        live = [sum(v.size for v in values if step in range(v.first, v.last + 1)) for step in steps]
        assert lower_bound(values) == max(live)
        assert plan_arena(values, 1)[1] >= lower_bound(values)
        total = sum(align(value.size, 256) for value in values)
        assert plan_arena(values, 256)[1] <= total  # never worse than no reuse at all


def test_a_chain_of_equal_values_takes_two_places() -> None:
    values = [Lifetime(512, i, i + 1) for i in range(20)]
    assert plan_arena(values, 256)[1] == 2 * 512 == lower_bound(values)


def test_values_go_into_a_gap_that_fits() -> None:
    # Two that live throughout with a hole between them once the third dies.
    values = [Lifetime(1000, 0, 9), Lifetime(800, 0, 1), Lifetime(700, 0, 9), Lifetime(600, 2, 9)]
    offsets, size = plan_arena(values, 100)
    assert size == 2500 == lower_bound(values)
    assert offsets[3] == offsets[1]


KIB = 1024
# Of one layer each, as (KiB, first step, last step), beside a residual stream that lives throughout.
INTERLOCKED = {
    "wide norms": [
        *[(7680, 1, 3), (2560, 2, 5), (1536, 5, 6), (7680, 6, 7)],
        *[(7680, 8, 10), (7168, 9, 11), (3584, 11, 12), (7680, 12, 13)],
    ],
    "narrow heads": [
        *[(2030, 1, 2), (870, 2, 4), (580, 4, 6), (163, 5, 6), (2030, 6, 7)],
        *[(2030, 8, 9), (870, 9, 10), (2030, 10, 11)],
    ],
}


@pytest.mark.parametrize("name", INTERLOCKED)
@pytest.mark.parametrize("n_layer", [1, 3])
def test_layers_whose_values_interlock_keep_to_the_bound(name: str, n_layer: int) -> None:
    layer = INTERLOCKED[name]
    step = max(last for _, _, last in layer) + 1
    largest = max(size for size, _, _ in layer)
    values = [Lifetime(KIB * largest, 0, n_layer * step)]
    for at in range(0, n_layer * step, step):
        values += [Lifetime(KIB * size, at + first, at + last) for size, first, last in layer]
    assert plan_arena(values, 256)[1] <= 1.05 * lower_bound(values)


class Watched(list[Lifetime]):
    """Counts how often its values are looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


def test_the_work_grows_with_the_layers_and_not_with_their_square() -> None:
    """A file may tell of thousands, whose plan must not hold the page."""
    looks = []
    for n_layer in (100, 200):
        one = [(1000, 0, 3), (300, 1, 2), (5000, 2, 3), (257, 3, 4)]
        values = Watched(Lifetime(size, 4 * i + a, 4 * i + b) for i in range(n_layer) for size, a, b in one)
        plan_arena(values, 256)
        looks.append(values.looks)
    assert looks[1] < 2.5 * looks[0]


def test_nothing_takes_no_space() -> None:
    assert plan_arena([], 256) == ([], 0)
    assert lower_bound([]) == 0


@pytest.mark.parametrize(("n", "alignment", "expected"), [(0, 256, 0), (1, 256, 256), (256, 256, 256), (257, 4, 260)])
def test_align_goes_up_to_the_next_multiple(n: int, alignment: int, expected: int) -> None:
    assert align(n, alignment) == expected
