"""Firefox, headless on software Vulkan: models load, answer, stop and stay, in a worker and on the main thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tab_page import TabPage
from test_recognition_in_page import SAID, check_a_cpu, check_loads, seen
from unreliable_server import Fault, UnreliableServer

from llamaweb.host.browser import BrowserChoice
from llamaweb.host.cli import main
from llamaweb.host.firefox import Firefox
from tests.reference import ReferenceGemma3, ReferenceLlama
from tests.tiny import TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

WHERE = ("worker", "worker without JSPI", "main thread", "main thread without JSPI")
PROMPT = [3, 50, 110, 7, 222, 35, 90, 4, 41]
LLAMA = tiny_llama(TinyLlama(type="Q4_0", bias=True))
GEMMA3 = tiny_gemma3(TinyGemma3(type="Q8_0"))


@pytest.fixture(scope="module")
def firefox() -> Iterator[Firefox]:
    browser = Firefox(BrowserChoice(kind="firefox"))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module", params=WHERE)
def place(
    request: pytest.FixtureRequest, firefox: Firefox, web_server_main: tuple[str, int, object]
) -> Iterator[TabPage]:
    page = TabPage(firefox.bidi.new_tab(), f"http://127.0.0.1:{web_server_main[1]}", request.param)
    yield page
    page.close()


async def answers(model, prompt, n):
    """Tokens of a first turn, of one that is left after two pieces, and of one behind the whole first turn."""
    from pyodide.ffi import can_run_sync

    from llamaweb import Llama
    from llamaweb.sampling import Sampling

    async with await Llama.load(model, n_ctx=128, n_ubatch=16) as llm:
        greedy = Sampling(temperature=0)
        first = [token async for token in llm._generator.generate(prompt, greedy, n)]
        left = []
        async for token in llm._generator.generate([*prompt, 5], greedy, 60):
            left.append(token)
            if len(left) == 2:
                break
        second = [token async for token in llm._generator.generate([*prompt, *first, 9], greedy, n)]
        text = "".join([piece async for piece in llm.chat_stream([{"role": "user", "content": "Hi"}], max_tokens=3)])
        facts = {"adapter": llm.adapter, "software": llm._executor.device.profile.software, "text": text}
        return first, left, second, {**facts, "trials": len(llm.trials), "sync": can_run_sync()}


def likeliest(reference: ReferenceLlama | ReferenceGemma3, prompt: list[int], found: list[int]) -> list[int]:
    return reference.logits([*prompt, *found[:-1]])[len(prompt) - 1 :].argmax(axis=-1).tolist()


def check_answers(place: TabPage) -> Iterator[dict[str, Any]]:
    """That both families answer as the reference, stop and go on; gives the facts of each."""
    for data, reference in ((LLAMA, ReferenceLlama), (GEMMA3, ReferenceGemma3)):
        first, left, second, facts = place.run(answers, model=data, prompt=PROMPT, n=6)
        assert first == likeliest(reference(data), PROMPT, first)
        assert left == likeliest(reference(data), [*PROMPT, 5], left)
        assert second == likeliest(reference(data), [*PROMPT, *first, 9], second)
        yield facts


def test_a_model_answers_as_the_reference_stops_and_goes_on(place: TabPage) -> None:
    for facts in check_answers(place):
        # A software adapter is known although it has no name, and nothing is timed on it.
        assert facts["software"] and facts["adapter"] == "unnamed software adapter" and facts["trials"] == 0
        assert facts["text"]
        assert facts["sync"] == ("without JSPI" not in place.where)


def test_a_cpu_is_known_by_what_it_does_where_nothing_is_told(place: TabPage) -> None:
    of_device, (software, _, trials, *_), loads = place.run(seen, model=LLAMA, said=SAID)
    check_a_cpu(*of_device)
    assert software and trials == 0
    check_loads(loads)


def test_what_the_gpu_has_done_is_told_at_once_and_not_with_firefoxs_timer(place: TabPage) -> None:
    async def pauses(n):
        from llamaweb.gpu.device import Device
        from llamaweb.javascript import js_object, now_ms

        device = await Device.open()
        queue, buffers = device.handle.queue, [device.buffer("b", 16, "MAP_READ", "COPY_DST") for _ in range(n)]
        found = []
        for i in range(n):
            for what in ("done", "read"):
                queue.submit(js_object([device.handle.createCommandEncoder().finish()]))
                begin = now_ms()
                await device.wait(queue.onSubmittedWorkDone() if what == "done" else buffers[i].mapAsync(1))
                found.append(now_ms() - begin)
        device.close()
        return found

    found = sorted(place.run(pauses, n=10))
    assert found[len(found) // 2] < 40, found  # which the timer would make 100 ms


def test_a_model_from_a_url_is_there_without_its_server_after_a_reload(
    place: TabPage, server: UnreliableServer
) -> None:
    async def load(url):
        from llamaweb import Llama, cache

        llm = await Llama.load(url, n_ctx=64)
        text = "".join([piece async for piece in llm.stream("Once", max_tokens=4, temperature=0)])
        await llm.close()
        return text, [(model.url, model.complete) for model in await cache.list()]

    name = f"{place.where}.gguf".replace(" ", "-")
    url = server.url(name, LLAMA, headers={"ETag": '"1"'})
    text, kept = place.run(load, url=url)
    assert text and (url, True) in kept
    server.files[name].always = Fault()
    place.reload()
    assert place.run(load, url=url)[0] == text


def test_the_command_line_answers_in_firefox_and_leaves_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    start = Firefox.__init__

    def remember(self: Firefox, choice: BrowserChoice) -> None:
        started.append(self)
        start(self, choice)

    monkeypatch.setattr(Firefox, "__init__", remember)
    (tmp_path / "tiny.gguf").write_bytes(LLAMA)
    # Until the context ends, all of the likeliest tokens, a random seed.
    options = ["--max-tokens", "-1", "--top-k", "-1", "--seed", "-1", "--context", "20", "--temperature", "0"]
    assert main(["run", str(tmp_path / "tiny.gguf"), "--browser", "firefox", "-p", "Once", *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stopped_by"] == "context" and told["timings"]["prompt_tokens"] + len(told["tokens"]) == 21
    assert told["adapter"] == "unnamed software adapter"
    (browser,) = started
    assert browser.process.poll() is not None and not browser._profile.exists()
