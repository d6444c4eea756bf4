"""What callers give: every wrong value of every argument is a sentence, before anything of the model is touched."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fake_gpu import FakeGPU
from tests.no_page import no_page
from tests.tiny import tiny_llama

NO_WHOLE = [2.5, float("nan"), float("inf"), -float("inf"), "3", b"3", True, np.bool_(True), [1], {}, 1j, object()]
NO_NUMBER = [float("nan"), float("inf"), np.float32("nan"), "0.5", True, [0.5], {}, 1j, object()]
NO_TEXT = [5, 2.5, True, object(), {}]
HUGE = [10**30, -(10**30), 10**5000, 1e300]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """Modules of llamaweb by name, as they are imported in a page."""
    with no_page():
        yield lambda name: importlib.import_module(f"llamaweb.{name}")


class Untouched(FakeGPU):
    """A GPU that only answers when it may."""

    may = False

    def write_io(self, word: int, data: np.ndarray) -> None:
        assert self.may, "the GPU was touched"
        super().write_io(word, data)


@pytest.fixture
def llm(page: Any) -> Any:
    """A Llama on a GPU that is none, but with a real vocabulary."""
    from llamaweb.model.gguf_file import read_header
    from llamaweb.model.source import BytesSource
    from llamaweb.tokenizer import load_tokenizer

    file = asyncio.run(read_header(BytesSource(tiny_llama())))
    gpu = Untouched()
    gpu.device = SimpleNamespace(lost=False, closed=False)  # type: ignore[attr-defined]
    module = page("llama")
    module.now_ms = lambda: 0.0
    module.begin = lambda work: work.close()  # nothing goes on in the background

    async def finish(turns: Any, spare: Any) -> None: ...

    loaded = SimpleNamespace(
        file=file,
        tokenizer=load_tokenizer(file.metadata),
        executor=gpu,
        load_ms=0.0,
        weights_ms=0.0,
        free=lambda: None,
        finish=finish,
    )

    async def again(before: Any) -> Any:
        return loaded

    return module.Llama._of(loaded, again, "off", False)


MESSAGES = [{"role": "user", "content": "the king"}]
OPTIONS: dict[str, list[Any]] = {
    "max_tokens": [*NO_WHOLE, 0, -2, -(10**30)],
    "temperature": [*NO_NUMBER, -0.1, 101, *HUGE],
    "top_k": [*NO_WHOLE, -2, -(10**30)],
    "top_p": [*NO_NUMBER, -0.1, -1, 1.1, *HUGE],
    "min_p": [*NO_NUMBER, -0.1, 1.1, *HUGE],
    "seed": [*NO_WHOLE, -2, 2**32, *HUGE],
    "stop": [*NO_TEXT, [5], [b"x"], [None], {"a": 1}, {"a"}, b"x"],
    "special": ["no", 2, [], 0.5, object()],
    "ignore_eos": ["no", 2, [], 0.5, object()],
}
IDS = [
    None,
    5,
    2.5,
    True,
    object(),
    "1 2",
    {1: 2},
    {1, 2},
    [1.5],
    ["1"],
    [True],
    [None],
    [-1],
    [10**30],
    [[1]],
    np.array(5),
]
PROMPTS = [p for p in IDS if p != "1 2"] + [[], np.array([0.5]), np.array([[1]])]
CHATS = [
    None,
    [],
    5,
    "hello",
    {"role": "user", "content": "hello"},
    ["hello"],
    [{"content": "hello"}],
    [{"role": 5, "content": "hello"}],
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": b"\xff"}],
    [{"role": "user", "content": [5]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"text": "x"}]}],
]


def calls() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every wrong call of an object's methods, by name."""

    def listed(name: str, values: list[Any], call: Callable[..., Any]) -> Iterator[tuple[str, Callable]]:
        for value in values:
            yield f"{name} {type(value).__name__}", partial(call, v=value)

    for option, values in OPTIONS.items():
        yield from listed(f"stream {option}", values, lambda llm, v, o=option: llm.stream("the", **{o: v}))
        yield from listed(f"chat_stream {option}", values, lambda llm, v, o=option: llm.chat_stream(MESSAGES, **{o: v}))
        yield from listed(f"complete {option}", values[:4], lambda llm, v, o=option: llm.complete("the", **{o: v}))
        yield from listed(f"chat {option}", values[:4], lambda llm, v, o=option: llm.chat(MESSAGES, **{o: v}))
    yield from listed("stream prompt", PROMPTS, lambda llm, v: llm.stream(v))
    yield from listed("stream prompt", [[5] * 41, "the " * 100], lambda llm, v: llm.stream(v))
    yield from listed("chat_stream messages", CHATS, lambda llm, v: llm.chat_stream(v))
    yield from listed("chat messages", CHATS, lambda llm, v: llm.chat(v))
    yield from listed("tokenize text", [None, *NO_TEXT, [1]], lambda llm, v: llm.tokenize(v))
    yield from listed("tokenize add_bos", ["no", 2], lambda llm, v: llm.tokenize("the", add_bos=v))
    yield from listed("tokenize special", ["no", 2], lambda llm, v: llm.tokenize("the", special=v))
    yield from listed("detokenize tokens", IDS, lambda llm, v: llm.detokenize(v))
    yield from listed("detokenize special", ["no", 2], lambda llm, v: llm.detokenize([5], special=v))
    yield from listed("log_probabilities", [*IDS, [], [5] * 41], lambda llm, v: llm.log_probabilities(v))
    yield from listed("perplexity text", [None, *NO_TEXT, [1], ""], lambda llm, v: llm.perplexity(v))
    yield from listed("perplexity n_ctx", [*NO_WHOLE, 1, 41, *HUGE], lambda llm, v: llm.perplexity("the king", v))
    yield from listed("perplexity progress", [5, "x"], lambda llm, v: llm.perplexity("the king", progress=v))
    for name in ("n_prompt", "n_generate", "depth"):
        yield from listed(f"profile {name}", [*NO_WHOLE, -1], lambda llm, v, n=name: llm.profile(**{n: v}))
    yield from listed("profile repetitions", [*NO_WHOLE, 0, -1, *HUGE], lambda llm, v: llm.profile(repetitions=v))


