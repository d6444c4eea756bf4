"""The longest of many strings that a text goes on with, for all places of the text at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import ceil, floor
from typing import Any

import numpy as np

from llamaweb.errors import megabytes
from llamaweb.tokenizer.vocabulary import damaged

KEPT = 1 << 14  # strings with what they begin with
PART = 1 << 16  # bytes of a text that are searched at once
MOST = 16 << 20  # bytes of all tokens, several times as many as any model has
NESTED = 256  # tokens that begin with one another, many more than any model has where the longest one is taken


class Prefixes:
    """Strings, none of them empty or there twice, in tables for numpy.

    A search is one by powers of two (Waldvogel et al. 1997, "Scalable high speed IP routing lookups"): a string of 13
    bytes is reached from the empty one in steps of 8, 4 and 1. Blocks of a power of two are numbered (Karp, Miller and
    Rosenberg 1972): one of 8 bytes by the numbers of its two halves; 0 is one that no string has. So for strings of L
    bytes a place of a text takes log L look-ups twice, however many strings there are and whatever they share.
    """

    def __init__(self, strings: Sequence[bytes]) -> None:
        data = np.frombuffer(b"".join(strings), np.uint8).astype(np.int32) + 1
        lengths = np.array([len(string) for string in strings], np.intp)
        starts = np.cumsum(lengths) - lengths
        levels = int(lengths.max(initial=0)).bit_length()

        self._blocks: list[np.ndarray] = []  # pairs of halves, sorted, of blocks of 2, 4, 8, … bytes
        numbers, firsts = [data], [starts]  # of the whole blocks of each string, one string after the other
        for level in range(1, levels):
            counts = lengths >> level
            first = np.cumsum(counts) - counts
            each = np.repeat(firsts[-1] - 2 * first, counts) + 2 * np.arange(counts.sum())
            pairs, found = np.unique(_pairs(numbers[-1][each], numbers[-1][each + 1]), return_inverse=True)
            self._blocks.append(pairs)
            numbers.append((found + 1).astype(np.int32))
            firsts.append(first)

        # Steps by level: a pair of the state before it and the block that it takes. State 0 is the empty string.
        self._steps: list[tuple[np.ndarray, int]] = [(np.empty(0, np.int64), 0)] * levels
        state = np.zeros(len(lengths), np.int64)
        examples, reached = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]  # of each state a string, and its bytes
        count = 1
        for level in reversed(range(levels)):
            which = np.flatnonzero(lengths >> level & 1)
            before = lengths[which] >> level & ~1  # blocks of this level that the steps before have taken
            pairs, example, found = np.unique(
                _pairs(state[which], numbers[level][firsts[level][which] + before]),
                return_index=True,
                return_inverse=True,
            )
            self._steps[level] = pairs, count
            state[which] = count + found
            examples.append(which[example])
            reached.append((before[example] + 1) << level)
            count += len(pairs)

        def cut_off(which: np.ndarray, length: np.ndarray) -> np.ndarray:
            """The state that is reached by so many bytes of each of some strings."""
            state, at = np.zeros(len(which), np.int64), np.zeros(len(which), np.int64)
            for level in reversed(range(levels)):
                (inside,) = np.nonzero(at + (1 << level) <= length)
                block = numbers[level][firsts[level][which[inside]] + (at[inside] >> level)]
                place = _place(self._steps[level][0], _pairs(state[inside], block))
                inside, place = inside[place >= 0], place[place >= 0]
                state[inside] = self._steps[level][1] + place
                at[inside] += 1 << level
            return state

        # Of each state the longest string that is part of it: itself, or that of the longest state before it.
        self._best = np.full(count, -1, np.int32)
        self._best[state] = np.arange(len(lengths))
        shorter = np.arange(count)
        (others,) = np.nonzero(self._best[1:] < 0)
        others += 1
        shorter[others] = cut_off(np.concatenate(examples)[others], np.concatenate(reached)[others] - 1)
        while len(others):
            self._best[others] = self._best[shorter[others]]
            others = others[(self._best[others] < 0) & (shorter[others] > 0)]
            shorter[others] = shorter[shorter[others]]
        # Of each string: its length, and the longest other one that it begins with; the last entry, -1, is of none.
        self.lengths = [*lengths.tolist(), 0]
        self._most = max(self.lengths)
        self.shorter = [*self._best[cut_off(np.arange(len(lengths)), lengths - 1)].tolist(), -1]

    @cached_property
    def _jump(self) -> list[int]:
        """Of each string one that it begins with, further on that way (Myers 1983, "An applicative random-access
        stack")."""
        jump, depth = [-1] * len(self.lengths), [0] * len(self.lengths)
        for string in sorted(range(len(self.lengths) - 1), key=self.lengths.__getitem__):
            above = self.shorter[string]
            depth[string], beside = depth[above] + 1, jump[above]
            even = depth[above] - depth[beside] == depth[beside] - depth[jump[beside]]
            jump[string] = jump[beside] if even else above
        return jump

    def longest(self, text: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """For each of `starts`, ascending, the string that the text (uint8) goes on with there; -1 for none."""
        text, starts = self._near(text, starts)
        numbers = [np.append(text.astype(np.int64) + 1, 0)]
        for level, pairs in enumerate(self._blocks):
            second = np.zeros_like(numbers[-1])
            second[: -1 << level] = numbers[-1][1 << level :]
            numbers.append(_place(pairs, _pairs(numbers[-1], second)) + 1)
        state, at = np.zeros(len(starts), np.int64), starts.astype(np.int64)
        for level, (pairs, first) in reversed([*enumerate(self._steps)]):
            place = _place(pairs, _pairs(state, numbers[level][at]))
            state = np.where(place < 0, state, first + place)
            at += (place >= 0) << level
        return self._best[state]

    def everywhere(self, data: bytes) -> memoryview:
        """The same for all places of a text, int32, in little memory besides."""
        text, longest = np.frombuffer(data, np.uint8), self._most
        found = np.empty(len(text), np.int32)
        for start in range(0, len(text), PART):
            piece = text[start : start + PART + longest]
            starts = np.arange(min(PART, len(text) - start))
            found[start : start + PART] = self.longest(piece, starts)
        return found.data

    def shortened(self, string: int, most: int) -> int | None:
        """The longest string of at most `most` bytes that one begins with; None if there is none."""
        while self.lengths[string] > most:
            jump = self._jump[string]
            string = jump if self.lengths[jump] > most else self.shorter[string]
        return None if string < 0 else string

    def _near(self, text: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same without the parts of the text that no string which begins at one of `starts` reaches."""
        longest, places = self._most, np.arange(len(text))
        latest = np.full(len(text), -longest)
        latest[starts] = starts
        near = places - np.maximum.accumulate(latest) < longest
        return text[near], (np.cumsum(near) - 1)[starts]


class Nested(dict[int, list[tuple[int, Any, int]]]):
    """Of each string, itself and those that it begins with, the longest first: bytes, score, and which it is. Of none,
    -1, there are none. They are made when they are asked for, and not all kept."""

    def __init__(self, prefixes: Prefixes, scores: Sequence[Any]) -> None:
        super().__init__()
        self._prefixes, self._scores = prefixes, scores

    def __missing__(self, string: int) -> list[tuple[int, Any, int]]:
        found, longest = [], string
        while string >= 0:
            found.append((self._prefixes.lengths[string], self._scores[string], string))
            string = self._prefixes.shorter[string]
        if len(self) >= KEPT:
            self.clear()
        self[longest] = found
        return found


def of_vocabulary(tokens: Sequence[bytes], nested: int = NESTED) -> Prefixes:
    """All tokens of a vocabulary, to search a text by; ModelFileError if that would take gigabytes or hours. nested:
    how many may begin with one another; fewer where each is tried that the text goes on with, at each place."""
    if (size := sum(map(len, tokens))) > MOST:
        told = f"{megabytes(size, ceil)}, more than the {megabytes(MOST, floor)} that a sound file may have"
        raise damaged(f"its tokens take {told}")
    found = Prefixes(tokens)
    shorter = np.array(found.shorter)
    above = shorter[shorter >= 0]
    for _ in range(nested):
        above = shorter[above]
        above = above[above >= 0]
    if len(above):
        raise damaged(f"more than {nested} of its tokens begin with one another")
    return found


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first.astype(np.int64) << 32 | second


def _place(table: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Where in a sorted table each key is; -1 for what is not there."""
    if not len(table):
        return np.full(len(keys), -1)
    place = np.minimum(table.searchsorted(keys), len(table) - 1)
    return np.where(table[place] == keys, place, -1)
