"""The bridge between the command line and a real page, with a stand-in for what the page computes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llamaweb.errors import ContextError
from llamaweb.host import chrome
from llamaweb.host.bridge import PageError, PageSession, open_page
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.server import Site
from tests.pages.stand_in import use_wheel

STAND_IN = """
import asyncio
from llamaweb.errors import ContextError

async def handle(command, params, emit, file=None):
    emit({"event": "progress", "phase": "weights", "done": 1, "total": 5_000_000_000, "unit": "B"})
    if command == "too long":
        raise ContextError("The prompt is too long.")
    if command == "sleep":
        await asyncio.sleep(600)
    emit({"event": "text", "text": "é😀"})
    emit({"event": "result", "params": params})
"""


@pytest.fixture
def browsers(monkeypatch: pytest.MonkeyPatch) -> list[chrome.Chromium]:
    """The browsers that were started."""
    started: list[chrome.Chromium] = []
    start = chrome.Chromium

    def remember(choice: BrowserChoice) -> chrome.Chromium:
        started.append(start(choice))
        return started[-1]

    monkeypatch.setattr(chrome, "Chromium", remember)
    return started


def has_ended(browser: chrome.Chromium) -> bool:
    return browser.cdp is not None and browser.cdp.process.poll() is not None


def in_page(use: Callable[[PageSession], Awaitable[Any]]) -> Any:
    async def body() -> Any:
        async with open_page(Site(ensure_distribution()), BrowserChoice()) as page:
            return await use(page)

    return asyncio.run(body())


def test_events_pass_in_order_and_errors_come_out_as_they_were(
    monkeypatch: pytest.MonkeyPatch, browsers: list[chrome.Chromium]
) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", STAND_IN)
    events: list[dict[str, Any]] = []

    async def use(page: PageSession) -> Any:
        with pytest.raises(ContextError, match=r"The prompt is too long\."):
            await page.call("too long", {}, events.append)
        events.clear()
        return await page.call("run", {"prompt": "ü", "seed": None}, events.append)

    assert in_page(use) == {"params": {"prompt": "ü", "seed": None}}
    assert [event["event"] for event in events] == ["progress", "text"]
    assert events[0]["total"] == 5_000_000_000 and events[1]["text"] == "é😀"
    assert has_ended(browsers[0])


def test_what_no_page_can_read_is_an_error_and_not_silence(
    monkeypatch: pytest.MonkeyPatch, browsers: list[chrome.Chromium]
) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", STAND_IN)

    async def use(page: PageSession) -> Any:
        with pytest.raises(ValueError, match="not JSON compliant"):
            await page.call("run", {"temperature": float("inf")}, lambda event: None)
        send = page._socket.send_json
        # The first fails where the page reads it, the second in its worker.
        for text, sentence in (("{Infinity}", "cannot read a message"), ("null", "did not start")):
            monkeypatch.setattr(page._socket, "send_json", lambda *_, text=text, **__: page._socket.send_str(text))
            async with asyncio.timeout(30):
                with pytest.raises(PageError, match=sentence):
                    await page.call("run", {}, lambda event: None)
        monkeypatch.setattr(page._socket, "send_json", send)
        return await page.call("run", {}, lambda event: None)

    assert in_page(use) == {"params": {}}


def test_a_browser_that_dies_is_one_sentence(monkeypatch: pytest.MonkeyPatch, browsers: list[chrome.Chromium]) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", STAND_IN)

    async def use(page: PageSession) -> Any:
        return await page.call("sleep", {}, lambda event: browsers[0].quit())

    with pytest.raises(PageError, match="ended unexpectedly"):
        in_page(use)


def test_python_that_does_not_start_in_the_page_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, browsers: list[chrome.Chromium]
) -> None:
    use_wheel(monkeypatch, "llamaweb/page/worker.py", "raise ImportError('the wheel is broken')")
    with pytest.raises(PageError, match="Python did not start in the page: ImportError: the wheel is broken"):
        in_page(lambda page: asyncio.sleep(0))
    assert has_ended(browsers[0])


def test_cancelling_closes_the_browser(monkeypatch: pytest.MonkeyPatch, browsers: list[chrome.Chromium]) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", STAND_IN)

    async def use(page: PageSession) -> Any:
        task = asyncio.current_task()
        assert task is not None
        return await page.call("sleep", {}, lambda event: task.cancel())

    with pytest.raises(asyncio.CancelledError):
        in_page(use)
    assert has_ended(browsers[0])
