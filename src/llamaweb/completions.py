"""Answers as the dicts of llama-cpp-python and OpenAI, whole or chunk by chunk. Pure."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from llamaweb.answer import Answer, Pieces
from llamaweb.arguments import flag, unknown, word, wrong
from llamaweb.arguments import whole as whole_number
from llamaweb.errors import LlamaWebError, short
from llamaweb.sampling import Sampling
from llamaweb.types import Timings, Usage

Whole = TypeVar("Whole")
Chunk = TypeVar("Chunk")

# What others' calls know and this one does not do yet: the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repeat_penalty": (None, 1),
    "typical_p": (None, 1),
    "tfs_z": (None, 1),
    "mirostat_mode": (None, 0),
    "logit_bias": (None, {}),
    "grammar": (None,),
    "response_format": (None, {"type": "text"}),
    "logits_processor": (None, []),
    "stopping_criteria": (None, []),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
}
MOST_CHOICES = 128  # of a call, as OpenAI's
_NEVER_MATTERS = ("mirostat_tau", "mirostat_eta", "user", "parallel_tool_calls")  # without what they belong to
STREAM_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "seed", "stop", "special", "ignore_eos")


class Reply(Generic[Whole, Chunk]):
    """What a call gives: `await` it for the whole; with stream=True, `async for chunk in …`, before or after an await.
    Whoever takes it for the dict itself, or loops without `async`, is told what to write instead."""

    def __init__(
        self, name: str, whole: Callable[[], Awaitable[Whole]], chunks: AsyncGenerator[Chunk] | None = None
    ) -> None:
        """name: of the call. whole: begins it. chunks: where a stream was asked for."""
        self._name = name
        self._whole = whole
        self._chunks = chunks

    @property
    def streams(self) -> bool:
        """Whether it is one of chunks."""
        return self._chunks is not None

    def __await__(self) -> Generator[Any, None, Whole | Reply[Whole, Chunk]]:
        return self._awaited().__await__()

    async def _awaited(self) -> Whole | Reply[Whole, Chunk]:
        return self if self._chunks else await self._whole()

    def __aiter__(self) -> AsyncGenerator[Chunk]:
        if not self._chunks:
            raise LlamaWebError(f"{self._name} gives one dict: await it, or ask for chunks with stream=True.")
        return self._chunks

    async def __anext__(self) -> Chunk:
        return await anext(aiter(self))

    async def aclose(self) -> None:
        """Ends a stream: the GPU stops behind what is in flight."""
        if self._chunks:
            await self._chunks.aclose()

    def __iter__(self) -> NoReturn:
        raise LlamaWebError(
            f"{self._name} works beside the page: write `await llm.{self._name}(…)`, or with stream=True "
            f"`async for chunk in llm.{self._name}(…)`."
        )

    def __getitem__(self, key: object) -> NoReturn:
        raise LlamaWebError(f"{self._name} has not been awaited: write `(await llm.{self._name}(…))[{short(key)}]`.")


@dataclass(frozen=True)
class Head:
    """What all dicts of a call begin with. kind: its id begins so. fingerprint: of model and engine."""

    kind: str
    model: str
    fingerprint: str

    def fields(self) -> dict[str, Any]:
        created = int(time.time())
        fields = {"id": f"{self.kind}-{uuid.uuid4()}", "created": created, "model": self.model}
        return {**fields, "system_fingerprint": self.fingerprint}


class Wanted:
    """What calls ask for besides an answer, checked: n answers, with seeds from `seed` on, in chunks or not, the usage
    behind them or not, and a name to show as `model`. Raises LlamaWebError."""

    def __init__(self, n: Any, seed: Any, stream: Any, stream_options: Any, model: Any) -> None:
        self.n = whole_number("n", n, 1, 1, MOST_CHOICES, f"a whole number of answers from 1 to {MOST_CHOICES}")
        self.stream = flag("stream", stream)
        self.model = word("model", model, None, "a name to show")
        told = "{'include_usage': True}, or None"
        known = {"include_usage", "include_obfuscation"}
        if stream_options is not None and not (isinstance(stream_options, Mapping) and set(stream_options) <= known):
            raise wrong("stream_options", stream_options, told)
        self.include_usage = bool((stream_options or {}).get("include_usage"))
        self._seed = Sampling(seed=seed).seed

    def seed_of(self, index: int) -> int | None:
        """Of answer number `index`."""
        return None if self._seed is None else (self._seed + index) % 2**32


class Text:
    """The dicts of create_completion. echo: what stands before each answer."""

    call, kind = "create_completion", "cmpl"
    object = chunk = "text_completion"

    def __init__(self, echo: str = "") -> None:
        self._echo = echo

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return self.piece(index, self._echo + text, reason)

    def first(self, index: int) -> dict[str, Any] | None:
        return self.piece(index, self._echo, None) if self._echo else None

    def piece(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


class Chat:
    """The dicts of create_chat_completion."""

    call, kind = "create_chat_completion", "chatcmpl"
    object, chunk = "chat.completion", "chat.completion.chunk"

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def first(self, index: int) -> dict[str, Any]:
        return self._delta(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return self._delta(index, {"content": text} if text else {}, reason)

    def _delta(self, index: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


Begin = Callable[[int], tuple[Answer, Pieces]]  # choice i of a call


async def whole(head: Head, form: Text | Chat, begin: Begin, n: int) -> dict[str, Any]:
    """All choices, one after the other: what the later ones share with the first is in the cache."""
    fields, choices, answers = head.fields(), [], []
    for index in range(n):
        answer, pieces = begin(index)
        text = await pieces.joined()
        choices.append(form.choice(index, text, answer.finish_reason))
        answers.append(answer)
    return {**fields, "object": form.object, "choices": choices, "usage": usage(answers), "timings": timings(answers)}


async def chunks(
    head: Head, form: Text | Chat, begin: Begin, n: int, include_usage: bool
) -> AsyncGenerator[dict[str, Any]]:
    """The same as it comes. The last one of a choice has its reason, the last of all the timings, and with
    include_usage one without a choice behind it the usage."""
    fields: dict[str, Any] = {**head.fields(), "object": form.chunk}
    more = {"usage": None} if include_usage else {}
    answers = []
    for index in range(n):
        answer, pieces = begin(index)
        answers.append(answer)
        try:
            if first := form.first(index):
                yield {**fields, "choices": [first], **more}
            async for text in pieces:
                yield {**fields, "choices": [form.piece(index, text, None)], **more}
        finally:
            await pieces.aclose()
        last = {"timings": timings(answers)} if index == n - 1 else {}
        yield {**fields, "choices": [form.piece(index, "", answer.finish_reason)], **more, **last}
    if include_usage:
        yield {**fields, "choices": [], "usage": usage(answers)}


def usage(answers: Sequence[Answer]) -> Usage:
    """Of all choices of a call."""
    read, made = len(answers[0].prompt), sum(len(answer.tokens) for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": made,
        "total_tokens": read + made,
        "prompt_tokens_details": {"cached_tokens": answers[0].cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def timings(answers: Sequence[Answer]) -> Timings:
    """Of all choices of a call: the prompt's of the first."""
    first, cached = answers[0].timings, answers[0].cached_tokens
    read, prompt_ms = len(answers[0].prompt) - cached, first.get("prompt_ms", 0.0)
    made = sum(len(answer.tokens) for answer in answers)
    later = sum(max(len(answer.tokens) - 1, 0) for answer in answers)  # which the time is of
    made_ms = sum(answer.timings.get("generated_ms", 0.0) for answer in answers)
    return {
        "cache_n": cached,
        "prompt_n": read,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / read if read else 0.0,
        "prompt_per_second": 1e3 * read / prompt_ms if prompt_ms else 0.0,
        "predicted_n": made,
        "predicted_ms": made_ms,
        "predicted_per_token_ms": made_ms / later if later else 0.0,
        "predicted_per_second": 1e3 * later / made_ms if made_ms else 0.0,
    }


def known_options(call: str, known: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that `stream` takes; raises LlamaWebError for others, unless they ask for nothing. known: what the call has
    besides."""
    for name, value in options.items():
        if name in STREAM_OPTIONS or name in _NEVER_MATTERS:
            continue
        if name not in _NOTHING:
            raise unknown(call, name, (*STREAM_OPTIONS, *known, *_NOTHING))
        if not any(_same(value, nothing) for nothing in _NOTHING[name]):
            raise LlamaWebError(f"{name} is {short(value)}, which LlamaWeb cannot do yet; leave it out.")
    return {name: value for name, value in options.items() if name in STREAM_OPTIONS}


def _same(value: Any, nothing: Any) -> bool:
    try:
        return bool(value == nothing)
    except Exception:  # of a foreign type
        return False
