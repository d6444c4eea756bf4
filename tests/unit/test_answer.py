"""An answer: what is told of it, and its text piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from llamaweb.answer import Answer, Pieces
from llamaweb.errors import LlamaWebError


def test_a_new_answer_has_nothing_to_tell_and_shares_nothing_with_others() -> None:
    answer = Answer()
    assert (answer.conversation, answer.finish_reason, answer.stopped_by, answer.timings) == ([], None, None, {})
    answer.tokens.append(1)
    assert Answer().conversation == []


def test_the_conversation_is_the_prompt_and_what_came_of_it() -> None:
    assert Answer([1, 2], [3]).conversation == [1, 2, 3]


def test_what_ended_an_answer_is_told_in_openais_words() -> None:
    answer = Answer()
    answer.stop("The end")
    assert (answer.finish_reason, answer.stopped_by) == ("stop", "The end")
    answer.run_out("context")
    assert (answer.finish_reason, answer.stopped_by) == ("length", "context")


@pytest.mark.parametrize(
    ("n_tokens", "times", "prompt_ms", "prompt_per_second", "generated_ms", "generated_per_second"),
    [
        (5, (100.0, 150.0, 950.0), 50.0, 60.0, 800.0, 5.0),  # the first token is the prompt's
        (2, (0.0, 1.0, 2.0), 1.0, 3000.0, 1.0, 1000.0),
        (1, (100.0, 150.0, 151.0), 50.0, 60.0, 1.0, 0.0),
        (0, (100.0, 100.0, 100.0), 0.0, 0.0, 0.0, 0.0),
        (3, (100.0, 100.0, 100.0), 0.0, 0.0, 0.0, 0.0),  # of a clock that is coarse
    ],
)
def test_timings_are_of_the_prompt_up_to_the_first_token_and_of_those_behind_it(
    n_tokens: int,
    times: tuple[float, float, float],
    prompt_ms: float,
    prompt_per_second: float,
    generated_ms: float,
    generated_per_second: float,
) -> None:
    answer = Answer([1, 2, 3], list(range(n_tokens)))
    answer.time(*times)
    assert answer.timings == {
        "prompt_tokens": 3,
        "cached_tokens": 0,
        "prompt_ms": prompt_ms,
        "prompt_per_second": prompt_per_second,
        "generated_tokens": n_tokens,
        "generated_ms": generated_ms,
        "generated_per_second": generated_per_second,
        "first_token_ms": prompt_ms,
    }


def test_a_prompts_pace_is_of_what_was_read_of_it() -> None:
    answer = Answer([1, 2, 3, 4], cached_tokens=3)
    answer.time(0.0, 100.0, 100.0)
    assert answer.timings["cached_tokens"] == 3 and answer.timings["prompt_per_second"] == 10.0


class Text:
    """Pieces of a text, and what was done with them."""

    def __init__(self, *pieces: str) -> None:
        self.told: list[str] = []
        self.pieces = Pieces(self._text(pieces), "stream", "complete")

    async def _text(self, pieces: tuple[str, ...]) -> AsyncGenerator[str, None]:
        try:
            for piece in pieces:
                yield piece
        except ValueError as error:
            self.told.append(f"thrown {error}")
            yield "caught"
        finally:
            self.told.append("closed")


def test_pieces_come_one_by_one_and_are_closed_with_what_makes_them() -> None:
    async def body() -> None:
        text = Text("a", "b", "c")
        assert [piece async for piece in text.pieces] == ["a", "b", "c"] and text.told == ["closed"]
        text = Text("a", "b", "c")
        assert aiter(text.pieces) is text.pieces and await anext(text.pieces) == "a"
        assert await text.pieces.asend(None) == "b" and text.told == []
        await text.pieces.aclose()
        assert text.told == ["closed"] and [piece async for piece in text.pieces] == []

    asyncio.run(body())


def test_the_whole_text_is_all_pieces_and_is_closed_also_when_it_breaks_off() -> None:
    async def body() -> None:
        text = Text("a", "", "b c")
        assert await text.pieces.joined() == "ab c" and text.told == ["closed"]

        async def broken() -> AsyncGenerator[str, None]:
            yield "a"
            raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            await Pieces(broken(), "stream", "complete").joined()

    asyncio.run(body())


@pytest.mark.parametrize(
    "thrown", [(ValueError("bad"),), (ValueError, ValueError("bad")), (ValueError, ValueError("bad"), None)]
)
def test_an_error_is_thrown_into_what_makes_the_pieces(thrown: tuple[object, ...]) -> None:
    async def body() -> None:
        text = Text("a", "b")
        await anext(text.pieces)
        assert await text.pieces.athrow(*thrown) == "caught" and text.told == ["thrown bad"]
        await text.pieces.aclose()

    asyncio.run(body())


async def awaited(pieces: Pieces) -> None:
    await pieces


async def looped(pieces: Pieces) -> None:
    for _ in pieces:
        pass


@pytest.mark.parametrize("use", [awaited, looped])
def test_who_awaits_the_pieces_or_loops_over_them_is_told_what_to_write(
    use: Callable[[Pieces], Coroutine[Any, Any, None]],
) -> None:
    for pieces, name, whole in (
        (Text("a").pieces, "stream", "complete"),
        (Text("a").pieces.called("chat_stream", "chat"), "chat_stream", "chat"),
    ):
        with pytest.raises(LlamaWebError) as caught:
            asyncio.run(use(pieces))
        assert str(caught.value) == (
            f"{name} gives the text piece by piece: write `async for piece in llm.{name}(…)`, or "
            f"`await llm.{whole}(…)` for the whole text."
        )


def test_the_same_text_under_another_methods_name_is_the_same_text() -> None:
    text = Text("a", "b")
    assert asyncio.run(text.pieces.called("chat_stream", "chat").joined()) == "ab"
