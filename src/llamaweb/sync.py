"""Llama for scripts and notebooks that do not await: the same object, blocking (JavaScript Promise Integration).

from llamaweb.sync import Llama
llm = Llama.load("model.gguf")
for piece in llm.stream("Once upon a time"):
    print(piece, end="")
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from llamaweb.errors import inside_browser
from llamaweb.profiling import Profile

with inside_browser("llamaweb.sync"):
    from llamaweb import llama
    from llamaweb.javascript import wait


class Llama:
    """A `llamaweb.Llama` whose methods block; what is not here (tokenize, timings, memory, …) is the same."""

    def __init__(self, llm: llama.Llama) -> None:
        self._llm = llm

    @classmethod
    def load(cls, model: Any, **options: Any) -> Llama:
        """As `llamaweb.Llama.load`."""
        return cls(wait(llama.Llama.load(model, **options)))

    @classmethod
    def from_pretrained(cls, repo_id: str, filename: str, **options: Any) -> Llama:
        """As `llamaweb.Llama.from_pretrained`."""
        return cls(wait(llama.Llama.from_pretrained(repo_id, filename, **options)))

    def stream(self, prompt: str | Sequence[int], **options: Any) -> Iterator[str]:
        """As `llamaweb.Llama.stream`."""
        return _iterate(self._llm.stream(prompt, **options))

    def chat_stream(self, messages: Sequence[dict[str, Any]], **options: Any) -> Iterator[str]:
        """As `llamaweb.Llama.chat_stream`."""
        return _iterate(self._llm.chat_stream(messages, **options))

    def log_probabilities(self, tokens: Sequence[int]) -> Any:
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


def _iterate(pieces: AsyncGenerator[str]) -> Iterator[str]:
    try:
        while True:
            try:
                yield wait(anext(pieces))
            except StopAsyncIteration:
                return
    finally:
        wait(pieces.aclose())
