"""The chat page with a stand-in for the model: what Python is asked for, keys, scrolling, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.pages.chat_page import ChatPage
from tests.pages.stand_in import chat_site

# Answers with what it was asked for, or as the question's first word says.
STAND_IN = """
import asyncio, json

memory = {"total": 816_900_000}
asked = {}

async def handle(command, params, emit, file=None):
    def tell(reason, by, **more):
        timings = {"first_token_ms": 1234, "generated_per_second": 56.78}
        done = {"tokens": [1], "memory": memory, "adapter": "a GPU", "timings": timings, "finish_reason": reason}
        emit({"event": "result", "stopped": False, "stopped_by": by, **done, **more})

    if command == "load":
        asked.clear()
        asked.update(params)
        told = {"name": "Tiny of a test", "context": 64, "warnings": ["A word of warning."]}
        emit({"event": "result", "memory": memory, "adapter": "a GPU", **told})
        if file and file[0].name == "tuned.gguf":
            emit({"event": "progress", "phase": "tuning", "done": 1, "total": 3})
            await asyncio.sleep(1)
            emit({"event": "progress", "phase": "tuning", "done": 3, "total": 3})
    elif command == "webgpu":
        emit({"event": "result"})
    else:
        kind = params["messages"][-1]["content"].split()[0]
        if kind == "settings":
            emit({"event": "text", "text": json.dumps({"load": asked, "chat": params})})
        elif kind == "lines":
            for line in range(100):
                emit({"event": "text", "text": f"line {line}\\n"})
                await asyncio.sleep(0.02)
        elif kind == "wait":
            emit({"event": "text", "text": "so far"})
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                return tell("stop", None, stopped=True)
        elif kind != "nothing":
            emit({"event": "text", "text": "<b>" + kind + "</b> & "})
            emit({"event": "text", "text": "so on"})
        else:
            await asyncio.sleep(1)
        tell("length" if kind in ("full", "long") else "stop", {"full": "context", "long": "max_tokens"}.get(kind))
"""
# Presses Enter, and gives the page's state at once.
ENTER = """
    const event = new KeyboardEvent("keydown", { key: "Enter", cancelable: true, bubbles: true, ...arguments[0] });
    document.getElementById("question").dispatchEvent(event);
    return document.body.dataset.state;
