"""One answer: what was asked, what came of it and why it ended, and its text as it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from llamaweb.errors import LlamaWebError


@dataclass
class Answer:
    """An answer under way or ended: the one who makes it has it for himself, whatever begins meanwhile.

    finish_reason: "stop" or "length", as OpenAI's; None while it goes on, and where it was broken off. stopped_by: what
    ended it, the stop text or the model's end token for "stop", "max_tokens" or "context" for "length".
    """

    prompt: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stopped_by: str | None = None
    cached_tokens: int = 0  # of the prompt, which were not read anew
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def conversation(self) -> list[int]:
        """The prompt and what came of it so far."""
        return [*self.prompt, *self.tokens]

    def stop(self, by: str) -> None:
        self.finish_reason, self.stopped_by = "stop", by

    def run_out(self, of: str) -> None:
        self.finish_reason, self.stopped_by = "length", of

    def time(self, begin: float, first: float, last: float) -> None:
        """begin, first, last: when the answer began, and when its first and last tokens came, in milliseconds."""
        prompt_ms, generated_ms, generated = first - begin, last - first, len(self.tokens)
        read = len(self.prompt) - self.cached_tokens
        self.timings = {
            "prompt_tokens": len(self.prompt),
            "cached_tokens": self.cached_tokens,
            "prompt_ms": prompt_ms,
            "prompt_per_second": 1e3 * read / prompt_ms if prompt_ms else 0.0,
            "generated_tokens": generated,
            "generated_ms": generated_ms,
            "generated_per_second": 1e3 * (generated - 1) / generated_ms if generated > 1 and generated_ms else 0.0,
            "first_token_ms": prompt_ms,
        }


class Pieces(AsyncGenerator[str, None]):
    """The text of an answer, piece by piece, for `async for`; whoever awaits it, or loops without `async`, is told what
    to write instead."""

    def __init__(self, pieces: AsyncGenerator[str], name: str, whole: str) -> None:
        """name, whole: the method that gave it, and the one that gives the text as a whole."""
        self._pieces = pieces
        self._name = name
        self._whole = whole

    def called(self, name: str, whole: str) -> Pieces:
        """The same as another method gives it."""
        return Pieces(self._pieces, name, whole)

    async def joined(self) -> str:
        """All of them."""
        try:
            return "".join([piece async for piece in self])
        finally:
            await self.aclose()

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def asend(self, value: None) -> str:
        return await self._pieces.asend(value)

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> str:
        return await self._pieces.athrow(typ if val is None else val)

    async def aclose(self) -> None:
        await self._pieces.aclose()

    def __await__(self) -> Generator[Any, None, NoReturn]:
        self._refuse()

    def __iter__(self) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise LlamaWebError(
            f"{self._name} gives the text piece by piece: write `async for piece in llm.{self._name}(…)`, or "
            f"`await llm.{self._whole}(…)` for the whole text."
        )
