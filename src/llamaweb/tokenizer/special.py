"""Special tokens in a text: found before anything else, longest first, as llama.cpp finds them."""

from __future__ import annotations

from collections.abc import Iterable


class SpecialTokens:
    """Cuts text at the tokens it is given."""

    def __init__(self, tokens: Iterable[tuple[bytes, int]]) -> None:
        self._tokens = sorted(tokens, key=lambda item: -len(item[0]))
        # Most texts hold no special token: a look for their few distinct beginnings spares a search for each.
        self._beginnings = {text[:2] for text, _ in self._tokens}

    def split(self, data: bytes) -> list[bytes | int]:
        """The text's pieces in order: bytes still to be tokenized, and ids of special tokens."""
        parts: list[bytes | int] = [data] if data else []
        present = {beginning for beginning in self._beginnings if beginning in data}
        for text, token in self._tokens:
            if text[:2] in present and text in data:
                parts = [piece for part in parts for piece in _cut(part, text, token)]
        return parts


def _cut(part: bytes | int, text: bytes, token: int) -> Iterable[bytes | int]:
    if isinstance(part, int) or text not in part:
        yield part
        return
    for index, piece in enumerate(part.split(text)):
        if index:
            yield token
        if piece:
            yield piece
