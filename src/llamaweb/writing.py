"""From tokens to the text of an answer, piece by piece: characters that are whole, and that begin no stop text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from llamaweb.answer import Answer
from llamaweb.tokenizer import Tokenizer


async def written(
    answer: Answer,
    tokens: AsyncGenerator[int, None],
    tokenizer: Tokenizer,
    limit: int,
    stops: Sequence[str],
    end: frozenset[int],
    clock: Callable[[], float],
    reused: Callable[[], int] = lambda: 0,
) -> AsyncGenerator[str]:
    """The text of `tokens`, which it closes; what came, why it ended and how long it took go into `answer`.

    limit: how many tokens were asked for at most. end: tokens that end it. clock: in milliseconds. reused: how many
    tokens of the prompt were not read anew, once there is a token.
    """
    decoder = tokenizer.stream_decoder()
    text = ""
    began = first = last = clock()
    try:
        async for token in tokens:
            last = clock()
            if not answer.tokens:
                first, answer.cached_tokens = last, reused()
            if token in end:
                answer.stop(tokenizer.token_bytes(token, special=True).decode(errors="replace"))
                break
            answer.tokens.append(token)
            text, stop = stop_at(text + decoder.push(token), stops)
            if stop:
                answer.stop(stop)
            ready = len(text) if stop else len(text) - held_back(text, stops)
            if ready:
                yield text[:ready]
                text = text[ready:]
            if stop:
                return
        if not answer.finish_reason:
            answer.run_out("max_tokens" if len(answer.tokens) == limit else "context")
        text, stop = stop_at(text + decoder.finish(), stops)
        if stop:
            answer.stop(stop)
        if text:
            yield text
    finally:
        await tokens.aclose()
        answer.time(began, first, last)


def stop_at(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """Cuts `text` before the stop string that ends first in it, and gives that one, too; so what comes in pieces is cut
    where the whole would be, whatever the pieces are."""
    found = ((at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0)
    _, at, stop = min(found, default=(0, len(text), None))
    return text[:at], stop


def held_back(text: str, stops: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string, and must wait."""
    return max(
        (n for stop in stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0
    )
