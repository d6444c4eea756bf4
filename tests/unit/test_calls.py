"""The calls of llama-cpp-python's names: their dicts, over a stand-in for the model that answers from a list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import numpy as np
import pytest
from openai.types import Completion as OpenAICompletion
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion as OpenAIChat
from openai.types.chat import ChatCompletionChunk as OpenAIChunk

from llamaweb import arguments
from llamaweb.answer import Answer, Pieces
from llamaweb.calls import Calls
from llamaweb.errors import LlamaWebError, OptionWarning
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.tokenizer import Tokenizer

PIECES = ("Once ", "upon", " a time")


class Vocabulary:
    """A token is a byte."""

    n_vocab, bos, eos = 256, 1, None

    def encode(self, text: str | bytes, parse_special: bool = False) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)

    def encode_fill_in(self, prefix: bytes, suffix: bytes) -> list[int]:
        return [2, *self.encode(prefix), 3, *self.encode(suffix), 4]

    def decode(self, ids: list[int]) -> bytes:
        return bytes(ids)


class StandIn(Calls):
    """Answers with PIECES, a token each, whatever it is asked."""

    def __init__(self) -> None:
        metadata = {"general.name": "Stand-in", "general.architecture": "llama"}
        self.file = GGUFFile(3, metadata, {}, 32, 0, 0)
        self.tokenizer = cast(Tokenizer, Vocabulary())
        self.asked: list[dict[str, Any]] = []
        self.left = 0

    def _answering(
        self, prompt: Any, max_tokens: Any, sampling: Any, stop: Any = (), special: Any = False, ignore_eos: Any = False
    ) -> tuple[Answer, Pieces]:
        self.asked.append({"prompt": prompt, "max_tokens": max_tokens, "seed": sampling.seed, "stop": stop})
        answer = Answer(prompt if isinstance(prompt, list) else self.tokenizer.encode(prompt))

        async def pieces() -> AsyncGenerator[str]:
            try:
                answer.cached_tokens = 2
                for piece in PIECES:
                    answer.tokens.append(7)
                    yield piece
                answer.run_out("max_tokens")
            finally:
                self.left += 1
                answer.time(0.0, 100.0, 150.0)

        return answer, Pieces(pieces(), "stream", "complete")

    def _chat_prompt(self, messages: Any) -> list[int]:
        return self.tokenizer.encode(messages[0]["content"])

    async def embed(self, texts: Any, **_: Any) -> Any:
        return np.array([[1.0, 0.0]] * len(texts), np.float32)


def whole(reply: Any) -> Any:
    async def get() -> Any:
        return await reply

    return asyncio.run(get())


def streamed(reply: Any) -> list[Any]:
    async def get() -> list[Any]:
        return [chunk async for chunk in await reply]

    return asyncio.run(get())


def test_a_completion_is_openais_with_llama_cpps_timings() -> None:
    found = whole(StandIn().create_completion("Begin", max_tokens=3))
    assert OpenAICompletion.model_validate(found).choices[0].text == "Once upon a time"
    assert found["object"] == "text_completion" and found["model"] == "Stand-in" and found["id"].startswith("cmpl-")
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert found["timings"] == {
        "cache_n": 2,
        "prompt_n": 3,
        "prompt_ms": 100.0,
        "prompt_per_token_ms": pytest.approx(100 / 3),
        "prompt_per_second": 30.0,
        "predicted_n": 3,
        "predicted_ms": 50.0,
        "predicted_per_token_ms": 25.0,
        "predicted_per_second": 40.0,
    }


def test_a_chat_completion_is_openais() -> None:
    found = whole(StandIn().create_chat_completion([{"role": "user", "content": "Begin"}], model="mine"))
    read = OpenAIChat.model_validate(found)
    assert (read.choices[0].message.content, read.choices[0].finish_reason) == ("Once upon a time", "length")
    assert read.model == "mine" and read.usage and read.usage.prompt_tokens == 5 and found["id"].startswith("chatcmpl-")


def test_chunks_are_openais_and_say_the_same() -> None:
    llm = StandIn()
    chat = [{"role": "user", "content": "Begin"}]
    chunks = streamed(llm.create_chat_completion(chat, stream=True, stream_options={"include_usage": True}))
    read = [OpenAIChunk.model_validate(chunk) for chunk in chunks]
    deltas = [each.choices[0].delta for each in read[:-1]]
    assert deltas[0].role == "assistant" and "".join(delta.content or "" for delta in deltas) == "Once upon a time"
    assert [each.choices[0].finish_reason for each in read[:-1]] == [None] * 4 + ["length"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 3
    assert chunks[-2]["timings"]["predicted_n"] == 3 and len({each.id for each in read}) == 1
    texts = streamed(llm("Begin", stream=True, echo=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in texts) == "BeginOnce upon a time"
    assert all(OpenAICompletion.model_validate(chunk) for chunk in texts[-1:]) and "usage" not in texts[0]


def test_several_answers_have_seeds_of_their_own_and_one_prompt() -> None:
    llm = StandIn()
    found = whole(llm.create_completion("Begin", n=3, seed=2**32 - 1, stop=["x"], echo=True))
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert {choice["text"] for choice in found["choices"]} == {"BeginOnce upon a time"}
    assert [asked["seed"] for asked in llm.asked] == [2**32 - 1, 0, 1]
    assert [asked["prompt"] for asked in llm.asked] == ["Begin", list(b"Begin"), list(b"Begin")]
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (5, 9)
    assert found["timings"]["predicted_n"] == 9 and found["timings"]["predicted_per_second"] == 40.0
    assert {chunk["choices"][0]["index"] for chunk in streamed(llm("Begin", n=2, stream=True))} == {0, 1}


def test_a_suffix_makes_a_prompt_for_the_middle() -> None:
    llm = StandIn()
    found = whole(llm.create_completion("ab", suffix="c", echo=True))
    assert llm.asked[0]["prompt"] == [2, *b"ab", 3, *b"c", 4] and found["choices"][0]["text"] == "abOnce upon a time"
    with pytest.raises(LlamaWebError, match="prompt is token ids; give its text"):
        llm.create_completion([1, 2], suffix="c")
    whole(llm.create_completion("ab", suffix=""))
    assert llm.asked[1]["prompt"] == "ab"


def test_leaving_a_stream_ends_its_answer() -> None:
    llm = StandIn()

    async def leave() -> None:
        chunks = llm.create_completion("Begin", stream=True)
        async for _ in chunks:
            break
        await chunks.aclose()

    asyncio.run(leave())
    assert llm.left == 1 and len(llm.asked) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_token": 5}, "create_completion has no option 'max_token'; did you mean 'max_tokens'?"),
        ({"temprature": 1}, "did you mean 'temperature'?"),
        ({"quux": 1}, "create_completion has no option 'quux'; it has best_of, echo, "),
        ({"n": 0}, "n is 0; it must be a whole number of answers from 1 to 128."),
        ({"stream_options": 5}, "stream_options is 5; it must be {'include_usage': True}, or None."),
        ({"grammar": "root ::= x"}, "grammar is 'root ::= x', which LlamaWeb cannot do yet; leave it out."),
        ({"repeat_penalty": 1.1}, "which LlamaWeb cannot do yet"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"seed": -5}, "seed is -5"),
    ],
)
def test_what_cannot_be_meant_is_told_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(LlamaWebError, match=r".") as caught:
        StandIn().create_completion("Begin", **options)
    assert said in str(caught.value)


def test_what_asks_for_nothing_may_be_there() -> None:
    nothing = {"repeat_penalty": 1.0, "grammar": None, "logit_bias": {}, "mirostat_tau": 5.0, "user": "me", "tools": []}
    assert whole(StandIn().create_completion("Begin", **nothing))["choices"]
    chat = [{"role": "user", "content": "Begin"}]
    with pytest.raises(LlamaWebError, match="give one of them"):
        StandIn().create_chat_completion(chat, max_tokens=5, max_completion_tokens=6)
    llm = StandIn()
    whole(llm.create_chat_completion(chat, max_completion_tokens=6))
    assert llm.asked[0]["max_tokens"] == 6


def test_whoever_takes_a_reply_for_the_dict_is_told() -> None:
    reply = StandIn().create_completion("Begin")
    with pytest.raises(LlamaWebError, match=r"has not been awaited: write `\(await llm.create_completion\(…\)\)"):
        reply["choices"]
    with pytest.raises(LlamaWebError, match="async for chunk in"):
        list(cast(Any, reply))
    with pytest.raises(LlamaWebError, match="stream=True"):
        aiter(reply)


def test_embeddings_are_openais() -> None:
    found = whole(StandIn().create_embedding(["one", b"two", [5]]))
    assert len(CreateEmbeddingResponse.model_validate(found).data) == 3
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7} and found["model"] == "Stand-in"


def test_questions_are_llama_cpp_pythons() -> None:
    llm = StandIn()
    assert (llm.n_vocab(), llm.token_bos(), llm.token_eos()) == (256, 1, -1)
    assert llm.metadata["general.name"] == "Stand-in"


def test_a_fingerprint_is_of_model_and_engine() -> None:
    one, other = StandIn(), StandIn()
    other.file = GGUFFile(3, {**other.file.metadata, "general.author": np.array([1])}, {}, 32, 0, 0)
    prints = [whole(llm.create_completion("Begin"))["system_fingerprint"] for llm in (one, one, other)]
    assert prints[0] == prints[1] != prints[2] and prints[0].startswith("llamaweb-")


def test_options_that_mean_nothing_in_a_browser_are_told_once() -> None:
    with pytest.warns(OptionWarning, match=r"^n_threads, use_mmap: mean nothing in a browser") as told:
        arguments.check_others("load", {"use_mmap": True, "n_threads": 4}, ["n_ctx"])
    assert len(told) == 1
    arguments.check_others("load", {}, ["n_ctx"])


@pytest.mark.parametrize(("name", "said"), [("n_ctc", "did you mean 'n_ctx'"), ("quux", "it has n_ctx, seed.")])
def test_an_option_that_there_is_not_is_told_with_the_nearest_one(name: str, said: str) -> None:
    with pytest.raises(LlamaWebError, match=f"^load has no option '{name}'; {said}"):
        arguments.check_others("load", {"verbose": True, name: 1}, ["seed", "n_ctx"])


def test_the_options_of_a_function_are_those_that_have_names_alone() -> None:
    def call(prompt: str, *, n: int = 1, seed: int | None = None, **others: int) -> None: ...

    assert arguments.keywords(call) == ("n", "seed")
