"""Each call to the GPU fails once, in every operation that makes it, as those to the storage do (test_faults.py)."""

from __future__ import annotations

import pytest
from browser_page import Page
from faulty import MODEL, install, trials


@pytest.fixture(scope="module", autouse=True)
def installed(page: Page) -> None:
    install(page)


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [
        ("Loaded", "rejected", 28),
        ("Loaded", "none", 1),
        ("Loaded", "memory", 10),
        ("Recovered", "lost", 27),
        ("Recovered", "memory", 10),
        ("Answered", "rejected", 5),
        ("Answered", "lost", 5),
        ("Left", "rejected", 8),
        ("Evaluated", "rejected", 3),
        ("Evaluated", "lost", 3),
        ("Profiled", "rejected", 25),
        ("Profiled", "lost", 25),
        ("Profiled", "memory", 4),
        ("Tuned", "rejected", 30),
        ("Tuned", "lost", 30),
        ("Tuned", "memory", 6),
    ],
)
def test_whatever_call_to_the_gpu_fails_the_model_is_loaded_or_answers_the_second_time_and_nothing_is_left(
    page: Page, name: str, kind: str, least: int
) -> None:
    lasting = kind == "none"  # an adapter that is not there at first is asked for once more
    failed, said = trials(page, "gpu", kind, lasting, name, MODEL)
    assert failed >= least and said