def sentence(error: Exception) -> str:
    """The error as a person reads it: one sentence, that ends, of a readable length."""
    told = str(error)
    assert type(error).__module__ == "llamaweb.errors", repr(error)
    assert told.endswith(".") and "\n" not in told and 20 < len(told) < 300 and ";" in told, told
    return told


def test_every_wrong_argument_is_a_sentence_and_the_next_call_gives_the_same_answer(llm: Any) -> None:
    gpu = llm._executor

    async def plain() -> str:
        gpu.may = True
        try:
            return await llm.complete("the king", max_tokens=6, temperature=0)
        finally:
            gpu.may = False

    async def play() -> int:
        expected, seen = await plain(), 0
        for name, call in calls():
            before = llm.tokens, llm.finish_reason, llm.conversation
            try:
                found = call(llm)
                if inspect.iscoroutine(found):
                    found = await found
            except Exception as error:
                told = sentence(error)
            else:
                raise AssertionError(f"{name} was taken: {found!r}")
            what = name.split()[1] if name.startswith(("stream", "complete", "tokenize", "profile")) else ""
            assert not what or what.removesuffix("s") in told.lower(), (name, told)
            assert (llm.tokens, llm.finish_reason, llm.conversation) == before
            seen += 1
            if seen % 20 == 0:
                assert await plain() == expected
        assert await plain() == expected
        return seen

    assert asyncio.run(play()) > 300


