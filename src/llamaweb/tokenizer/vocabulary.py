"""A model's tokens and their roles, read from the metadata of its GGUF file and checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import TokenType

from llamaweb.errors import ModelFileError, ModelWarning, short
from llamaweb.strings import Index, Strings

# Names of tokens that end an answer, whatever the metadata says. As llama.cpp knows them.
_END_NAMES = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
    "<｜end▁of▁sentence｜> [e~["
)

# Roles in fill-in-the-middle prompts: the metadata's names of the role, then the tokens' names if it has none.
_FILL_IN = {
    (
        "fim_pre",
        "prefix",
    ): "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    (
        "fim_suf",
        "suffix",
    ): "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    (
        "fim_mid",
        "middle",
    ): "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    ("fim_pad",): "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    ("fim_rep",): "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    ("fim_sep",): "<|file_sep|>",
}
_FILL_IN_PARTS = tuple(_FILL_IN)[:3]
_FILL_IN_ENDS = {("fim_pad",), ("fim_rep",), ("fim_sep",)}

# Tokens that are part of the text even though converters mark them as control tokens (gpt-oss's channels).
_TEXT_NAMES = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")

# (token, others): where all the others end an answer, the token does not (o200k_harmony, Solar Open, Gemma 4, PLaMo).
_NOT_AN_END = (
    ("<|end|>", ("<|return|>", "<|call|>"), TokenType.USER_DEFINED),
    ("<|end|>", ("<|return|>", "<|calls|>"), TokenType.USER_DEFINED),
    ("<|end|>", ("<|flush|>", "<|call|>"), TokenType.USER_DEFINED),
    ("<|end|>", ("<|flush|>", "<|calls|>"), TokenType.USER_DEFINED),
    ("</s>", ("<|tool_response>",), TokenType.NORMAL),
    ("</s>", ("<|plamo:eos|>",), TokenType.NORMAL),
)


_UNREAD_ROLES = ("unknown", "seperator", "padding", "mask")  # GGUF spells them so


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id and by text, their types (gguf.TokenType, int32), and the ids that have a role."""

    tokens: Strings
    ids: Index
    types: np.ndarray
    bos: int | None
    eos: int | None
    eog: frozenset[int]
    add_bos: bool
    add_eos: bool
    fill_in: tuple[int, int, int] | None  # what stands before a prefix, a suffix and the middle between them


def read_vocabulary(
    metadata: Mapping[str, Any], *, bos: int | None, eos: int | None, add_bos: bool, add_eos: bool = False
) -> Vocabulary:
    """The vocabulary in a GGUF file's metadata; ModelFileError if it contradicts itself.

    `bos`, `eos`, `add_bos` and `add_eos` hold where the metadata does not say it.
    """
    tokens = strings(metadata, "tokenizer.ggml.tokens")
    if not len(tokens):
        raise damaged("tokenizer.ggml.tokens is empty")
    if b"" in tokens:
        tokens = Strings.of(token or b"[EMPTY_%d]" % index for index, token in enumerate(tokens))
    ids = Index(tokens)
    if ids.twice is not None:
        raise damaged(f"tokenizer.ggml.tokens has the token {short(ids.twice.decode(errors='replace'))} twice")

    types = token_types(metadata, len(tokens))
    scores(metadata, len(tokens))
    for role in _UNREAD_ROLES:
        token_id(metadata, role, len(tokens))
    bos = token_id(metadata, "bos", len(tokens), bos)
    end = token_id(metadata, "eos", len(tokens), eos)
    add_bos, add_eos = flag(metadata, "add_bos_token", add_bos), flag(metadata, "add_eos_token", add_eos)
    for wanted, token, name in ((add_bos, bos, "bos"), (add_eos, end, "eos")):
        if wanted and token is None:
            raise damaged(f"tokenizer.ggml.add_{name}_token is set, but there is no tokenizer.ggml.{name}_token_id")

    fill_in = _fill_in(metadata, ids, types)
    eog = _end_of_generation(metadata, ids, types, end, fill_in)
    found = [id for roles in _FILL_IN_PARTS for id in fill_in[roles]]
    parts = (found[0], found[1], found[2]) if len(found) == 3 else None
    return Vocabulary(tokens, ids, types, bos, end, eog, add_bos, add_eos, parts)


def strings(metadata: Mapping[str, Any], key: str) -> Strings:
    """An array of strings of the metadata; ModelFileError if it is missing or something else."""
    value = metadata.get(key)
    if value is None:
        raise damaged(f"{key} is missing")
    if isinstance(value, Strings):
        return value
    if not isinstance(value, list) or not set(map(type, value)) <= {bytes}:
        raise damaged(f"{key} is not a list of strings")
    return Strings.of(value)


