"""The chat page as a person uses it, with the real default model and a tiny one, in a browser without a network."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from llamaweb.gpu.advice import no_webgpu
from tests.models import smollm2_path
from tests.pages.chat_page import ChatPage
from tests.splits import split
from tests.tiny import without_chat

CAPITAL = "What is the capital of France?"


def test_without_a_model_the_page_says_what_to_do_and_that_all_is_local(page: ChatPage) -> None:
    assert "Drop a GGUF file" in page.text("welcome")
    assert "Everything runs on this computer" in page.script("return document.body.innerText")
    question = page.element("question")
    assert not question.is_enabled() and question.get_attribute("placeholder") == "Load a model first"
    assert not page.element("send").is_enabled() and not page.element("stop").is_displayed()
    page.wait(page.element("default").is_displayed)
    assert page.text("default-name") == "tiny model.gguf"


def test_a_dropped_file_that_is_no_model_is_one_sentence(page: ChatPage) -> None:
    page.drop("holiday.jpg", b"\xff\xd8\xff\xe0 not a model")
    sentence = page.wait(lambda: page.text("error"), 30)
    assert sentence == "holiday.jpg is not a GGUF file; choose a model in that format."
    assert page.state == "empty"


def test_files_that_cannot_be_run_are_named_in_one_sentence_each(
    page: ChatPage, tiny_model: Path, tmp_path: Path
) -> None:
    whole = tiny_model.read_bytes()
    name = len(b"llama").to_bytes(8, "little")
    page.drop("mamba.gguf", whole.replace(name + b"llama", name + b"mamba", 1))
    assert "'mamba' is not supported" in page.wait(lambda: page.text("error"), 60)
    page.drop("base.gguf", without_chat(whole))
    assert "has no chat template" in page.wait(lambda: "chat" in page.text("error") and page.text("error"), 60)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:-1000])
    page.choose(cut)
    sentence = page.wait(lambda: page.state == "empty" and "cut.gguf" in page.text("error") and page.text("error"), 60)
    assert "cut.gguf" in sentence and "\n" not in sentence and "Traceback" not in sentence


def test_the_parts_of_a_split_model_are_chosen_together(page: ChatPage, tiny_model: Path, tmp_path: Path) -> None:
    parts = []
    for name, data in split(tiny_model.read_bytes(), 2, "tiny").items():
        parts.append(tmp_path / name)
        parts[-1].write_bytes(data)
    page.choose(parts[1])
    sentence = page.wait(lambda: page.text("error"), 60)
    assert "tiny-00001-of-00002.gguf cannot be read: it was not among the files that were given" in sentence
    page.choose(*reversed(parts))
    page.loaded()


def test_loading_can_be_cancelled_at_once(page: ChatPage) -> None:
    page.choose(smollm2_path())
    page.wait(lambda: page.state == "loading")
    page.element("cancel").click()
    page.wait(lambda: page.state == "empty", 60)
    assert page.text("error") == "" and page.element("default").is_displayed()


def test_of_files_dropped_while_one_loads_only_the_last_is_loaded(page: ChatPage, tiny_model: Path) -> None:
    page.script("""
        const post = Worker.prototype.postMessage;
        window.loads = [];
        Worker.prototype.postMessage = function (message) {
          if (message.command === "load") window.loads.push(message.file[0].name);
          return post.call(this, message);
        };
    """)
    page.drop("first.gguf", tiny_model.read_bytes())
    page.wait(lambda: page.state == "loading", 30)
    page.drop("second.gguf", b"GGUF")
    page.drop("third.gguf", b"GGUF")
    assert "third.gguf" in page.wait(lambda: page.state == "empty" and page.text("error"), 60)
    assert page.script("return window.loads") == ["first.gguf", "third.gguf"]


def test_a_browser_without_webgpu_is_told_so_and_what_to_do_before_anything_is_loaded(
    page_without_webgpu: ChatPage,
) -> None:
    page = page_without_webgpu
    agent, origin = page.script("return [navigator.userAgent, location.origin]")
    told = no_webgpu(agent, secure=True, origin=origin, gpu=True)
    assert page.wait(lambda: page.text("error"), 60) == told and "://settings/system" in told
    page.element("default").click()
    page.wait(lambda: page.state == "empty" and page.text("error"), 60)
    assert "no WebGPU adapter" in page.text("error")


def test_the_default_model_answers_and_a_full_context_or_a_lost_gpu_has_a_way_out(lone_page: ChatPage) -> None:
    page = lone_page
    page.wait(page.element("default").is_displayed)
    page.element("default").click()
    page.loaded()
    assert page.text("model") == "tiny model"
    page.select("length", "brief")
    page.select("temperature", "0")
    page.ask("the king")
    assert page.text("log").endswith("Ended at the length that is set below.")
    assert "tokens/s" in page.text("facts") and "GPU memory" in page.text("facts")

    page.element("new-chat").click()
    page.select("length", "no limit")
    box = page.element("question")
    box.send_keys("the other <b>king</b>", Keys.SHIFT, Keys.ENTER)
    box.send_keys(Keys.NULL, "and the king", Keys.ENTER)
    page.wait(lambda: page.state == "ready" and page.answers)
    assert page.questions == ["the other <b>king</b>\nand the king"]
    assert page.script("return document.querySelector('#log b')") is None
    assert "64 tokens of context are full" in page.text("log")

    page.send("the king and the other king " * 10)
    sentence = page.wait(lambda: page.state == "ready" and page.text("error"))
    assert "the context holds 64" in sentence
    assert len(page.questions) == 1
    assert page.element("question").get_attribute("value").startswith("the king and")
    page.way_out("New chat")
    page.wait(lambda: page.questions == [])

    page.driver.execute_cdp_cmd("Browser.crashGpuProcess", {})
    page.element("question").clear()
    page.send("the king")
    assert "The GPU device was lost" in page.wait(lambda: page.state == "ready" and page.text("error"), 30)
    page.way_out("Load it again")
    page.wait(lambda: page.state == "loading")
    page.loaded()
    assert page.element("question").get_attribute("value") == "the king"
    page.element("send").click()
    page.wait(lambda: page.state == "ready" and page.answers)


def test_loading_shows_the_header_the_weights_and_the_kernels(smollm2: tuple[ChatPage, list[str]]) -> None:
    page, steps = smollm2
    phases = ["Starting Python", "Reading the model’s header", "Loading the weights", "Compiling the kernels"]
    begun = [next(i for i, step in enumerate(steps) if step.startswith(phase)) for phase in phases]
    assert begun == sorted(begun)
    megabytes = [int(found[1]) for step in steps if (found := re.search(r"(\d+) of 98 MB( ·|$)", step))]
    assert len(megabytes) > 3 and megabytes == sorted(megabytes) and megabytes[-1] == 98
    assert page.text("model") == "SmolLM2-135M-Instruct.Q4_1"


def test_a_conversation_streams_in_is_remembered_can_be_stopped_and_goes_on(chat: ChatPage) -> None:
    texts = chat.watch("log", ".assistant .words")
    assert "Paris" in chat.ask(CAPITAL)
    seen = texts()
    assert len(seen) >= 4
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert chat.script("return document.activeElement.id") == "question"
    assert "tokens/s" in chat.text("facts") and "GPU memory 1" in chat.text("facts")

    chat.select("length", "no limit")
    chat.send("Tell me two things to see there.")
    chat.wait(lambda: "Eiffel" in chat.answers[-1])
    chat.element("stop").click()
    chat.wait(lambda: chat.state == "ready", 30)
    kept = chat.answers
    assert "Eiffel" in kept[1] and chat.text("log").endswith("Stopped.")

    chat.send("Thank you.")
    chat.wait(lambda: len(chat.answers) == 3 and chat.answers[2])
    assert chat.answers[:2] == kept
    assert chat.questions == [CAPITAL, "Tell me two things to see there.", "Thank you."]


def test_an_answer_stopped_before_its_first_word_gives_the_question_back(chat: ChatPage) -> None:
    chat.send(CAPITAL)
    chat.element("question").send_keys(Keys.ESCAPE)
    chat.wait(lambda: chat.state == "ready", 30)
    assert chat.questions == [] and chat.element("question").get_attribute("value") == CAPITAL
    assert chat.text("error") == ""
