"""Chromium without JavaScript Promise Integration, as older Safaris are: everything but blocking calls goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tab_page import TabPage
from test_firefox import GEMMA3, LLAMA, PROMPT, answers, likeliest

from llamaweb.errors import LlamaWebError
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.chrome import Chromium
from tests.reference import ReferenceGemma3, ReferenceLlama


@pytest.fixture(scope="module")
def place(browser_choice: BrowserChoice, web_server_main: tuple[str, int, object]) -> Iterator[TabPage]:
    chromium = Chromium(browser_choice)
    try:
        yield TabPage(chromium.tab, f"http://127.0.0.1:{web_server_main[1]}", "worker without JSPI")
    finally:
        chromium.quit()


def test_a_model_answers_as_the_reference_stops_and_goes_on(place: TabPage) -> None:
    for data, reference in ((LLAMA, ReferenceLlama), (GEMMA3, ReferenceGemma3)):
        first, left, second, facts = place.run(answers, model=data, prompt=PROMPT, n=6)
        assert first == likeliest(reference(data), PROMPT, first)
        assert left == likeliest(reference(data), [*PROMPT, 5], left)
        assert second == likeliest(reference(data), [*PROMPT, *first, 9], second)
        assert facts["text"] and not facts["sync"]


def test_a_blocking_call_says_what_to_use_instead(place: TabPage) -> None:
    def load(model):
        from llamaweb.sync import Llama

        Llama.load(model)

    with pytest.raises(LlamaWebError, match=r"lacks JavaScript Promise Integration; use llamaweb\.Llama with await"):
        place.run(load, model=LLAMA)
