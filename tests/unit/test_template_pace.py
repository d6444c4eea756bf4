"""Real chat templates take little longer than in jinja2's own sandbox, where nothing is bounded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamaweb.chat.template import render_template
from tests.conversations import CONVERSATIONS, jinja2s, variables
from tests.vocabularies import vocabulary

GEMMA3 = Path(__file__).parents[1] / "golden" / "gemma3.jinja"


def template(name: str) -> str:
    return GEMMA3.read_text() if name == "gemma3" else vocabulary(name)["tokenizer.chat_template"]


def calls(render: Callable[[str, dict[str, Any]], str], source: str, given: dict[str, Any]) -> tuple[int, str]:
    """How many functions a rendering calls, in Python and in C, which is what it takes its time for."""
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        text = render(source, given)
    finally:
        sys.setprofile(before)
    return count, text


@pytest.mark.parametrize("name", ["gemma3", "llama3", "qwen2", "smollm2"])
def test_a_real_template_gives_the_same_text_with_hardly_more_calls(name: str) -> None:
    source = template(name)
    ours, jinjas = 0, 0
    for kind in CONVERSATIONS:
        for going_on in (True, False):
            given = variables(kind, going_on)
            try:
                jinja2s(source, given)
            except Exception:  # roles that it does not know, which it refuses in its own words
                continue
            render_template(source, given)  # compiled once
            jinja, right = calls(jinja2s, source, given)
            our, found = calls(render_template, source, given)
            assert found == right
            ours, jinjas = ours + our, jinjas + jinja
    assert 0 < ours < 1.1 * jinjas
