"""How text is cut into words before byte-pair encoding: one table, by the names of `tokenizer.ggml.pre`.

A rule is a row of cuts, applied in turn, each to the pieces that the ones before it have left: a pattern (in the
notation of `patterns`) makes a word of each match and of what lies between two, a function gives the words itself.
Names, rules and defaults are those of llama.cpp's vocabularies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import NoneType

from llamaweb.errors import ModelWarning, short
from llamaweb.tokenizer.patterns import compile_pattern
from llamaweb.tokenizer.vocabulary import damaged

Cut = Callable[[str], list[str]]


@dataclass(frozen=True)
class PreTokenizer:
    """A rule for cutting text into words, and what comes with it unless the metadata says otherwise."""

    cuts: tuple[str | Cut, ...]
    ignore_merges: bool = False
    """A word that is a token as a whole is that token, whatever the merges would give."""
    needs_merges: bool = True
    add_bos: bool = False
    always_bos: bool = False
    """BOS is added even if the metadata says otherwise (gemma4)."""
    default_bos: bool = True
    """Whether a file without a BOS id has token 11 as its BOS (GPT-2's heritage) or none."""
    byte_level: bool = True
    """Tokens are written in GPT-2's alphabet of bytes, or else as they read, with <0x41> for a byte."""
    escape_whitespaces: bool = False
    """A space is written as U+2581 (▁) in tokens."""
    whole_newlines: bool = False
    """A run of newlines that is a token is that token (gemma4)."""


def thirds_before(digits: str) -> Cut:
    """Cuts before each three digits of a run, counted from its end; the digits that are left over begin the run."""
    return lambda text: _cut_digits(text, digits, before=True)


def thirds_after(digits: str) -> Cut:
    """The same behind each three; what stands before a run goes with its first digits."""
    return lambda text: _cut_digits(text, digits, before=False)


def _cut_digits(text: str, digits: str, *, before: bool) -> list[str]:
    words, done = [], 0
    for run in compile_pattern(digits).finditer(text):
        start, end = run.span()
        at = start + (end - start) % 3
        for cut in range(at, end, 3) if before else range(at if at > start else at + 3, end + 1, 3):
            words.append(text[done:cut])
            done = cut
    return [*words, text[done:]]


# Both cases are spelled out: under (?i:…) Python would also take U+017F (long s) for an s.
_CONTRACTIONS = r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
_SPACES = r"\s+(?!\S)|\s+"
_LINES = r"\s*[\r\n]+|" + _SPACES
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_OTHERS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _SPACES


def _cl100k(digits: str, word: str = _CONTRACTIONS + "|" + _WORD, others: str = _OTHERS, lines: str = _LINES) -> str:
    return "|".join((word, digits, others, lines))


def _cased(letters: str, ending: str = f"(?:{_CONTRACTIONS})?") -> str:
    """Words of upper-case letters, then lower-case ones; beyond ASCII all letters are both."""
    upper, lower = f"[{letters}--[a-z]]", f"[{letters}--[A-Z]]"
    return "|".join(rf"[^\r\n\p{{L}}\p{{N}}]?{part}{ending}" for part in (f"{upper}*{lower}+", f"{upper}+{lower}*"))


_UNCASED_WITH_MARKS = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+(?:{_CONTRACTIONS})?"

# DeepSeek's: punctuation before a Latin word belongs to it.
_ASCII_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK = _ASCII_WORD + r"| ?[\p{P}\p{S}]+[\r\n]*|" + _LINES
_CHINESE = "[\u4e00-\u9fa5\u3040-\u30ff]+"
_CHINESE_AND_MORE = "[\u0800-\u9fa5\uac00-\ud7ff--[\\s]]+"
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
# Youtu's: Korean, punctuation of Chinese, Bopomofo, Chinese and Japanese.
_EAST_ASIAN = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    "|[\u3105-\u312f]+|" + _CHINESE
)
# AFMoE's: scripts without spaces between words, and Korean.
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0eff\u1780-\u17ff\u1000-\u109f"
    "\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
# BLOOM's: all but white space and punctuation of several scripts.
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_NEWLINES = r"[^\n]+|\n+"
# Jais 2's: white space by powers of two. The look behind spares looking for a newline where there was none before.
_JAIS2_LINES = "|".join(
    (
        r"(?<![\s--[\r\n]])\s*[\r\n]+",
        *(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)),
        r"\s{1,2}(?!\S)|\s",
    )
)
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"

