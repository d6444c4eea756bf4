"""Two tabs of one origin that load the same model share its file in the browser's storage, and never spoil it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from browser_page import Page, Runner
from unreliable_server import UnreliableServer

from llamaweb.host.browser import BrowserChoice
from tests.tiny import TinyLlama, tiny_llama

MODEL = tiny_llama(TinyLlama(n_layer=1, n_embd=256, n_ff=1024))  # large enough to be slow
SHA256 = hashlib.sha256(MODEL).hexdigest()

# Begins to load, and comes back when `enough` bytes of the file are there; END gives eight tokens and warnings.
BEGIN = """
import asyncio, builtins, warnings
from llamaweb.llama import Llama

begun = asyncio.Event()

def report(progress):
    if progress.unit == "B" and progress.done >= enough:
        begun.set()

async def load():
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = {"n_ctx": 32, "n_ubatch": 1, "tune": "off", "sha256": sha256}
            async with await Llama.load(url, progress=report, **options) as llm:
                async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=8, ignore_eos=True):
                    pass
        return llm.tokens, [str(warning.message) for warning in caught]
    finally:
        begun.set()

builtins.tab_load = asyncio.ensure_future(load())
await begun.wait()
"""
END = "import builtins\nreturn await builtins.tab_load"

STORED = """
import hashlib
from llamaweb import cache
from llamaweb.files import model_cache
file = await model_cache.opfs().file(model_cache.key(url))
digest = hashlib.sha256((await file.arrayBuffer()).to_bytes()).hexdigest()
return [(model.stored, model.size, model.verified) for model in await cache.list()], digest
"""


class TabRunner(Runner):
    """A tab of a browser that is there, with a Pyodide of its own."""

    def __init__(self, beside: Runner) -> None:
        self._beside = beside
        super().__init__(BrowserChoice(), server_port=beside.server_port, server_hostname=beside.server_hostname)

    def get_driver(self, jspi: bool = False) -> Any:
        self._beside.driver.switch_to.new_window("tab")
        return self._beside.driver


class Tab:
    """A page that is brought to the front for what it runs."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._driver = page.runner.driver
        self._handle = self._driver.current_window_handle

    def run(self, code: str, **args: Any) -> Any:
        self._driver.switch_to.window(self._handle)
        return self.page.run(code, **args)

    def close(self) -> None:
        """As a person does, whatever goes on in it."""
        if self._handle in self._driver.window_handles:
            self._driver.switch_to.window(self._handle)
            self._driver.close()


@pytest.fixture
def tabs(page: Page) -> Iterator[tuple[Tab, Tab]]:
    first = Tab(page)
    first.run("from llamaweb import cache\nawait cache.clear()")
    second = Tab(Page(TabRunner(page.runner)))
    yield first, second
    second.close()
    first.run("pass")


def serve(server: UnreliableServer) -> dict[str, Any]:
    url = server.url("shared.gguf", MODEL, headers={"ETag": '"1"'}, pace=0.05)
    return {"url": url, "sha256": SHA256, "enough": 0}


def test_two_tabs_load_one_model_at_once_and_it_is_kept_whole(tabs: tuple[Tab, Tab], server: UnreliableServer) -> None:
    how = serve(server)
    for tab in tabs:
        tab.run(BEGIN, **how)
    (tokens, warned), other = (tab.run(END) for tab in tabs)
    assert len(tokens) == 8 and warned == [] and other == (tokens, [])
    for tab in tabs:
        assert tab.run(STORED, url=how["url"]) == ([(len(MODEL), len(MODEL), True)], SHA256)
    del server.files["shared.gguf"]
    for tab in tabs:
        tab.run(BEGIN, **how)
    assert [tab.run(END) for tab in tabs] == [(tokens, [])] * 2


def test_when_the_tab_that_keeps_a_model_is_closed_the_other_loads_it_and_the_next_load_goes_on(
    tabs: tuple[Tab, Tab], server: UnreliableServer
) -> None:
    first, second = tabs
    how = serve(server)
    second.run(BEGIN, **{**how, "enough": 2 << 20})
    first.run(BEGIN, **how)
    second.close()
    tokens, _ = first.run(END)
    [(stored, size, verified)], _ = first.run(STORED, url=how["url"])
    assert 0 < stored < size == len(MODEL) and not verified
    server.files["shared.gguf"].requests.clear()
    first.run(BEGIN, **how)
    assert first.run(END) == (tokens, [])
    assert f"GET bytes={stored}-{size - 1}" in server.files["shared.gguf"].requests
    assert first.run(STORED, url=how["url"]) == ([(size, size, True)], SHA256)
