"""Merging neighbours until none belong together: the loop of byte-pair encoding and of SentencePiece's scores."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import pairwise
from math import inf
from sys import float_info

REMEMBERED = 1 << 16  # pairs; they are forgotten between words, not within one
SHORT = 48  # symbols

Pair = tuple[float, int]  # what merging costs, and the number of what it gives
NONE: Pair = (inf, 0)  # above all costs


class Merger:
    """Merges neighbours, lowest cost first and from the left among equals, until no pair has a cost.

    cost: that of merging two symbols, None if they do not belong together. Symbols are numbered, and what was found for
    a pair is remembered under its numbers from word to word.
    """

    def __init__(self, cost: Callable[[bytes, bytes], float | None]) -> None:
        self._cost = cost
        self._forget()

    def _forget(self) -> None:
        # Symbol 0 stands where there is none: what was merged into its left neighbour, and both ends of the word.
        self._numbers: dict[bytes, int] = {b"": 0}
        self._texts: list[bytes] = [b""]
        self._pairs: list[dict[int, Pair]] = [{}]  # by the left symbol, then by the right one
        self.remembered = 0

    def __call__(self, symbols: list[bytes]) -> list[bytes]:
        """What is left of `symbols`, none of which is empty."""
        if self.remembered > REMEMBERED:
            self._forget()
        numbers = self._numbers
        symbol = [numbers.get(text) or self._number(text) for text in symbols]
        merged = self._short(symbol) if len(symbol) <= SHORT else self._long(symbol)
        return [self._texts[number] for number in merged]

    def _short(self, symbol: list[int]) -> list[int]:
        """Of a word as most are: the cheapest of all pairs is looked for again and again."""
        pairs, look_up = self._pairs, self._look_up
        found = [pairs[first].get(second) or look_up(first, second) for first, second in pairwise(symbol)]
        costs = [cost for cost, _ in found]
        while costs:
            least = min(costs)
            if least == inf:
                break
            at = costs.index(least)
            merged = symbol[at] = found[at][1]
            del symbol[at + 1], costs[at], found[at]
            if at < len(costs):
                second = symbol[at + 1]
                found[at] = pairs[merged].get(second) or look_up(merged, second)
                costs[at] = found[at][0]
            if at:
                first = symbol[at - 1]
                found[at - 1] = pairs[first].get(merged) or look_up(first, merged)
                costs[at - 1] = found[at - 1][0]
        return symbol

    def _long(self, symbol: list[int]) -> list[int]:
        """Of a word of any length, in a time that grows with it alone.

        Places wait in one stack for each cost, the leftmost on top. A merge makes pairs that begin where it is or left
        of it: while their cost's turn is under way they belong on top of its stack, whatever cheaper ones come between,
        for these, too, only follow from this merge. So each stack is sorted once, and each merge takes the same time.
        """
        pairs, look_up = self._pairs, self._look_up
        symbol = [*symbol, 0]
        following, previous = list(range(1, len(symbol) + 1)), list(range(-1, len(symbol) - 1))
        waiting: dict[float, list[int]] = {}  # places of left halves by cost
        first = symbol[0]
        for left, second in enumerate(symbol[1:]):
            found = pairs[first].get(second) or look_up(first, second)
            if found is not NONE:
                if found[0] in waiting:
                    waiting[found[0]].append(left)
                else:
                    waiting[found[0]] = [left]
            first = second
        costs = sorted(waiting)  # a heap of those with a turn to come
        begun: set[float] = set()
        while costs:
            cost = costs[0]
            places = waiting[cost]
            if len(places) > 1 and cost not in begun:
                begun.add(cost)
                places.sort(reverse=True)
            while places:
                left = places.pop()
                right = following[left]
                cost_now, merged = pairs[symbol[left]].get(symbol[right], NONE)
                if cost_now != cost:
                    continue  # one of them has been merged since
                symbol[left], symbol[right] = merged, 0
                after = following[left] = following[right]
                before = previous[left]
                previous[after] = left
                for place, first, second in ((left, merged, symbol[after]), (before, symbol[before], merged)):
                    found = pairs[first].get(second) or look_up(first, second)
                    if found is not NONE:
                        if found[0] in waiting:
                            waiting[found[0]].append(place)
                        else:
                            waiting[found[0]] = [place]
                            heappush(costs, found[0])
                if costs[0] < cost:
                    break
            else:
                heappop(costs)
                del waiting[cost]
                if begun:
                    begun.discard(cost)
        return [number for number in symbol if number]

    def _number(self, text: bytes) -> int:
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._texts)
            self._texts.append(text)
            self._pairs.append({})
        return number

    def _look_up(self, first: int, second: int) -> Pair:
        found = NONE
        if first and second:
            left, right = self._texts[first], self._texts[second]
            cost = self._cost(left, right)
            if cost is not None:
                found = min(cost, float_info.max), self._number(left + right)
        self._pairs[first][second] = found
        self.remembered += 1
        return found
