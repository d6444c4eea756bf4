"""Plans of small models to the letter, beside the rules that all plans keep (test_planner.py)."""

from __future__ import annotations

import pytest

from tests.golden import make_plans_golden as golden


@pytest.mark.parametrize("name", golden.CASES)
def test_small_plans_change_only_on_purpose(name: str) -> None:
    assert golden.lines(name) == golden.written()[name], "if it is meant: python -m tests.golden.make_plans_golden"
