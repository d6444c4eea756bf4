"""Python in the page dies, or hears of nothing any more: page and command line say so, and a press brings it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from llamaweb.host.bridge import PageError, PageSession, open_page
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.server import Site
from tests.pages.chat_page import ChatPage
from tests.pages.stand_in import chat_site, use_wheel

STAND_IN = """
import asyncio, ctypes, pyodide_js

def die():
    ctypes.string_at(0xfffffff0, 64)

async def handle(command, params, emit, file=None):
    memory = {"total": 1}
    if command == "load" and file and file[0].name == "hang.gguf":
        while True:
            pass
    elif command == "load":
        emit({"event": "result", "name": "a model", "context": 64, "memory": memory, "adapter": "", "warnings": []})
    elif command == "chat":
        question = params["messages"][-1]["content"]
        emit({"event": "text", "text": "I " + question})
        await asyncio.sleep(0.2)
        if question == "die":
            die()
        if question == "die later":
            asyncio.get_running_loop().call_later(1, die)
        if question == "hang":
            while True:
                pass
        if question == "go round":
            at = []
            for _ in range(2000):
                await asyncio.sleep(0)
                at.append(pyodide_js._module.stackSave())
            emit({"event": "text", "text": f" and take {at[0] - at[-1]} bytes"})
        if question == "wait":
            try:
                await asyncio.sleep(1e6)
            finally:
                await asyncio.sleep(4)  # as for the GPU's work in flight
        emit({"event": "result", "tokens": [1], "memory": memory, "stopped": False, "finish_reason": "stop"})
    elif command == "webgpu":
        emit({"event": "result"})
    else:
        die()
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the chat page, in whose package an answer ends as the question says."""
    with chat_site(tmp_path_factory.mktemp("models") / "tiny.gguf", STAND_IN) as address:
        yield address


@pytest.fixture
def page(browser: Chrome, stand_in: str) -> Iterator[ChatPage]:
    """A page with the stand-in's model and one answer."""
    page = ChatPage(browser, stand_in)
    page.wait(page.element("default").is_displayed)
    page.element("default").click()
    page.loaded()
    assert page.ask("live") == "I live"
    yield page
    page.close()


def test_callbacks_leave_nothing_on_pythons_stack_which_would_end_it_one_day(page: ChatPage) -> None:
    assert page.ask("go round") == "I go round and take 0 bytes"


def goes_on(page: ChatPage) -> None:
    """The conversation is still there, the model is again after a press, and answers."""
    before = page.questions
    page.way_out("Load it again")
    page.loaded()
    assert page.questions == before
    page.element("question").clear()
    assert page.ask("again") == "I again"
    assert page.questions == [*before, "again"] and page.answers[0] == "I live"


def test_python_that_dies_in_an_answer_is_said_at_once_and_can_be_started_again(page: ChatPage) -> None:
    page.send("die")
    page.wait(lambda: page.state == "answering", 30)
    sentence = page.wait(lambda: page.text("error"), 30)
    assert sentence.startswith("Python in the page has ended (") and "\n" not in sentence.removesuffix(
        "\nLoad it again"
    )
    assert page.state == "gone" and not page.element("send").is_enabled() and page.element("other").is_displayed()
    assert page.answers == ["I live", "I die"] and "Broken off." in page.text("log")
    page.element("question").send_keys("in vain\n")
    assert page.state == "gone" and page.questions == ["live", "die"]
    goes_on(page)


def test_python_that_dies_while_nothing_goes_on_is_said_too(page: ChatPage) -> None:
    assert page.ask("die later") == "I die later"
    page.wait(lambda: page.state == "gone", 30)
    assert "Python in the page has ended (" in page.text("error")
    goes_on(page)


def test_stop_ends_python_that_does_not_hear_of_it(page: ChatPage) -> None:
    page.send("hang")
    page.wait(lambda: page.state == "answering" and len(page.answers) == 2, 30)
    time.sleep(0.5)
    page.element("stop").click()
    page.wait(lambda: page.state == "gone", 30)
    assert page.text("error").startswith("Python did not react to being stopped, and was ended.")
    goes_on(page)


def test_a_load_that_hears_of_nothing_can_be_cancelled_without_a_word(page: ChatPage) -> None:
    page.drop("hang.gguf", b"GGUF")
    page.wait(lambda: page.state == "loading", 30)
    time.sleep(0.5)
    page.element("cancel").click()
    page.wait(lambda: page.state == "empty", 30)
    assert page.text("error") == ""
    page.drop("another.gguf", b"GGUF")
    page.wait(lambda: page.state == "ready", 60)


def test_python_that_waits_for_the_gpu_is_not_ended_by_stop(page: ChatPage) -> None:
    page.send("wait")
    page.wait(lambda: page.state == "answering" and len(page.answers) == 2, 30)
    page.element("stop").click()
    page.wait(lambda: page.state != "answering", 30)
    assert page.state == "ready" and page.text("error") == "" and page.text("log").endswith("Stopped.")
    page.element("question").clear()
    assert page.ask("live") == "I live"


@pytest.mark.parametrize("question", ["die", "hang"])
def test_another_model_can_always_be_chosen(page: ChatPage, question: str) -> None:
    page.send(question)
    page.wait(lambda: len(page.answers) == 2, 30)
    time.sleep(0.5)
    page.drop("another.gguf", b"GGUF and more")
    page.wait(lambda: page.state == "ready" and page.text("model") == "another", 60)
    assert page.text("error") == "" and page.questions == []
    assert page.ask("live") == "I live"


def test_the_command_line_says_it_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", STAND_IN)

    async def use(page: PageSession) -> None:
        async with asyncio.timeout(30):
            await page.call("run", {}, lambda event: None)

    async def body() -> None:
        async with open_page(Site(ensure_distribution()), BrowserChoice()) as page:
            await use(page)

    with pytest.raises(PageError, match=r"^Python in the page has ended \(.+\); try again, or a smaller model\.$"):
        asyncio.run(body())
