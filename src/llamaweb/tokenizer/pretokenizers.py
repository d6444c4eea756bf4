"""How text is cut into words before byte-pair encoding: one table, by the names of `tokenizer.ggml.pre`.

Patterns are in the field's notation (\\p{L}, \\p{N}, \\p{P}, \\s as Unicode's White_Space). Several patterns are
applied in turn, each to the pieces that the one before it left. Names, rules and defaults are those of llama.cpp's
vocabularies.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from llamaweb.errors import ModelWarning, UnsupportedError, short
from llamaweb.tokenizer import unicode_classes


@dataclass(frozen=True)
class PreTokenizer:
    """A rule for cutting text into words, and what comes with it unless the metadata says otherwise."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    """A word that is a token as a whole is that token, whatever the merges would give."""
    add_bos: bool = False
    default_bos: bool = True
    """Whether a file without a BOS id has token 11 as its BOS (GPT-2's heritage) or none."""


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Both cases are spelled out: under (?i:…) Python would also take U+017F (long s) for an s.
_CONTRACTIONS = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_CL100K = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2.removesuffix(r"|\s+"), r"\p{N}+", r"[0-9][0-9][0-9]"))
GPT2 = PreTokenizer((_GPT2,))
SMOLLM = PreTokenizer((r"\p{N}", _GPT2))
CL100K = PreTokenizer((_CL100K.replace("DIGITS", "{1,3}"),))
LLAMA3 = replace(CL100K, ignore_merges=True, add_bos=True)
QWEN2 = PreTokenizer((_CL100K.replace("DIGITS", ""),))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"), GPT2),
    **dict.fromkeys(("gigachat", "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "jina-v1-en"), GPT2),
    **dict.fromkeys(("jina-es", "jina-de"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), SMOLLM),
    "mellum2": SMOLLM,
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0"), LLAMA3),
    **dict.fromkeys(("lfm2", "jina-v5-nano"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), CL100K),
    "chatglm-bpe": replace(CL100K, default_bos=False),
    **dict.fromkeys(("glm4", "glm5"), replace(CL100K, default_bos=False, ignore_merges=True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"), QWEN2),
    **dict.fromkeys(("solar-open", "grok-2"), QWEN2),
}


def pre_tokenizer(name: object) -> PreTokenizer:
    """The rule called `name` in `tokenizer.ggml.pre`; UnsupportedError if there is none.

    Files of before 2024 do not name it: llama.cpp then takes its default with a warning, and so does this.
    """
    if name is None:
        message = (
            "The model file does not name its pre-tokenizer (tokenizer.ggml.pre), so that answers may be worse; "
            "convert the model again with a current converter."
        )
        warnings.warn(message, ModelWarning, stacklevel=2)
        return DEFAULT
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"The pre-tokenizer {short(name)} is not supported yet; use a model with that of GPT-2, SmolLM, Llama 3, "
            "Qwen 2 or a model that shares one of them."
        )
    return PRE_TOKENIZERS[name]


def splitter(rule: PreTokenizer) -> Callable[[str], list[str]]:
    """A function that cuts a text into words; joined they are the text again."""
    compiled = [_compile(pattern) for pattern in rule.patterns]

    def split(text: str) -> list[str]:
        words = [text]
        for pattern in compiled:
            # The pattern is one group, so split() gives its matches as well as what lies between them.
            words = [word for piece in words for word in pattern.split(piece) if word]
        return words

    return split


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """A pattern of the table for Python's `re`: the character classes written out as ranges."""
    classes = {
        r"\p{L}": _ranges(unicode_classes.LETTERS),
        r"\p{N}": _ranges(unicode_classes.NUMBERS),
        r"\p{P}": _ranges(unicode_classes.PUNCTUATION),
        r"\s": _ranges(unicode_classes.WHITE_SPACE),
    }

    def expand(match: re.Match[str]) -> str:
        # Inside brackets a class is its bare ranges; on its own it gets brackets.
        if match[0].startswith("["):
            return re.sub(r"\\p\{[LNP]\}|\\s", lambda name: classes[name[0]], match[0])
        return f"[^{classes[match[0].lower()]}]" if match[0] == r"\S" else f"[{classes[match[0]]}]"

    return re.compile("(" + re.sub(r"\[[^]]*\]|\\p\{[LNP]\}|\\[sS]", expand, pattern) + ")")


@cache
def _ranges(items: str) -> str:
    """A table of `unicode_classes` as the inside of a bracket expression."""
    text, end = [], 0
    for item in items.split():
        gap, length = item.split("+")
        start = end + int(gap, 16)
        end = start + int(length, 16)
        text.append(f"\\U{start:08x}-\\U{end - 1:08x}")
    return "".join(text)
