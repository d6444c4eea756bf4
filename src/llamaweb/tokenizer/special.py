"""Special tokens in a text: found before anything else, longest first, as llama.cpp finds them."""

from __future__ import annotations

from collections.abc import Iterable


class SpecialTokens:
    """Cuts text at the tokens it is given."""

    def __init__(self, tokens: Iterable[tuple[bytes, int]]) -> None:
        # Most texts hold no special token: a look for their few distinct beginnings spares a search for each.
        self._by_beginning: dict[bytes, list[tuple[int, bytes, int]]] = {}
        for order, (text, token) in enumerate(sorted(tokens, key=lambda item: -len(item[0]))):
            self._by_beginning.setdefault(text[:2], []).append((order, text, token))

    def split(self, data: bytes) -> list[bytes | int]:
        """The text's pieces in order: bytes still to be tokenized, and ids of special tokens."""
        parts: list[bytes | int] = [data] if data else []
        present = [tokens for beginning, tokens in self._by_beginning.items() if beginning in data]
        for _, text, token in sorted(item for tokens in present for item in tokens):
            if text in data:
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
