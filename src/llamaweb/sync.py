"""Llama for scripts and notebooks that do not await: the same object, blocking (JavaScript Promise Integration).

from llamaweb.sync import Llama
llm = Llama.load("model.gguf")
for piece in llm.stream("Once upon a time"):
    print(piece, end="")
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from llamaweb.completions import Reply
from llamaweb.errors import LlamaWebError, inside_browser
from llamaweb.profiling import Profile
from llamaweb.types import CreateEmbedding

T = TypeVar("T")

with inside_browser("llamaweb.sync"):
    from llamaweb import llama
    from llamaweb.javascript import wait


class Llama:
    """A `llamaweb.Llama` whose methods block; what is not here (tokenize, timings, memory, …) is the same."""

    _llm: llama.Llama

    def __init__(self, *_: Any, **__: Any) -> None:
        raise LlamaWebError("A model is loaded by `Llama.load(model)`, which gives the Llama; call that instead.")

    @classmethod
    def of(cls, llm: llama.Llama) -> Llama:
        """The blocking one of a model that is loaded."""
        blocking = cls.__new__(cls)
        blocking._llm = llm
        return blocking

    @classmethod
    def load(cls, model: Any, **options: Any) -> Llama:
        """As `llamaweb.Llama.load`."""
        return cls.of(wait(llama.Llama.load(model, **options)))

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: str, **options: Any) -> Llama:
        """As `llamaweb.Llama.from_pretrained`."""
        return cls.of(wait(llama.Llama.from_pretrained(repo_id, filename, **options)))

    def stream(self, prompt: str | bytes | Iterable[int], **options: Any) -> Iterator[str]:
        """As `llamaweb.Llama.stream`."""
        return _iterate(self._llm.stream(prompt, **options))

    def complete(self, prompt: str | bytes | Iterable[int], **options: Any) -> str:
        """As `llamaweb.Llama.complete`."""
        return wait(self._llm.complete(prompt, **options))

    def chat_stream(self, messages: Sequence[dict[str, Any]], **options: Any) -> Iterator[str]:
        """As `llamaweb.Llama.chat_stream`."""
        return _iterate(self._llm.chat_stream(messages, **options))

    def chat(self, messages: Sequence[dict[str, Any]], **options: Any) -> str:
        """As `llamaweb.Llama.chat`."""
        return wait(self._llm.chat(messages, **options))

    def create_completion(self, prompt: str | bytes | Iterable[int], **options: Any) -> Any:
        """As `llamaweb.Llama.create_completion`: a dict, or with stream=True an iterator of chunks."""
        return _replied(self._llm.create_completion(prompt, **options))

    def create_chat_completion(self, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        """As `llamaweb.Llama.create_chat_completion`: a dict, or with stream=True an iterator of chunks."""
        return _replied(self._llm.create_chat_completion(messages, **options))

    def __call__(self, prompt: str | bytes | Iterable[int], **options: Any) -> Any:
        """As `create_completion`."""
        return self.create_completion(prompt, **options)

    def create_embedding(self, input: Any, **options: Any) -> CreateEmbedding:
        """As `llamaweb.Llama.create_embedding`."""
        return wait(self._llm.create_embedding(input, **options))

    def embed(self, texts: Any, **options: Any) -> Any:
        """As `llamaweb.Llama.embed`."""
        return wait(self._llm.embed(texts, **options))

    def log_probabilities(self, tokens: Iterable[int]) -> Any:
        """As `llamaweb.Llama.log_probabilities`."""
        return wait(self._llm.log_probabilities(tokens))

    def perplexity(self, text: str | bytes, **options: Any) -> llama.Perplexity:
        """As `llamaweb.Llama.perplexity`."""
        return wait(self._llm.perplexity(text, **options))

    def profile(self, **options: Any) -> Profile:
        """As `llamaweb.Llama.profile`."""
        return wait(self._llm.profile(**options))

    def tuned(self) -> None:
        """As `llamaweb.Llama.tuned`."""
        wait(self._llm.tuned())

    def recover(self) -> None:
        """As `llamaweb.Llama.recover`."""
        wait(self._llm.recover())

    def close(self) -> None:
        """Gives all GPU memory back."""
        wait(self._llm.close())

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)


def _replied(reply: Reply[Any, Any]) -> Any:
    return _iterate(aiter(reply)) if reply.streams else wait(reply)


def _iterate(pieces: AsyncGenerator[T]) -> Iterator[T]:
    try:
        while True:
            try:
                yield wait(anext(pieces))
            except StopAsyncIteration:
                return
    finally:
        wait(pieces.aclose())
