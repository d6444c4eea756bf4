"""Rate and time left of a phase, from a clock."""

from __future__ import annotations

from llamaweb.progress import Meter, Progress


def measured(*points: tuple[float, int]) -> Progress:
    """The last Progress of (milliseconds, done) of 1,000."""
    times = iter([at for at, _ in points])
    meter = Meter("weights", "B", lambda: next(times))
    return [meter.progress(done, 1000) for _, done in points][-1]


def test_a_rate_needs_two_moments() -> None:
    assert measured((0, 100)) == Progress("weights", 100, 1000, "B")
    assert measured((5, 100), (5, 200)).seconds_left is None


def test_what_was_there_at_the_beginning_is_no_speed() -> None:
    assert measured((0, 500), (1000, 600)) == Progress("weights", 600, 1000, "B", 100.0, 4.0)


def test_the_rate_is_of_the_last_seconds() -> None:
    points = [(1000.0 * n, 10 * n) for n in range(10)] + [(9000 + 1000.0 * n, 90 + 100 * n) for n in range(1, 7)]
    assert measured(*points).rate == 100.0


def test_after_a_pause_the_rate_is_of_all_of_it() -> None:
    assert measured((0, 0), (60_000, 600)) == Progress("weights", 600, 1000, "B", 10.0, 40.0)
