"""The login in real browsers: they are told the secret, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from yarl import URL

from llamaweb.host.bridge import open_page
from llamaweb.host.browser import BROWSERS, BrowserChoice
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.server import Site
from tests.pages.chat_page import until
from tests.pages.stand_in import use_wheel

# Where a document is, where it was opened from, and its cookies.
TOLD = "return [location.href, document.referrer, document.cookie]"
PROBE = """
import os
import js
from pyodide.code import run_js
from pyodide.ffi import JsException

LISTEN = '''(url) => new Promise((resolve) => {
  const socket = new WebSocket(url);
  socket.onopen = socket.onmessage = () => resolve("open");
  socket.onerror = socket.onclose = () => resolve("closed");
})'''

async def handle(command, params, emit, file=None):
    try:
        bridge = await run_js(LISTEN)(params["bridge"])
    except JsException:
        bridge = "closed"
    emit({"event": "result", "told": [str(js.location.href), str(os.environ)], "bridge": bridge})
"""


def everybodys() -> str:
    """The command lines of all processes, which every user of the machine may read."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(found)


@pytest.mark.parametrize("kind", BROWSERS)
def test_neither_command_lines_nor_the_page_tell_the_secret_and_its_bridge_is_taken(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", PROBE)

    async def body() -> None:
        async with open_page(Site(ensure_distribution()), BrowserChoice(kind=kind)) as page:
            server, argv = page.server, everybodys()
            assert "--remote-debugging-" in argv
            assert server.login.secret not in argv and server.login.folder not in argv
            shown = await asyncio.to_thread(page._browser.tab.run, f"() => {{ {TOLD} }}")
            assert shown == [f"{server.url}/bridge.html", "", ""]
            bridge = server.url.replace("http", "ws") + "/bridge"
            found = await page.call("probe", {"bridge": bridge}, lambda event: None)
            assert server.login.secret not in "".join(found["told"]) and found["bridge"] == "closed"

    asyncio.run(body())


@pytest.fixture
def tab(browser: Chrome) -> Iterator[Chrome]:
    """A new one, of a browser without any cookies."""
    browser.switch_to.new_window("tab")
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    yield browser
    browser.close()
    browser.switch_to.window(browser.window_handles[0])


def test_a_browser_that_has_opened_the_printed_address_is_let_in_again_and_shows_no_secret(
    tab: Chrome, site: str
) -> None:
    secret = URL(site).query["token"]
    tab.get(site)
    inside = tab.current_url
    assert tab.title == "LlamaWeb" and secret not in "".join(tab.execute_script(TOLD))
    visited = tab.execute_cdp_cmd("Page.getNavigationHistory", {})["entries"]
    assert inside in str(visited) and [e for e in visited if secret in e["url"]] == []
    tab.refresh()
    assert (tab.title, tab.current_url) == ("LlamaWeb", inside)
    tab.execute_cdp_cmd("Network.clearBrowserCookies", {})
    tab.refresh()
    assert "open the one that `llamaweb serve` printed" in tab.find_element(By.TAG_NAME, "body").text


def test_the_printed_address_opens_from_a_link_of_another_site(tab: Chrome, site: str) -> None:
    # As in a terminal that is a page itself: what it opens is sent no strict cookie at first.
    tab.get(f"data:text/html,<a href='{site}'>the printed address</a>")
    tab.find_element(By.TAG_NAME, "a").click()
    until(lambda: tab.title == "LlamaWeb", 10)
