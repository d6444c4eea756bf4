"""The text of an answer, from tokens that are bytes here: where it ends, what is held back, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest

from llamaweb.answer import Answer
from llamaweb.tokenizer import Tokenizer
from llamaweb.tokenizer.detokenize import StreamDecoder
from llamaweb.writing import held_back, stop_at, written

END = 0


class Bytes:
    """A tokenizer whose tokens are bytes, or what stands behind them in `more`; END has a name."""

    def __init__(self, more: Sequence[bytes] = ()) -> None:
        self.more = more

    def token_bytes(self, token: int, special: bool = False) -> bytes:
        return b"<end>" if token == END else bytes([token]) if token < 256 else self.more[token - 256]

    def stream_decoder(self) -> StreamDecoder:
        return StreamDecoder(cast(Any, self).token_bytes)


def write(
    data: Sequence[int],
    stops: Sequence[str] = (),
    limit: int = -1,
    more: Sequence[bytes] = (),
    clock: Callable[[], float] = lambda: 0.0,
    tokenizer: Bytes | None = None,
) -> tuple[list[str], Answer, bool]:
    """The pieces of a text, what is told of it, and whether its tokens were closed."""
    answer, closed = Answer([1]), []

    async def tokens() -> AsyncGenerator[int, None]:
        try:
            for token in data if limit < 0 else data[:limit]:
                yield token
        finally:
            closed.append(True)

    async def pieces() -> list[str]:
        words = cast(Tokenizer, tokenizer or Bytes(more))
        text = written(answer, tokens(), words, limit, stops, frozenset([END]), clock)
        return [piece async for piece in text]

    return asyncio.run(pieces()), answer, closed == [True]


@pytest.mark.parametrize(
    ("data", "stops", "limit", "text", "reason", "by"),
    [
        (b"abc", (), -1, "abc", "length", "context"),
        (b"abc", (), 2, "ab", "length", "max_tokens"),
        (b"ab\0c", (), -1, "ab", "stop", "<end>"),
        (b"abcd", ("bc",), -1, "a", "stop", "bc"),
        ("aé€".encode(), (), -1, "aé€", "length", "context"),
        (b"ab", ("bc",), -1, "ab", "length", "context"),
        (b"ab\0", ("bc",), -1, "ab", "stop", "<end>"),
        (b"a\xc3", ("\ufffd",), -1, "a", "stop", "\ufffd"),
    ],
)
def test_an_answer_ends_once_and_says_by_what(
    data: bytes, stops: Sequence[str], limit: int, text: str, reason: str, by: str
) -> None:
    pieces, answer, closed = write(data, stops, limit)
    assert "".join(pieces) == text and (answer.finish_reason, answer.stopped_by) == (reason, by)
    assert closed and answer.timings["generated_tokens"] == len(answer.tokens)
    assert bytes(answer.tokens) == data[: len(answer.tokens)] and END not in answer.tokens


def test_timings_are_of_when_the_answer_began_and_its_first_and_last_tokens_came() -> None:
    times = iter([0.0, 100.0, 250.0, 300.0])
    _, answer, _ = write(b"abc", clock=lambda: next(times))
    told = [answer.timings[name] for name in ("prompt_ms", "first_token_ms", "generated_ms")]
    assert told == [100.0, 100.0, 200.0]


def test_an_end_tokens_name_may_be_no_text() -> None:
    class Named(Bytes):
        def token_bytes(self, token: int, special: bool = False) -> bytes:
            return (b"<\xff>" if special else b"") if token == END else super().token_bytes(token)

    _, answer, _ = write(b"a\0", tokenizer=Named())
    assert answer.stopped_by == "<\ufffd>"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("abc", [], ("abc", None)),
        ("abc", ["c"], ("ab", "c")),
        ("abcabc", ["ca", "b"], ("a", "b")),
        ("", ["x"], ("", None)),
        ("abbc", ["b", "abb"], ("a", "b")),
        ("abbc", ["bb", "abb"], ("", "abb")),
    ],
)
def test_text_ends_before_the_stop_that_ends_first(
    text: str, stops: list[str], expected: tuple[str, str | None]
) -> None:
    assert stop_at(text, stops) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [("abc", [], 0), ("abc", ["xy"], 0), ("abcx", ["xy"], 1), ("\n\n", ["\n\n\n"], 2), ("aba", ["abac", "a!"], 3)],
)
def test_what_may_begin_a_stop_is_held_back(text: str, stops: list[str], expected: int) -> None:
    assert held_back(text, stops) == expected


def test_no_beginning_of_a_stop_is_shown_whatever_the_pieces_are() -> None:
    random = np.random.default_rng(0)
    ended = 0
    for _ in range(3000):
        letters = ["a", "b", "é", "\n"][: int(random.integers(1, 5))]
        text = "".join(random.choice(letters, int(random.integers(0, 24))))
        stops = ["".join(random.choice(letters, int(random.integers(1, 5)))) for _ in range(int(random.integers(0, 4)))]
        data = text.encode()
        cuts = sorted({0, len(data), *random.integers(0, len(data) + 1, int(random.integers(0, 8))).tolist()})
        parts = [data[i:j] for i, j in pairwise(cuts)]
        found = [(i + len(stop), i, stop) for stop in stops if (i := text.find(stop)) >= 0]
        _, end, stop = min(found, default=(0, len(text), None))
        pieces, answer, _ = write([256 + i for i in range(len(parts))], stops, more=parts)
        assert "".join(pieces) == text[:end], (text, stops, parts)
        assert all(pieces) and answer.stopped_by == (stop or "context")
        ended += bool(found)
    assert 500 < ended < 2500
