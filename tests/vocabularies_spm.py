"""Real SentencePiece vocabularies, and made-up ones, as the metadata of a GGUF file would hold them.

Gemma 3's is that of its model file, Mistral's is a SentencePiece model in a pinned wheel.
"""

from __future__ import annotations

import asyncio
import functools
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import TokenType

from llamaweb.host.fetch import pip_download
from llamaweb.host.kept import cache_root
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import FileSource
from tests.models import gemma3_path

MISTRAL = ("mistral-common", "1.13.1", "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af")
MISTRAL_MEMBER = "mistral_common/data/tokenizer.model.v1"

REAL = ("gemma3", "mistral-v1")
NAMES = (*REAL, "odd", "odd-no-prefix")


@functools.cache
def vocabulary(name: str) -> dict[str, Any]:
    """The `tokenizer.*` metadata of a vocabulary of NAMES: strings as list[bytes], numbers as numpy arrays."""
    if name == "gemma3":
        header = asyncio.run(read_header(FileSource(gemma3_path())))
        return {key: value for key, value in header.metadata.items() if key.startswith("tokenizer.")}
    if name == "mistral-v1":
        return _of_sentencepiece(mistral_file(MISTRAL_MEMBER).read_bytes())
    return odd_vocabulary(space_prefix=name == "odd")


def mistral_file(member: str) -> Path:
    """A file of mistral-common's wheel, fetched once."""
    package, version, sha256 = MISTRAL
    path = cache_root() / "vocabularies" / f"{package}-{sha256[:12]}-{Path(member).name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            [file] = pip_download({package: (version, sha256)}, Path(scratch))
            part = Path(scratch) / "part"
            with zipfile.ZipFile(file) as archive:
                part.write_bytes(archive.read(member))
            part.rename(path)
    return path


def _of_sentencepiece(data: bytes) -> dict[str, Any]:
    """The metadata that a converter makes of a SentencePiece model (field 1 of the message: its pieces)."""
    tokens, scores, types = [], [], []
    for number, piece in _fields(data):
        if number == 1:
            fields = dict(_fields(piece))
            tokens.append(fields[1])
            scores.append(struct.unpack("<f", fields.get(2, bytes(4)))[0])
            types.append(fields.get(3, int(TokenType.NORMAL)))  # the numbers are those of GGUF
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: their numbers, and bytes or whole numbers."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        yield key >> 3, data[at : at + length]
        at += length


def odd_vocabulary(space_prefix: bool) -> dict[str, Any]:
    """A small vocabulary with what is unusual: every token type, equal scores, whole numbers as scores, spaces inside
    and at the end of tokens, a byte that is its own token, merges into special tokens, an empty token.
    """
    items: list[tuple[str, int, TokenType]] = [
        ("<unk>", 0, TokenType.UNKNOWN),
        ("<s>", 0, TokenType.CONTROL),
        ("</s>", 0, TokenType.CONTROL),
    ]
    items += [(f"<0x{byte:02X}>", 0, TokenType.BYTE) for byte in range(256) if byte != ord("q")]
    items += [(character, -1, TokenType.NORMAL) for character in "▁abcdefhilnorstuwxy<>/|éß你👍q"]
    pieces = "he ll hell hello ▁h ▁w ▁▁ ▁▁▁▁ ab ba aba th ▁t ▁th ▁the the▁ o▁w a▁b </ </s <s <| xy 你你 e▁▁ ▁é s▁ ing"
    items += [(piece, -2 - index // 3, TokenType.NORMAL) for index, piece in enumerate(pieces.split())]
    items += [
        ("", -9, TokenType.NORMAL),
        ("<unused1>", -9, TokenType.UNUSED),
        ("<|end|>", 0, TokenType.USER_DEFINED),
        ("<|im_end|>", 0, TokenType.NORMAL),
        ("<|im_start|>", 0, TokenType.CONTROL),
        ("  ", 0, TokenType.USER_DEFINED),
        ("▁x▁", 0, TokenType.USER_DEFINED),
        ("text👍", 0, TokenType.USER_DEFINED),
        ("!!", 0, TokenType.USER_DEFINED),
        ("!!!", 0, TokenType.USER_DEFINED),
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [text.encode() for text, _, _ in items],
        "tokenizer.ggml.scores": np.array([score for _, score, _ in items], np.int32),
        "tokenizer.ggml.token_type": np.array([int(token_type) for _, _, token_type in items], np.int32),
        "tokenizer.ggml.add_space_prefix": space_prefix,
        "tokenizer.ggml.add_bos_token": space_prefix,
        "tokenizer.ggml.add_eos_token": True,
    }
