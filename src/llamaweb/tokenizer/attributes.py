"""White space beside special tokens that belongs to them: by names, as llama.cpp has it, for GGUF does not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llamaweb.strings import Index


@dataclass(frozen=True)
class Stripping:
    """Ids of special tokens that take the ASCII white space before them (`left`) or behind them (`right`) away."""

    left: frozenset[int] = frozenset()
    right: frozenset[int] = frozenset()


Rule = Callable[[Index, frozenset[int]], Stripping]


def _left(name: bytes) -> Rule:
    """A mask, which a model fills with a word, takes the space before it."""
    return lambda ids, special: Stripping(left=special & {ids.get(name)})


def _right_of_all_but(*names: bytes) -> Rule:
    return lambda ids, special: Stripping(right=special - {ids.get(name) for name in names})


# (key, what its value may hold, the rule): the first that holds counts.
_RULES: tuple[tuple[str, tuple[str, ...], Rule], ...] = (
    ("tokenizer.ggml.pre", ("jina-v2-de", "jina-v2-es", "jina-v2-code"), _left(b"<mask>")),
    ("general.architecture", ("nomic-bert-moe", "jina-bert-v3"), _left(b"<mask>")),
    ("general.name", ("phi-3", "phi3"), _right_of_all_but(b"<unk>", b"<s>", b"<|endoftext|>")),
    ("general.name", ("modern-bert",), _left(b"[MASK]")),
)


def stripping(metadata: Mapping[str, Any], ids: Index, special: frozenset[int]) -> Stripping:
    """What the special tokens of a file take away; `special` are those that a text is searched for."""
    for key, names, rule in _RULES:
        value = metadata.get(key)
        if isinstance(value, str) and any(name in value.lower() for name in names):
            return rule(ids, special)
    return Stripping()