WRONG_LOADS: dict[str, list[Any]] = {
    "n_ctx": [*(v for v in NO_WHOLE), -1, -(10**30)],
    "n_ubatch": [*NO_WHOLE, 0, -1],
    "memory_budget": [*NO_WHOLE, 0, -1],
    "logits_all": ["no", 2, []],
    "type_k": ["q5_9", "", 8, True, ["f16"]],
    "type_v": ["q5_9", "", 8, True, ["f16"]],
    "tune": ["fast", "", 5, True, ["auto"]],
    "unfused": ["norm", ["nomr"], 5, [5], {"norm": 1}],
    "cache": ["no", "Only", "", 2, ["only"]],
    "sha256": [5, True, "abc", b"0" * 64, np.array(["a", "b"])],
    "chat": ["no", 2],
    "check": ["no", 2],
    "recover": ["on", 5, True],
    "progress": [5, "print"],
}


@pytest.mark.parametrize("name", WRONG_LOADS)
def test_wrong_options_of_load_are_refused_before_anything_is_read(page: Any, name: str) -> None:
    class Unread:
        """A source that nobody may read."""

        name = "model.gguf"

        async def size(self) -> int:
            raise AssertionError("the file was read")

        read = stream = size

    for value in WRONG_LOADS[name]:
        given = "https://example.org/model.gguf" if name == "sha256" else Unread()
        with pytest.raises(page("errors").LlamaWebError) as caught:
            asyncio.run(page("llama").Llama.load(given, **{name: value}))
        assert name in sentence(caught.value) or name in ("sha256", "unfused")


@pytest.mark.parametrize("name", ["repo_id", "filename", "revision", "token", "endpoint", "cache"])
def test_wrong_arguments_of_from_pretrained_are_refused(page: Any, name: str) -> None:
    given = {"repo_id": "owner/name", "filename": "*.gguf"}
    for value in (5, 2.5, object(), ["a"], np.array(["a", "b"]), *(() if name in ("token", "cache") else ("",))):
        with pytest.raises(page("errors").LlamaWebError, match=name):
            asyncio.run(page("llama").Llama.from_pretrained(**{**given, name: value}))


