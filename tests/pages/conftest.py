"""One browser and one loaded model for all tests of the chat page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from llamaweb.host.browser import BrowserChoice
from tests import driver as drivers
from tests.models import smollm2_path
from tests.pages.chat_page import ChatPage
from tests.tiny import TinyLlama, tiny_llama

# Nothing but the local server can be reached: the page must not need anything else.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


@pytest.fixture(scope="session")
def choice(request: pytest.FixtureRequest) -> BrowserChoice:
    return BrowserChoice(request.config.getoption("--chrome"), request.config.getoption("--gpu"), (OFFLINE,))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server offers as its default: a random model that holds 64 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny model.gguf"
    path.write_bytes(tiny_llama(TinyLlama(type="Q4_0", n_ctx=64)))
    return path


@pytest.fixture(scope="session")
def site(tiny_model: Path) -> Iterator[str]:
    """The address of `llamaweb serve`, in a process of its own."""
    command = [sys.executable, "-m", "llamaweb.host.cli", "serve", str(tiny_model), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())["url"]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser(choice: BrowserChoice) -> Iterator[Chrome]:
    with _browser(choice) as driver:
        yield driver


@pytest.fixture
def page(browser: Chrome, site: str) -> Iterator[ChatPage]:
    """A fresh page, without a model."""
    page = ChatPage(browser, site)
    yield page
    page.close()


@pytest.fixture
def lone_page(choice: BrowserChoice, site: str) -> Iterator[ChatPage]:
    """A page in a browser of its own, to which anything may happen."""
    with _browser(choice) as driver:
        yield ChatPage(driver, site)


@pytest.fixture
def page_without_webgpu(choice: BrowserChoice, site: str) -> Iterator[ChatPage]:
    with _browser(BrowserChoice(choice.path, flags=(OFFLINE, "--disable-software-rasterizer"))) as driver:
        yield ChatPage(driver, site)


@pytest.fixture(scope="module")
def smollm2(browser: Chrome, site: str) -> tuple[ChatPage, list[str]]:
    """A page in which SmolLM2 was chosen as a file and loaded, and what it showed meanwhile."""
    page = ChatPage(browser, site)
    steps = page.watch("loading", "[data-stage=now]")
    page.choose(smollm2_path())
    page.loaded()
    return page, [" ".join(step.split()) for step in steps()]


@pytest.fixture
def chat(smollm2: tuple[ChatPage, list[str]]) -> ChatPage:
    """SmolLM2 in a new chat, with short answers, always its likeliest."""
    page = smollm2[0]
    page.element("new-chat").click()
    page.wait(lambda: page.state == "ready" and not page.questions)
    page.element("question").clear()
    page.select("length", "brief")
    page.select("temperature", "0")
    return page


@contextmanager
def _browser(choice: BrowserChoice) -> Iterator[Chrome]:
    driver = drivers.start(choice)
    try:
        yield driver
    finally:
        drivers.stop(driver)
