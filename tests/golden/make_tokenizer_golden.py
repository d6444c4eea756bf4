"""Write tests/golden/tokenizer/*.json.gz: what llama.cpp makes of many texts, for each vocabulary of the tests.

Needs llama-cpp-python 0.3.36, gguf, numpy and this package; from the repository's top:

    python -m tests.golden.make_tokenizer_golden

texts.json.gz: the texts as Latin-1 strings of their bytes. "chosen" come with their ids, "many" with a CRC of them.
NAME.json.gz: for (add_special, parse_special) in SETTINGS the ids of each chosen text and the CRCs of the others; the
bytes of all tokens as two SHA-256 (`special` false and true); and what llama.cpp finds as BOS, EOS and end tokens.
SentencePiece's vocabularies have one CRC for all of "many" in groups of 20, of the ids and of the text made of them.
rules.json.gz: the same for a small made-up vocabulary under every pre-tokenizer's name, all ids as one CRC.
"""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import json
import sys
import tempfile
from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

from llamaweb.tokenizer.pretokenizers import PRE_TOKENIZERS
from tests.golden.tokenizer_texts import CHOSEN, INVALID, boundary_texts, random_texts
from tests.vocabularies import NAMES, odd_vocabulary, vocabulary
from tests.vocabularies_spm import NAMES as SPM_NAMES
from tests.vocabularies_spm import vocabulary as spm_vocabulary

FOLDER = Path(__file__).parent / "tokenizer"
SETTINGS = ((True, False), (False, True))
GROUP = 20


def ids_crc(ids: list[int]) -> int:
    """One number for a list of ids."""
    return crc32(np.array(ids, "<u4").tobytes())


def pieces_digest(pieces: list[bytes]) -> str:
    """One digest for the bytes of all tokens."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    return digest.hexdigest()


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    """A GGUF file with a vocabulary and no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, np.ndarray):
            writer.add_array(key, value.tolist())
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


class Oracle:
    """llama.cpp's own vocabulary."""

    def __init__(self, path: Path) -> None:
        self._llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        self.vocab = llama_cpp.llama_model_get_vocab(self._llama.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def encode(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        room = len(text) * 3 + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, text, len(text), buffer, room, add_special, parse_special)
        if count < 0:
            raise RuntimeError(f"llama.cpp wants room for {-count} tokens")
        return list(buffer[:count])

    def detokenize(self, ids: list[int], special: bool) -> bytes:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        buffer = ctypes.create_string_buffer(64 * len(ids) + 64)
        count = llama_cpp.llama_detokenize(self.vocab, tokens, len(ids), buffer, len(buffer), False, special)
        if count < 0:
            raise RuntimeError(f"llama.cpp wants room for {-count} bytes")
        return buffer.raw[:count]

    def token(self, role: Callable[[Any], int]) -> int | None:
        id = role(self.vocab)
        return None if id == llama_cpp.LLAMA_TOKEN_NULL else id

    def piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(4096)
        count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:count]


def golden(metadata: dict[str, Any], chosen: list[bytes], many: list[bytes]) -> dict[str, Any]:
    """What llama.cpp says of one vocabulary."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vocabulary.gguf"
        write_gguf(path, metadata)
        oracle = Oracle(path)
        return {
            "chosen": [[oracle.encode(text, *setting) for text in chosen] for setting in SETTINGS],
            "many": [[ids_crc(oracle.encode(text, *setting)) for text in many] for setting in SETTINGS],
            "texts": [
                [crc32(oracle.detokenize(oracle.encode(text, *setting), setting[1])) for text in chosen + many]
                for setting in SETTINGS
            ],
            "pieces": [
                pieces_digest([oracle.piece(token, special) for token in range(oracle.n_vocab)])
                for special in (False, True)
            ],
            "n_vocab": oracle.n_vocab,
            "bos": oracle.token(llama_cpp.llama_vocab_bos),
            "eos": oracle.token(llama_cpp.llama_vocab_eos),
            "eog": [id for id in range(oracle.n_vocab) if llama_cpp.llama_vocab_is_eog(oracle.vocab, id)],
            "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(oracle.vocab)),
            "add_eos": bool(llama_cpp.llama_vocab_get_add_eos(oracle.vocab)),
        }


def write(name: str, value: Any) -> None:
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    (FOLDER / f"{name}.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    chosen = [text.encode() for text in CHOSEN] + INVALID
    many = boundary_texts() + random_texts(5000, seed=1)
    write("texts", {"chosen": [t.decode("latin-1") for t in chosen], "many": [t.decode("latin-1") for t in many]})
    for name in SPM_NAMES:
        found = golden(spm_vocabulary(name), chosen, many)
        for key in ("many", "texts"):
            found[key] = [
                [ids_crc(crcs[start : start + GROUP]) for start in range(0, len(crcs), GROUP)] for crcs in found[key]
            ]
        write(name, found)
        print(name, (FOLDER / f"{name}.json.gz").stat().st_size, "bytes", file=sys.stderr)
    for name in NAMES:
        found = golden(vocabulary(name), chosen, many)
        del found["texts"]
        write(name, found)
        print(name, (FOLDER / f"{name}.json.gz").stat().st_size, "bytes", file=sys.stderr)
    rules = {}
    for pre in PRE_TOKENIZERS:
        rules[pre] = golden(odd_vocabulary(pre), chosen, many[-1000:])
        del rules[pre]["texts"]
        crcs = [[ids_crc(ids) for ids in lists] for lists in rules[pre].pop("chosen")]
        rules[pre]["many"] = [ids_crc(a + b) for a, b in zip(crcs, rules[pre]["many"], strict=True)]
    write("rules", rules)


if __name__ == "__main__":
    main()