def test_numbers_of_every_kind_none_and_minus_one_mean_what_they_do_in_llama_cpp_python(llm: Any) -> None:
    llm._executor.may = True

    async def play() -> None:
        plain = await llm.complete("the king", max_tokens=6, temperature=0)
        for max_tokens in (6.0, np.int64(6), np.uint8(6), np.float32(6), Fraction(6)):
            for temperature in (0, np.float32(0), np.int8(0), Fraction(0)):
                assert await llm.complete("the king", max_tokens=max_tokens, temperature=temperature) == plain
                assert (llm.finish_reason, llm.stopped_by) == ("length", "max_tokens")
        nothing = dict.fromkeys(("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "special"))
        await llm.complete("the king", **nothing, ignore_eos=True)
        assert (llm.finish_reason, llm.stopped_by) == ("length", "context") and len(llm.conversation) == 41
        await llm.complete("the king", max_tokens=-1, seed=-1, top_k=-1, ignore_eos=True)
        assert llm.stopped_by == "context" and len(llm.conversation) == 41
        ids = llm.tokenize("the king")
        for same in (
            b"the king",
            bytearray(b"the king"),
            memoryview(b"the king"),
            ids,
            tuple(ids),
            np.array(ids),
            iter(ids),
        ):
            assert await llm.complete(same, max_tokens=6, temperature=0) == plain
        for stop in ("", [""], ["", ""], (), None, []):
            assert await llm.complete("the king", max_tokens=6, temperature=0, stop=stop) == plain
        assert llm.detokenize(np.array(ids)) == llm.detokenize(ids) and llm.tokenize(b"the king") == ids

    asyncio.run(play())


def test_an_answer_says_why_it_ended(llm: Any) -> None:
    gpu = llm._executor
    gpu.may = True

    async def play() -> None:
        text = await llm.complete("the king", max_tokens=12, temperature=0, ignore_eos=True)
        stop = text[3:5]
        assert (
            await llm.complete("the king", max_tokens=12, temperature=0, stop=["~~~", stop]) == text[: text.find(stop)]
        )
        assert (llm.finish_reason, llm.stopped_by) == ("stop", stop)
        llm.tokenizer.eog = frozenset([llm.tokens[0]])
        assert await llm.complete("the king", max_tokens=12, temperature=0) == ""
        assert llm.finish_reason == "stop" and llm.stopped_by and llm.tokens == []
        pieces = llm.stream("the king", max_tokens=12, temperature=0, ignore_eos=True)
        await anext(pieces)
        assert llm.finish_reason is None and llm.stopped_by is None
        await pieces.aclose()
        assert llm.finish_reason is None

    asyncio.run(play())


def test_an_answer_that_was_left_writes_nothing_into_the_next_one(llm: Any) -> None:
    llm._executor.may = True

    async def play() -> None:
        alone = await llm.complete("the king", max_tokens=6, temperature=0)
        left = llm.stream("in the and", max_tokens=20, temperature=0, ignore_eos=True)
        await anext(left)
        assert await llm.complete("the king", max_tokens=6, temperature=0) == alone
        seen = llm.tokens, llm.timings, llm.finish_reason
        with pytest.raises(Exception, match="Another answer was begun"):
            while True:
                await anext(left)
        assert (llm.tokens, llm.timings, llm.finish_reason) == seen

    asyncio.run(play())


def test_text_parts_of_a_message_are_joined_and_others_refused_by_name(page: Any) -> None:
    plain = page("chat.messages").plain_messages
    parts = [{"type": "text", "text": "Look:"}, {"type": "text", "text": "a text"}]
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert plain([{"role": "user", "content": parts, "name": "me"}, called]) == [
        {"role": "user", "content": "Look:\na text", "name": "me"},
        called,
    ]
    with pytest.raises(page("errors").LlamaWebError, match=r"Message 0 has a part of type 'image_url'"):
        plain([{"role": "user", "content": [*parts, {"type": "image_url"}]}])


def test_what_is_not_awaited_or_made_so_says_what_to_call_instead(llm: Any, page: Any) -> None:
    error = page("errors").LlamaWebError

    async def awaited(pieces: Any) -> None:
        await pieces

    with pytest.raises(error, match=r"async for piece in llm\.stream.*await llm\.complete"):
        asyncio.run(awaited(llm.stream("the")))
    with pytest.raises(error, match=r"async for piece in llm\.chat_stream.*await llm\.chat\("):
        list(llm.chat_stream(MESSAGES))
    with pytest.raises(error, match=r"await Llama\.load\(model\)"):
        page("llama").Llama("model.gguf", n_ctx=512)
    with pytest.raises(error, match=r"`Llama\.load\(model\)`"):
        page("sync").Llama("model.gguf")


def test_an_answer_cancelled_at_any_moment_leaves_the_next_one_right(llm: Any) -> None:
    llm._executor.may = True
    plain = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}

    async def play() -> int:
        expected, cancelled = await llm.complete("the king", **plain), 0
        for ticks in range(120):
            task = asyncio.ensure_future(llm.complete("in the and", max_tokens=30, temperature=0, ignore_eos=True))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            waits = ticks % 2
            if waits:
                await asyncio.wait([task])
            assert await asyncio.wait_for(llm.complete("the king", **plain), 60) == expected
            cancelled += bool(waits and task.cancelled())
            await asyncio.wait([task])
        return cancelled

    assert asyncio.run(play()) > 10


def test_of_many_answers_at_once_the_last_one_is_right_and_the_others_say_so(llm: Any) -> None:
    llm._executor.may = True
    plain = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}

    async def play() -> None:
        expected = await llm.complete("the king", **plain)
        for _ in range(5):
            works = [llm.complete("in the and", **plain) for _ in range(4)] + [llm.complete("the king", **plain)]
            *others, last = await asyncio.gather(*works, return_exceptions=True)
            assert last == expected and {str(other)[:24] for other in others} == {"Another answer was begun"}

    asyncio.run(play())