DEFAULT = PreTokenizer((_PUNCTUATION, _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
GPT2 = PreTokenizer((_GPT2,))
SMOLLM = PreTokenizer((r"\p{N}", _GPT2))
CL100K = PreTokenizer((_cl100k(r"\p{N}{1,3}"),))
LLAMA3 = replace(CL100K, ignore_merges=True, add_bos=True)
QWEN2 = PreTokenizer((_cl100k(r"\p{N}"),))
DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _CHINESE, _DEEPSEEK))
BLOOM = PreTokenizer((_BLOOM,))
GPT4O = PreTokenizer((_cl100k(r"\p{N}{1,3}", _cased(r"\p{L}"), _OTHERS_AND_SLASHES),))
TINY_AYA = PreTokenizer((thirds_after(r"\p{N}+"), _cl100k(r"\p{N}{1,3}", _UNCASED_WITH_MARKS, _OTHERS_AND_SLASHES)))
GEMMA4 = PreTokenizer((_NEWLINES,), byte_level=False, escape_whitespaces=True, whole_newlines=True, always_bos=True)
SARVAM = replace(GEMMA4, whole_newlines=False, always_bos=False)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"), GPT2),
    **dict.fromkeys(("gigachat", "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "jina-v1-en"), GPT2),
    **dict.fromkeys(("jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v2-code"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), SMOLLM),
    "mellum2": SMOLLM,
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0"), LLAMA3),
    **dict.fromkeys(("lfm2", "jina-v5-nano"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), CL100K),
    **dict.fromkeys(("chatglm-bpe", "glm4", "glm5"), replace(CL100K, default_bos=False)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"), QWEN2),
    **dict.fromkeys(("solar-open", "grok-2", "bailingmoe", "bailingmoe2", "llada-moe"), QWEN2),
    "qwen35": PreTokenizer(
        (
            _cl100k(
                r"\p{N}",
                _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
                r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
            ),
        )
    ),
    "ufakzeka": PreTokenizer((_cl100k(r"\p{N}", _WORD),)),
    "laguna": PreTokenizer((_NEWLINES, *QWEN2.cuts)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _cl100k(r"\p{N}+")), ignore_merges=True),
    "jais-2": PreTokenizer((_cl100k(r"\p{N}{1,3}", lines=_JAIS2_LINES),)),
    "seed-coder": PreTokenizer((_cl100k(r"\p{N}", others=r" ?[^\s\p{L}\p{N}\r\n]+"),)),
    "exaone-moe": PreTokenizer(
        (
            _cl100k(
                r"\p{N}",
                _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}\p{M}*+(?: ?\p{L}\p{M}*+)*+",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]?",
            ),
        )
    ),
    "kimi-k2": PreTokenizer(
        (r"\p{Han}+|" + _cl100k(r"\p{N}{1,3}", rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}--[\p{{Han}}]]+(?:{_CONTRACTIONS})?"),),
        needs_merges=False,
    ),
    "tekken": PreTokenizer(
        (_cl100k(r"\p{N}", _cased(r"\p{L}", ending=""), _OTHERS_AND_SLASHES),),
        ignore_merges=True,
        add_bos=True,
    ),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), GPT4O),
    "granite-embed-multi-97m": PreTokenizer(
        (_cl100k(r"\p{N}{1,3}", _cased(r"\p{L}\p{M}"), _OTHERS_AND_SLASHES),), ignore_merges=True
    ),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), TINY_AYA),
    "superbpe": PreTokenizer((r"\p{N}+", thirds_before("[0-9]+"))),
    "falcon": PreTokenizer((_PUNCTUATION.replace("|]", "|`]"), _GPT2, "[0-9][0-9][0-9]")),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), BLOOM),
    "viking": PreTokenizer((_BLOOM, r"\p{N}")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            r"[\t\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3001\u3002]+",
            r"(?<!\s)\s+\Z",
            _CHINESE_AND_MORE,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_AND_MORE, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), DEEPSEEK3),
    "spark2_5": PreTokenizer((r"\p{N}{1,3}", _CHINESE, _ASCII_WORD + r"| ?[\p{P}\p{S}]+|[\r\n]|" + _SPACES, r"\p{N}")),
    "youtu": PreTokenizer(
        (_EAST_ASIAN, _cl100k(r"\p{N}", _UNCASED_WITH_MARKS, _OTHERS_AND_SLASHES)), ignore_merges=True
    ),
    "afmoe": PreTokenizer((thirds_after(r"\p{N}+"), _ASIAN, _DEEPSEEK)),
    **dict.fromkeys(("gemma4", "granite-embed-multi-311m"), GEMMA4),
    "sarvam-moe": SARVAM,
    "whitespace": PreTokenizer((r"\S+",), byte_level=False),
}


def pre_tokenizer(name: object) -> PreTokenizer:
    """The rule called `name` in `tokenizer.ggml.pre`; the default one with a warning if there is none of that name.

    Files of before 2024 do not name it: llama.cpp then takes its default with a warning, and so does this.
    ModelFileError if the name is no text.
    """
    if not isinstance(name, (str, NoneType)):
        raise damaged(f"tokenizer.ggml.pre is {short(name)}, not a name")
    if name in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[name]
    found = f"names an unknown pre-tokenizer, {short(name)}" if name else "does not name its pre-tokenizer"
    message = (
        f"The model file {found} (tokenizer.ggml.pre); the default one is taken, so that answers may be worse; "
        "convert the model again with a current converter."
    )
    warnings.warn(message, ModelWarning, stacklevel=2)
    return DEFAULT


def splitter(rule: PreTokenizer) -> Cut:
    """A function that cuts a text into words; joined they are the text again."""
    cuts = [compile_pattern(cut).split if isinstance(cut, str) else cut for cut in rule.cuts]

    def split(text: str) -> list[str]:
        words = [text]
        for cut in cuts:
            # A pattern is one group, so split() gives its matches as well as what lies between them.
            words = [word for piece in words for word in cut(piece) if word]
        return words

    return split
