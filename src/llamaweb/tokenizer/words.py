"""Words that are encoded independently of each other, so that what was found for one can be remembered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from llamaweb.strings import Strings

SPACE = "\u2581".encode()
"""What SentencePiece's vocabularies write for a space."""

CACHED_WORDS = 16384
CACHED_WORD_LENGTH = 64

# A space inside a token, after something else; tokens are joined with a byte that is in no text.
_SPACE_INSIDE = re.compile(rb"(?<!\xff)(?<!\xe2\x96\x81)\xe2\x96\x81")


class Words:
    """The ids of words: found once, then remembered, as long as there are not too many of them.

    encode: the ids of one word.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self.remembered: dict[str, list[int]] = {}

    def encode(self, words: Iterable[str]) -> list[int]:
        ids: list[int] = []
        remembered = self.remembered
        for word in words:
            found = remembered.get(word)
            if found is None:
                found = self._encode(word)
                remember(remembered, word, found)
            ids += found
        return ids


class WordBatches:
    """The same where many words are encoded in little more time than one.

    encode: the ids of each of some words.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]]) -> None:
        self._encode = encode
        self.remembered: dict[str, list[int]] = {}

    def encode(self, words: list[str]) -> list[int]:
        ids: list[int] = []
        for start in range(0, len(words), CACHED_WORDS):
            batch = words[start : start + CACHED_WORDS]
            new = [word for word in dict.fromkeys(batch) if word not in self.remembered]
            found = dict(zip(new, self._encode(new), strict=True)) if new else {}
            for word in batch:
                ids += self.remembered[word] if word in self.remembered else found[word]
            for word, of_word in found.items():
                remember(self.remembered, word, of_word)
        return ids


def remember(remembered: dict[str, list[int]], word: str, ids: list[int]) -> None:
    """Long words are not worth it; when there are too many, all are forgotten."""
    if len(word) <= CACHED_WORD_LENGTH:
        if len(remembered) >= CACHED_WORDS:
            remembered.clear()
        remembered[word] = ids


def word_pattern(tokens: Strings) -> re.Pattern[str]:
    """Words that are merged independently of each other, where a space is a character (▁) like any other.

    A word begins with spaces. It ends before the next ones, unless some token has a space after its last character:
    Gemma has `>_</` with a space in it. A plain space in a token is none: merges are written `left right`.
    """
    joined = tokens.joined(b"\xff").replace(b" ", b"")
    goes_on = {
        joined[max(0, at.start() - 4) : at.start()].decode("utf-8", "ignore")[-1:]
        for at in _SPACE_INSIDE.finditer(joined)
    }
    inside = "".join(f"|(?<={re.escape(character)})\u2581+" for character in sorted(goes_on - {""}))
    return re.compile(f"\u2581*(?:[^\u2581]{inside})+|\u2581+")
