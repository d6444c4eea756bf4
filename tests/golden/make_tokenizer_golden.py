"""Write tests/golden/tokenizer/*.json.gz: what llama.cpp makes of many texts, for each vocabulary of the tests.

Needs gguf, numpy and this package (`llamacpp.py` brings llama.cpp); from the repository's top:

    python -m tests.golden.make_tokenizer_golden [NAME ...]

texts.json.gz: the texts as Latin-1 strings of their bytes. "chosen" come with their ids, "many" with a CRC of those of
CHUNK texts.
NAME.json.gz: for (add_special, parse_special) in SETTINGS the ids of each chosen text and the CRCs of the others; the
bytes of all tokens as two SHA-256 (`special` false and true); and what llama.cpp finds as BOS, EOS and end tokens.
SentencePiece's vocabularies have CRCs of groups of 20, of the ids and of the text made of them.
rules.json.gz: for every pre-tokenizer's name the same of a small made-up vocabulary and the chosen texts, all ids as
one CRC, and the ids of all texts by another one, whose merges go across the edges of words.
spaces.json.gz: CRCs of the ids of texts with white space beside special tokens, for vocabularies that take it away.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llamaweb.tokenizer.pretokenizers import PRE_TOKENIZERS
from tests.golden.oracle import Oracle
from tests.golden.tokenizer_texts import CHOSEN, INVALID, boundary_texts, plainly_spaced, random_texts, spaced_texts
from tests.vocabularies import (
    NAMES,
    WITHOUT_LONG_SPACES,
    crossing_vocabulary,
    odd_vocabulary,
    stripping_vocabularies,
    vocabulary,
)
from tests.vocabularies_more import NAMES as MORE_NAMES
from tests.vocabularies_more import vocabulary as more_vocabulary
from tests.vocabularies_spm import NAMES as SPM_NAMES
from tests.vocabularies_spm import vocabulary as spm_vocabulary

FOLDER = Path(__file__).parent / "tokenizer"
SETTINGS = ((True, False), (False, True))
GROUP = 20
CHUNK = 250
LATER = {"glm5"}  # names that came after llama.cpp of September 2026


def ids_crc(ids: list[int]) -> int:
    """One number for a list of ids."""
    return crc32(np.array(ids, "<u4").tobytes())


def pieces_digest(pieces: list[bytes]) -> str:
    """One digest for the bytes of all tokens."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    return digest.hexdigest()


def golden(metadata: dict[str, Any], chosen: list[bytes], many: list[bytes]) -> dict[str, Any]:
    """What llama.cpp says of one vocabulary."""
    oracle = Oracle(metadata)
    found = {
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
        **oracle.roles(),
    }
    oracle.close()
    return found


def grouped(crcs: list[int], size: int) -> list[int]:
    """One number for so many texts each."""
    return [ids_crc(crcs[start : start + size]) for start in range(0, len(crcs), size)]


def write(name: str, value: Any) -> None:
    data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    (FOLDER / f"{name}.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))
    print(name, (FOLDER / f"{name}.json.gz").stat().st_size, "bytes", file=sys.stderr)


def rules(chosen: list[bytes], many: list[bytes]) -> dict[str, Any]:
    """By pre-tokenizer's name, what llama.cpp makes of the odd vocabulary and, as "crossing", of the crossing one."""
    found: dict[str, Any] = {}
    for pre in sorted(PRE_TOKENIZERS.keys() - LATER):
        found[pre] = golden(odd_vocabulary(pre), plainly_spaced(chosen), [])
        del found[pre]["texts"], found[pre]["many"]
        found[pre]["chosen"] = [ids_crc([ids_crc(ids) for ids in lists]) for lists in found[pre]["chosen"]]
        oracle = Oracle(crossing_vocabulary(pre, chosen + many))
        lines = chosen + many if PRE_TOKENIZERS[pre].byte_level else plainly_spaced(chosen + many)
        found[pre]["crossing"] = grouped([ids_crc(oracle.encode(text, False, False)) for text in lines], CHUNK)
        oracle.close()
    return found


def spaces(metadata: dict[str, Any]) -> list[int]:
    oracle = Oracle(metadata)
    found = [
        ids_crc([ids_crc(oracle.encode(text, True, parse)) for text in spaced_texts(metadata)])
        for parse in (False, True)
    ]
    oracle.close()
    return found


def spelled(found: dict[str, Any]) -> dict[str, Any]:
    """Of SentencePiece's vocabularies the texts made of ids, too."""
    return {**found, **{key: [grouped(crcs, GROUP) for crcs in found[key]] for key in ("many", "texts")}}


def bytewise(found: dict[str, Any]) -> dict[str, Any]:
    del found["texts"]
    return {**found, "many": [grouped(crcs, CHUNK) for crcs in found["many"]]}


def main(wanted: list[str]) -> None:
    """Write all files, or those that are wanted."""
    FOLDER.mkdir(exist_ok=True)
    chosen = [text.encode() for text in CHOSEN] + INVALID
    many = boundary_texts() + random_texts(5000, seed=1)
    plain = plainly_spaced(chosen), plainly_spaced(many)
    makers: dict[str, Callable[[], Any]] = {
        "texts": lambda: {"chosen": [t.decode("latin-1") for t in chosen], "many": [t.decode("latin-1") for t in many]},
        **{name: lambda name=name: spelled(golden(spm_vocabulary(name), chosen, many)) for name in SPM_NAMES},
        **{
            name: lambda name=name: bytewise(
                golden(vocabulary(name), *(plain if name in WITHOUT_LONG_SPACES else (chosen, many)))
            )
            for name in NAMES
        },
        **{name: lambda name=name: bytewise(golden(more_vocabulary(name), chosen, many)) for name in MORE_NAMES},
        "rules": lambda: rules(chosen, many),
        "spaces": lambda: {name: spaces(metadata) for name, metadata in stripping_vocabularies().items()},
    }
    for name in wanted or makers:
        write(name, makers[name]())


if __name__ == "__main__":
    main(sys.argv[1:])
