"""Special tokens in a text: found before anything else, longest first, as llama.cpp finds them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from heapq import heappop, heappush
from math import ceil, floor

import numpy as np

from llamaweb.errors import megabytes
from llamaweb.tokenizer.attributes import Stripping
from llamaweb.tokenizer.prefixes import Prefixes
from llamaweb.tokenizer.vocabulary import damaged

PART = 1 << 16  # bytes of a text that are searched at once, so that it takes little memory
BLANKS = b" \t\n\v\f\r"
MOST = 16 << 20  # bytes of all special tokens, far more than any model has; the search takes 32 times as many


class SpecialTokens:
    """Cuts text at the tokens it is given, in a time that does not grow with how many there are."""

    def __init__(self, tokens: Iterable[tuple[bytes, int]], strips: Stripping = Stripping()) -> None:  # noqa: B008
        # A longer token goes before a shorter one, wherever in the text they are; among equals the first given.
        ranked = sorted(tokens, key=lambda item: -len(item[0]))
        if (size := sum(len(text) for text, _ in ranked)) > MOST:
            told = f"{megabytes(size, ceil)}, more than the {megabytes(MOST, floor)} that a sound file may have"
            raise damaged(f"its special tokens take {told}")
        self._texts = [text for text, _ in ranked]
        self._ids = [token for _, token in ranked]
        self._strips = strips
        self._longest = max(map(len, self._texts), default=0)
        # Most texts hold no special token: a look for their first two bytes spares the search.
        self._begins = np.zeros((256, 256), bool)
        for text in self._texts:
            self._begins[text[0], text[1] if len(text) > 1 else slice(None)] = True

    @cached_property
    def _prefixes(self) -> Prefixes:
        return Prefixes(self._texts)

    def split(self, data: bytes) -> list[bytes | int]:
        """The text's pieces in order: bytes still to be tokenized, and ids of special tokens."""
        parts: list[bytes | int] = []
        done = 0
        for start, end, token in sorted(self._cuts(data)):
            if start > done:
                parts.append(data[done:start])
            parts.append(token)
            done = end
        if done < len(data):
            parts.append(data[done:])
        return parts

    def _cuts(self, data: bytes) -> list[tuple[int, int, int]]:
        """Where special tokens are taken, from and to with the white space that goes with them, and which: in the order
        of their ranks, from the left among equals.

        What overlaps one that was taken becomes the longest that fits before it. As that one is no shorter, what is
        left then is less than half of the room: no place is tried more often than a token's length has bits.
        """
        waiting = self._found(data)
        ranks = sorted(waiting)  # which is a heap
        taken = bytearray(len(data))
        cuts: list[tuple[int, int, int]] = []
        while ranks:
            rank = heappop(ranks)
            length = len(self._texts[rank])
            for start in sorted(waiting.pop(rank)):
                room = taken.find(1, start, start + length) - start
                if room < 0:
                    token, end = self._ids[rank], start + length
                    while token in self._strips.left and start and not taken[start - 1] and data[start - 1] in BLANKS:
                        start -= 1
                    while token in self._strips.right and end < len(data) and not taken[end] and data[end] in BLANKS:
                        end += 1
                    taken[start:end] = b"\1" * (end - start)
                    cuts.append((start, end, token))
                elif room and (shorter := self._prefixes.shortened(rank, room)) is not None:
                    if shorter not in waiting:
                        waiting[shorter] = []
                        heappush(ranks, shorter)
                    waiting[shorter].append(start)
        return cuts

    def _found(self, data: bytes) -> dict[int, list[int]]:
        """Where a special token begins, by the rank of the longest one that does."""
        found: dict[int, list[int]] = {}
        text = np.frombuffer(data, np.uint8)
        for part in range(0, len(data), PART):
            piece = text[part : part + PART + self._longest]
            second = np.append(piece[1:], np.uint8(0))  # the search sees that behind the end there is nothing
            starts = np.flatnonzero(self._begins[piece, second][:PART])
            if len(starts):
                ranks = self._prefixes.longest(piece, starts)
                for start, rank in zip((starts + part).tolist(), ranks.tolist(), strict=True):
                    if rank >= 0:
                        found.setdefault(rank, []).append(start)
        return found
