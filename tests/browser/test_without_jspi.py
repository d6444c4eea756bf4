"""Chromium without JavaScript Promise Integration, as older Safaris are: everything but blocking calls goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tab_page import TabPage
from test_firefox import LLAMA, check_answers

from llamaweb.errors import LlamaWebError
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.chrome import Chromium


@pytest.fixture(scope="module")
def place(browser_choice: BrowserChoice, web_server_main: tuple[str, int, object]) -> Iterator[TabPage]:
    chromium = Chromium(browser_choice)
    try:
        yield TabPage(chromium.tab, f"http://127.0.0.1:{web_server_main[1]}", "worker without JSPI")
    finally:
        chromium.quit()


def test_a_model_answers_as_the_reference_stops_and_goes_on(place: TabPage) -> None:
    found = [(bool(facts["text"]), facts["sync"]) for facts in check_answers(place)]
    assert found == [(True, False)] * 2


def test_a_blocking_call_says_what_to_use_instead(place: TabPage) -> None:
    def load(model):
        from llamaweb.sync import Llama

        Llama.load(model)

    with pytest.raises(LlamaWebError, match=r"lacks JavaScript Promise Integration; use llamaweb\.Llama with await"):
        place.run(load, model=LLAMA)