def damaged(finding: str) -> ModelFileError:
    """The error for a tokenizer that is not what it should be."""
    return ModelFileError(f"The model file's tokenizer is damaged: {finding}; fetch or convert the model again.")


def token_types(metadata: Mapping[str, Any], n_vocab: int) -> np.ndarray:
    """The tokens' types (gguf.TokenType) as the file has them, int32; all NORMAL if it has none."""
    value = metadata.get("tokenizer.ggml.token_type")
    if value is None:
        return np.full(n_vocab, int(TokenType.NORMAL), np.int32)
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
        raise damaged("tokenizer.ggml.token_type is not a list of whole numbers")
    if len(value) < n_vocab:
        raise damaged(f"tokenizer.ggml.token_type has {len(value)} entries for {n_vocab} tokens")
    return value[:n_vocab].astype(np.int32)


def scores(metadata: Mapping[str, Any], n_vocab: int) -> np.ndarray:
    """The tokens' scores, float32; zeros if the metadata has none, ModelFileError if it has something else."""
    value = metadata.get("tokenizer.ggml.scores")
    if value is None:
        return np.zeros(n_vocab, np.float32)
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu":
        raise damaged("tokenizer.ggml.scores is not a list of numbers")
    if len(value) < n_vocab:
        raise damaged(f"tokenizer.ggml.scores has {len(value)} entries for {n_vocab} tokens")
    return value[:n_vocab].astype(np.float32)


def token_id(metadata: Mapping[str, Any], role: str, n_vocab: int, default: int | None = None) -> int | None:
    """`tokenizer.ggml.ROLE_token_id`; with a warning the default, if that is a token, where it is out of range."""
    key = f"tokenizer.ggml.{role}_token_id"
    value = metadata.get(key)
    default = default if default is not None and default < n_vocab else None
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise damaged(f"{key} is {short(value)}, not a token's id")
    if 0 <= value < n_vocab:
        return value
    told = "it is taken as left out" if default is None else f"{default} is taken instead"
    warnings.warn(f"{key} is {value}, but the ids go from 0 to {n_vocab - 1}; {told}.", ModelWarning, stacklevel=2)
    return default


def flag(metadata: Mapping[str, Any], name: str, default: bool) -> bool:
    """`tokenizer.ggml.NAME`, a truth value of the metadata; ModelFileError if it is something else."""
    value = metadata.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(value, bool):
        raise damaged(f"tokenizer.ggml.{name} is {short(value)}, not true or false")
    return value


def needed_id(metadata: Mapping[str, Any], role: str, n_vocab: int, default: int | None = None) -> int:
    """The same of a token that must be there; ModelFileError if it is not."""
    found = token_id(metadata, role, n_vocab, default)
    if found is None:
        raise damaged(f"there is no tokenizer.ggml.{role}_token_id")
    return found


def _fill_in(metadata: Mapping[str, Any], ids: Index, types: np.ndarray) -> dict[tuple[str, ...], list[int]]:
    """Of each role in fill-in-the-middle prompts its token, or none; corrects `types` as `_end_of_generation`."""
    fill_in = {}
    for roles, names in _FILL_IN.items():
        known = [found for role in roles if (found := token_id(metadata, role, len(types))) is not None]
        by_name = [found for name in names.split() if (found := ids.get(name.encode())) is not None]
        if not known:
            types[by_name[:1]] = TokenType.CONTROL
        fill_in[roles] = known[-1:] or by_name[:1]
    return fill_in


def _end_of_generation(
    metadata: Mapping[str, Any],
    ids: Index,
    types: np.ndarray,
    eos: int | None,
    fill_in: Mapping[tuple[str, ...], list[int]],
) -> frozenset[int]:
    """Every id that ends an answer; corrects `types` where a token's name says that it is a control token."""
    named = (eos, token_id(metadata, "eot", len(types)), token_id(metadata, "eom", len(types)))
    ends = {end for end in named if end is not None}
    ends.update(id for roles in _FILL_IN_ENDS for id in fill_in[roles])
    by_name = [found for name in _END_NAMES.split() if (found := ids.get(name.encode())) is not None]
    types[by_name] = TokenType.CONTROL
    ends.update(by_name)
    types[[ids[name.encode()] for name in _TEXT_NAMES if name.encode() in ids]] = TokenType.USER_DEFINED
    for name, others, token_type in _NOT_AN_END:
        token = ids.get(name.encode())
        if token is not None and token in ends and all(ids.get(other.encode(), -1) in ends for other in others):
            ends.remove(token)
            types[token] = token_type
    return frozenset(ends)