"""
USUAL = {"context": None, "memory_budget": None, "type_k": "f16", "type_v": "f16", "cache": True}


@pytest.fixture(scope="module")
def page(browser: Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatPage]:
    with chat_site(tmp_path_factory.mktemp("models") / "Tiny.gguf", STAND_IN) as address:
        page = ChatPage(browser, address)
        page.wait(page.element("default").is_displayed)
        page.element("default").click()
        page.loaded()
        yield page
        page.close()


@pytest.fixture
def chat(page: ChatPage) -> ChatPage:
    page.element("new-chat").click()
    page.wait(lambda: page.state == "ready" and not page.questions)
    page.element("question").clear()
    return page


def asked(page: ChatPage) -> dict[str, Any]:
    return json.loads(page.ask("settings"))


def test_a_loaded_model_is_shown_with_its_name_its_room_and_its_warnings(page: ChatPage) -> None:
    assert page.text("model") == "Tiny" and page.element("model").get_attribute("title") == "Tiny of a test"
    assert page.text("facts") == "room for 64 tokens · GPU memory 816.9 MB"
    assert page.element("facts").get_attribute("title") == "a GPU"
    assert page.text("log") == "A word of warning." and page.text("tuning") == ""
    assert page.script("return document.activeElement.id") == "question"
    assert page.script("return document.getElementById('status').textContent") == "Tiny.gguf is ready."


def test_python_gets_what_is_set_and_the_conversation(chat: ChatPage) -> None:
    first = asked(chat)
    url = first["load"].pop("model")
    assert url.startswith("http://127.0.0.1:") and url.endswith("/model/Tiny.gguf")
    assert first["load"] == USUAL
    messages = [{"role": "user", "content": "settings"}]
    assert first["chat"] == {"messages": messages, "temperature": 0.8, "max_tokens": 256}
    for length, temperature, expected in (
        ("brief", "0", {"temperature": 0, "max_tokens": 24}),
        ("no limit", "1.2", {"temperature": 1.2}),
    ):
        chat.select("length", length)
        chat.select("temperature", temperature)
        messages += [{"role": "assistant", "content": chat.answers[-1]}, {"role": "user", "content": "settings"}]
        assert asked(chat)["chat"] == {"messages": messages, **expected}
    chat.element("new-chat").click()
    chat.wait(lambda: not chat.questions)
    assert chat.text("facts") == "room for 64 tokens · GPU memory 816.9 MB"
    assert asked(chat)["chat"]["messages"] == messages[:1]


def test_an_answer_is_text_and_its_figures_and_end_are_told(chat: ChatPage) -> None:
    assert chat.ask("hello") == "<b>hello</b> & so on"
    assert chat.text("facts") == "56.8 tokens/s · first word after 1.2 s · GPU memory 816.9 MB"
    assert chat.text("log").endswith("so on")
    chat.ask("long")
    assert chat.text("log").endswith("so on\nEnded at the length that is set below.")
    chat.ask("full")
    end = "Ended here: the model's 64 tokens of context are full. Begin a new chat."
    assert chat.text("log").endswith(f"so on\n{end}")


def test_enter_sends_what_is_no_blank_and_no_composition_and_escape_stops(chat: ChatPage) -> None:
    question = chat.element("question")
    question.send_keys("   ", Keys.ENTER)
    assert chat.questions == [] and not chat.element("send").is_enabled()
    assert chat.script(ENTER, {}) == "ready"
    question.clear()
    low = question.size["height"]
    question.send_keys("one", Keys.SHIFT + Keys.ENTER + Keys.NULL, "two")
    assert chat.questions == [] and question.get_attribute("value") == "one\ntwo"
    assert question.size["height"] > low and chat.element("send").is_enabled()
    assert chat.script(ENTER, {"isComposing": True}) == "ready"
    assert chat.questions == []
    chat.element("send").click()
    chat.wait(lambda: chat.state == "ready" and chat.answers)
    assert chat.questions == ["one\ntwo"] and question.size["height"] == low
    chat.send(" wait ")
    chat.wait(lambda: chat.answers[-1] == "so far")
    assert chat.questions[-1] == "wait" and chat.element("stop").is_displayed()
    assert not chat.element("send").is_displayed()
    question.send_keys("meanwhile", Keys.ENTER)
    assert chat.questions[-1] == "wait"
    question.send_keys(Keys.ESCAPE)
    chat.wait(lambda: chat.state == "ready")
    assert chat.text("log").endswith("so far\nStopped.") and question.get_attribute("value") == "meanwhile"


def test_a_question_without_an_answer_goes_back_unless_another_one_was_begun(chat: ChatPage) -> None:
    chat.send("nothing")
    chat.wait(lambda: chat.state == "answering" and chat.questions == ["nothing"])
    chat.wait(lambda: chat.state == "ready")
    question = chat.element("question")
    assert chat.questions == [] and question.get_attribute("value") == "nothing"
    question.send_keys(Keys.ENTER)
    chat.wait(lambda: chat.state == "answering")
    question.send_keys("another")
    chat.wait(lambda: chat.state == "ready")
    assert chat.questions == [] and question.get_attribute("value") == "another"
    question.clear()
    assert len(asked(chat)["chat"]["messages"]) == 1


def test_the_page_follows_an_answer_unless_its_reader_has_scrolled_up(chat: ChatPage) -> None:
    left = "const m = document.getElementById('main'); return m.scrollHeight - m.scrollTop - m.clientHeight"
    chat.ask("lines")
    assert chat.script(left) < 80
    chat.send("lines")
    chat.wait(lambda: "line 9\n" in chat.answers[-1])
    chat.script("document.getElementById('main').scrollTop = 100")
    chat.wait(lambda: chat.state == "ready")
    assert chat.script("return document.getElementById('main').scrollTop") == 100


def test_files_that_are_dragged_over_the_page_are_expected_and_other_things_are_not(chat: ChatPage) -> None:
    drag = """
        const [type, file, relatedTarget] = arguments;
        const dataTransfer = new DataTransfer();
        if (file) dataTransfer.items.add(new File(["GGUF"], "x"));
        else dataTransfer.items.add("words", "text/plain");
        const event = new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true, relatedTarget });
        document.body.dispatchEvent(event);
        return [event.defaultPrevented, document.body.classList.contains("dragging")];
    """
    assert chat.script(drag, "dragover", False, None) == [False, False]
    assert chat.script(drag, "drop", False, None) == [False, False]
    assert chat.script(drag, "dragover", True, None) == [True, True]
    assert chat.script(drag, "dragleave", True, chat.element("log")) == [False, True]
    assert chat.script(drag, "dragleave", True, None) == [False, False]
    assert chat.state == "ready" and chat.text("error") == ""


def test_settings_hold_for_the_next_model_and_its_tuning_is_told_while_it_lasts(page: ChatPage) -> None:
    if page.element("settings").get_attribute("open") is None:
        page.element("settings").click()
    for id, choice in (("context", "all that fits"), ("budget", "2,000 MB"), ("cache", "q8_0")):
        page.select(id, choice)
    page.drop("tuned.gguf", b"GGUF and more")
    page.wait(lambda: page.state == "ready" and page.text("model") == "tuned")
    sentence = page.wait(lambda: page.text("tuning"))
    assert sentence.endswith("fastest kernels, while nothing else is to do: 1 of 3")
    assert page.questions == [] and page.text("log") == "A word of warning."
    page.wait(lambda: page.text("tuning") == "")
    large = {"context": 0, "memory_budget": 2_000_000_000, "type_k": "q8_0", "type_v": "q8_0"}
    assert asked(page)["load"] == {**USUAL, **large}
    for id, choice in (("context", "usual"), ("budget", "none"), ("cache", "f16")):
        page.select(id, choice)


def test_quantities_are_written_for_a_person(page: ChatPage) -> None:
    code = """
        const [given, done] = arguments;
        const url = new URL("units.js", location.href).href;
        import(url).then(({ size, amount }) => done(given.map((x) => (x.of ? amount(x.of) : size(x)))));
    """
    header, weights, kernels = {"phase": "header"}, {"phase": "weights"}, {"phase": "pipelines"}
    far = {**weights, "done": 40_400_000, "total": 1_000_600_000, "rate": 12_340_000}
    table = [
        (0, "0.0 MB"),
        (1_234_567_890, "1,234.6 MB"),
        ({"of": header}, ""),
        ({"of": {**header, "done": 1_260_000}}, "1.3 MB"),
        ({"of": weights}, ""),
        ({"of": {**weights, "done": 1_600_000, "total": 98_400_000}}, "2 of 98 MB"),
        ({"of": {**kernels, "done": 2, "total": 9, "rate": 1, "seconds_left": 9}}, "2 of 9"),
        ({"of": {**far, "seconds_left": 2}}, "40 of 1001 MB"),
        ({"of": {**far, "seconds_left": 2.5}}, "40 of 1001 MB · 12.3 MB/s · 3 s left"),
        ({"of": {**far, "seconds_left": 89.5}}, "40 of 1001 MB · 12.3 MB/s · 90 s left"),
        ({"of": {**far, "seconds_left": 90}}, "40 of 1001 MB · 12.3 MB/s · 2 min left"),
        ({"of": {**far, "seconds_left": 5399}}, "40 of 1001 MB · 12.3 MB/s · 90 min left"),
        ({"of": {**far, "seconds_left": 5400}}, "40 of 1001 MB · 12.3 MB/s · 1.5 h left"),
        ({"of": {**far, "rate": 0, "seconds_left": 90}}, "40 of 1001 MB"),
    ]
    page.script("return 0")
    found = page.driver.execute_async_script(code, [given for given, _ in table])
    assert found == [expected for _, expected in table]
