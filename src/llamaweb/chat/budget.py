"""What one rendering of a chat template may take: steps, time, and the sizes and depths of its values.

What takes time or memory in a template is an operation: a call, a round of a loop, an operator, a filter. Each asks
here before it begins, with the size of what it will make, so that no single one takes long and the clock is read often.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined

MAX_STEPS = 1_000_000
"""Operations in one rendering, where each STEP bytes that one makes or reads count as one; a template takes a few for
each message."""
STEP = 512
MAX_SECONDS = 2.0
"""Of one rendering, for what is slower than its steps tell; a conversation that fills a context takes 0.1 s."""
MAX_SIZE = 16 << 20
"""Bytes of one value, in about; four for each letter of a text that is not ASCII."""
MAX_NESTING = 64
"""Lists within lists: Python compares, prints and frees them by recursion, on a stack that is small in WebAssembly."""
MAX_CALLS = 60
"""Calls within calls."""
MAX_BITS = 4096
"""Of a whole number."""

SMALL = 1 << 20
"""Whole numbers that have places of their own in a dict."""

UNREAD = 64  # steps between two looks at the clock
LENGTH = 128  # letters of a text that may be read unseen, even once for each letter of another one
ITEM = 64  # bytes of an item: its reference and a short text
SIMPLE = (int, float, bool, type(None))
_SMALL = 1 << (3 * ITEM)  # whole numbers whose digits an item has place for
_LISTS: Any = (list, tuple, dict, type({}.keys()), type({}.values()), type({}.items()))


class Budget:
    """What is left of one rendering."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.steps = MAX_STEPS
        self.calls = 0
        self.odd_keys = 0
        self._look_at = MAX_STEPS
        self._end = time.monotonic() + MAX_SECONDS

    def take(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < self._look_at:
            self.look()

    def look(self) -> None:
        """At the clock, which what takes no steps does by itself."""
        if self.steps < 0:
            raise TemplateRuntimeError(f"it takes more than {MAX_STEPS} steps")
        if time.monotonic() > self._end:
            raise TemplateRuntimeError(f"it takes longer than {MAX_SECONDS:.0f} seconds")
        self._look_at = max(0, self.steps - UNREAD)

    def enter(self) -> None:
        """Before what may call itself; `leave` is behind it."""
        self.take()
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise TemplateRuntimeError("it calls itself without end")

    def leave(self) -> None:
        self.calls -= 1

    def make(self, size: int) -> None:
        """Before a value of `size` bytes is made, or read as a whole."""
        if size > MAX_SIZE:
            raise TemplateRuntimeError("it builds something too long")
        self.steps -= 1 + size // STEP
        if self.steps < self._look_at:
            self.look()

    def key(self, value: Any) -> Any:
        """Before it is put into a dict or a set. Large numbers, fractions and tuples may be chosen so that each is
        compared with all that were put there before; where texts are put is up to chance."""
        small = isinstance(value, int) and -SMALL < value < SMALL
        if not small and value is not None and not isinstance(value, str | Undefined):
            self.odd_keys += 1
            self.take(self.odd_keys)
        return value

    def read(self, value: Any) -> Any:
        """The value, which Python may read as a whole, to compare it or to find it."""
        if type(value) is str:
            if len(value) > LENGTH:
                self.make(text_size(value))
        elif not isinstance(value, SIMPLE):
            self.make(self.size(value))
        return value

    def made(self, text: Any, size: int) -> Any:
        """What was made, for which `size` bytes were taken: a text may be longer, or have wider letters."""
        if isinstance(text, str) and text_size(text) > size:
            self.make(text_size(text))
        return text

    def size(self, value: Any, depth: int = 0) -> int:
        """Bytes of plain data with all that is in it, each as often as it is there, as if it were printed.

        What is no plain data (a namespace, a macro, a loop) may be nowhere inside of another value: with these, chains
        could be made that no depth tells of.
        """
        kind = type(value)
        if kind is dict or kind is list or isinstance(value, _LISTS):  # the first two without a call
            if depth >= MAX_NESTING:
                raise TemplateRuntimeError(f"it nests lists more than {MAX_NESTING} deep")
            total = ITEM * (1 + len(value))
            if total > STEP:
                self.make(total)
            items = value
            if kind is dict or (kind is not list and isinstance(value, dict)):
                items = value.values()
                try:
                    keys = "".join(value)
                    total += len(keys) if keys.isascii() else 4 * len(keys)
                except TypeError:  # keys that are no texts
                    total += sum(self.size(key, depth + 1) for key in value)
            for item in items:
                kind = type(item)
                if kind is str:
                    total += len(item) if item.isascii() else 4 * len(item)
                elif kind is dict or kind is list or kind not in SIMPLE:
                    total += self.size(item, depth + 1)
                    if total > MAX_SIZE:
                        break
                elif kind is int and not -_SMALL < item < _SMALL:
                    total += item.bit_length() // 3
            if total > MAX_SIZE:
                self.make(total)
            return total
        if isinstance(value, str):
            return text_size(value)
        if kind in SIMPLE:
            return ITEM + (value.bit_length() // 3 if kind is int else 0)
        if isinstance(value, range):
            return list_size(value)
        if isinstance(value, Undefined):
            return ITEM
        raise TemplateRuntimeError(f"it uses a {kind.__name__} where only texts, numbers, lists and dicts can be")


def text_size(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def whole_size(texts: Collection[str]) -> int:
    """Bytes of texts as one: a wide letter of any of them makes all letters wide."""
    letters = sum(map(len, texts))
    return letters if all(map(str.isascii, texts)) else 4 * letters


def list_size(items: Any) -> int:
    """Bytes of a list by itself, or of one that is made of `items`; 0 for what has no length."""
    if items is None:
        return 0
    try:
        return ITEM * (1 + len(items))
    except TypeError:
        return 0
