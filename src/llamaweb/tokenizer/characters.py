"""Characters as llama.cpp changes them, by one version of Unicode, whatever Python's is."""

from __future__ import annotations

import unicodedata
from functools import cache

from llamaweb.tokenizer.patterns import compile_pattern

# What later versions of Unicode have added has no lower case and no parts here.
_ASSIGNED = compile_pattern(r"[\p{L}\p{M}\p{N}\p{P}\p{S}]")


@cache
def lower(character: str) -> str:
    """The lower case of a character, which is one again: the first where Python gives several (İ)."""
    return character.lower()[0] if _ASSIGNED.match(character) else character


@cache
def base(character: str) -> str:
    """The first character of the canonical decomposition: e of é."""
    return unicodedata.normalize("NFD", character)[0] if _ASSIGNED.match(character) else character
