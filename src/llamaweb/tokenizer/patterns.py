"""Patterns in the field's notation for Python's `re`, with character classes of one version of Unicode.

\\p{L}, \\p{M}, \\p{N}, \\p{P}, \\p{S} and \\s are those of `unicode_classes`, \\p{Han} is the blocks of characters that
llama.cpp counts as Chinese, and `[a--[b]]` is what is in a and not in b.
"""

from __future__ import annotations

import re
from functools import cache

from llamaweb.tokenizer import unicode_classes

Ranges = list[tuple[int, int]]
"""Code points: the first of each range and the one behind its last, ascending."""

_HAN = (
    *((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x2A6E0), (0x2A700, 0x2B740)),
    *((0x2B740, 0x2B820), (0x2B820, 0x2CEB0), (0x2CEB0, 0x2EBF0), (0x2F800, 0x2FA20)),
)
_ESCAPED = {"r": "\r", "n": "\n", "t": "\t"}

_BRACKETS = r"\[\^?(?:\\.|[^]\\])*?(?:--\[(?:\\.|[^]\\])*\])?\]"
_CLASS = r"\\p\{\w+\}|\\[sS]"
_ITEM = re.compile(rf"({_CLASS})|(?:\\(.)|(.))(?:-(?:\\(.)|(.)))?", re.DOTALL)


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as Python's; all of it is one group, so that split() gives its matches and what lies between them."""
    return re.compile("(" + re.sub(f"{_BRACKETS}|{_CLASS}", lambda match: _bracket(match[0]), pattern) + ")")


@cache
def ranges(name: str) -> Ranges:
    """The code points of a class, by its name in a pattern."""
    tables = {
        r"\p{L}": unicode_classes.LETTERS,
        r"\p{M}": unicode_classes.MARKS,
        r"\p{N}": unicode_classes.NUMBERS,
        r"\p{P}": unicode_classes.PUNCTUATION,
        r"\p{S}": unicode_classes.SYMBOLS,
        r"\p{C}": unicode_classes.CONTROLS,
        r"\s": unicode_classes.WHITE_SPACE,
    }
    if name == r"\p{Han}":
        return list(_HAN)
    found, end = [], 0
    for item in tables[name].split():
        gap, length = item.split("+")
        start = end + int(gap, 16)
        end = start + int(length, 16)
        found.append((start, end))
    return found


def _bracket(text: str) -> str:
    """A bracket expression, or a class that stands alone, with its members as ranges."""
    if not text.startswith("["):
        text = r"[^\s]" if text == r"\S" else f"[{text}]"
    negated = text.startswith("[^")
    inside, _, without = text[1 + negated : -1].partition("--[")
    members = _without(_union(inside), _union(without.removesuffix("]")))
    return "[" + "^" * negated + "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in members) + "]"


def _union(items: str) -> Ranges:
    """The members of what stands in brackets: classes, characters, ranges of characters."""
    found: Ranges = []
    for name, escaped, plain, escaped_end, plain_end in _ITEM.findall(items):
        if name:
            found += ranges(name)
            continue
        first = _ESCAPED.get(escaped, escaped) or plain
        last = _ESCAPED.get(escaped_end, escaped_end) or plain_end or first
        found.append((ord(first), ord(last) + 1))
    return sorted(found)


def _without(members: Ranges, others: Ranges) -> Ranges:
    """The members that are not among the others."""
    for start, end in others:
        members = [
            part
            for first, last in members
            for part in ((first, min(last, start)), (max(first, end), last))
            if part[0] < part[1]
        ]
    return members
