"""Every tokenizer against llama.cpp's ids of some 5,500 lines (make_tokenizer_golden.py); tests/unit has the rest."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from binascii import crc32
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaweb.tokenizer import Tokenizer, load_tokenizer
from llamaweb.tokenizer.byte_level import SYMBOLS, decode_utf8
from llamaweb.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from tests.golden.tokenizer_texts import plainly_spaced, spaced_texts
from tests.vocabularies import NAMES, WITHOUT_LONG_SPACES, crossing_vocabulary, stripping_vocabularies, vocabulary
from tests.vocabularies_more import NAMES as MORE_NAMES
from tests.vocabularies_more import vocabulary as more_vocabulary

GOLDEN = Path(__file__).parent / "tokenizer"
SETTINGS = ((True, False), (False, True))  # (add_special, parse_special), as in the golden files
CHUNK = 250  # lines that share a CRC
LOST_BYTES = {"smollm2": 21}  # control characters, and lead bytes of planes 4 to 11 or of no character at all
LATER = {"glm5"}  # names that came after llama.cpp of September 2026


@functools.cache
def golden(name: str) -> Any:
    return json.loads(gzip.decompress((GOLDEN / f"{name}.json.gz").read_bytes()))


@functools.cache
def texts(kind: str) -> list[bytes]:
    return [text.encode("latin-1") for text in golden("texts")[kind]]


@functools.lru_cache(2)
def tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(vocabulary(name))


def crc(numbers: list[int]) -> int:
    return crc32(np.array(numbers, "<u4").tobytes())


def chunks(lists: list[list[int]]) -> list[int]:
    """The CRCs of the ids of so many lines each."""
    crcs = [crc(ids) for ids in lists]
    return [crc(crcs[start : start + CHUNK]) for start in range(0, len(crcs), CHUNK)]


def wrong(found: list[int], expected: list[int]) -> list[int]:
    return [at for at, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]


def pieces_digest(tok: Tokenizer, special: bool) -> str:
    digest = hashlib.sha256()
    for id in range(tok.n_vocab):
        piece = tok.token_bytes(id, special=special)
        digest.update(len(piece).to_bytes(4, "little") + piece)
    return digest.hexdigest()


def roles(tok: Tokenizer) -> dict[str, Any]:
    names = ("n_vocab", "bos", "eos", "add_bos", "add_eos")
    return {**{name: getattr(tok, name) for name in names}, "eog": sorted(tok.eog)}


@pytest.mark.parametrize("name", NAMES)
def test_ids_pieces_and_ends_of_real_vocabularies_are_llama_cpps(name: str) -> None:
    tok, expected = tokenizer(name), golden(name)
    chosen, many = (
        plainly_spaced(texts(kind)) if name in WITHOUT_LONG_SPACES else texts(kind) for kind in ("chosen", "many")
    )
    assert len(many) > 5000
    for (add, parse), ids, crcs in zip(SETTINGS, expected["chosen"], expected["many"], strict=True):
        for text, right in zip(chosen, ids, strict=True):
            assert tok.encode(text, add_special=add, parse_special=parse) == right, (text, add, parse)
        found = chunks([tok.encode(text, add_special=add, parse_special=parse) for text in many])
        assert wrong(found, crcs) == [], f"chunks of {CHUNK} lines with other ids than llama.cpp's"
    assert roles(tok) == {key: expected[key] for key in roles(tok)}
    assert [pieces_digest(tok, special) for special in (False, True)] == expected["pieces"]


@pytest.mark.parametrize("name", MORE_NAMES)
def test_ids_pieces_and_ends_of_other_kinds_are_llama_cpps(name: str) -> None:
    tok, expected = load_tokenizer(more_vocabulary(name)), golden(name)
    for (add, parse), ids, crcs in zip(SETTINGS, expected["chosen"], expected["many"], strict=True):
        for text, right in zip(texts("chosen"), ids, strict=True):
            assert tok.encode(text, add_special=add, parse_special=parse) == right, (text, add, parse)
        if add:
            found = chunks([tok.encode(text) for text in texts("many")])
            assert wrong(found, crcs) == [], f"chunks of {CHUNK} lines with other ids than llama.cpp's"
    assert roles(tok) == {key: expected[key] for key in roles(tok)}
    assert [pieces_digest(tok, special) for special in (False, True)] == expected["pieces"]


@pytest.mark.parametrize("name", ("smollm2", "llama3", "gemma4"))
def test_text_survives_the_round_trip_byte_by_byte(name: str) -> None:
    tok, tokens = tokenizer(name), set(vocabulary(name)["tokenizer.ggml.tokens"])
    # A few bytes have no token in SmolLM2's vocabulary; llama.cpp drops them, and so must we.
    lost = (
        bytes(byte for byte, symbol in enumerate(SYMBOLS) if symbol not in tokens)
        if name not in WITHOUT_LONG_SPACES
        else b""
    )
    assert len(lost) == LOST_BYTES.get(name, 0)
    for text in plainly_spaced(texts("chosen") + texts("many")):
        readable = decode_utf8(text).encode("utf-8", "surrogatepass").translate(None, lost)
        if name == "gemma4":
            readable = readable.replace("▁".encode(), b" ")
        for parse in (False, True):
            assert tok.decode(tok.encode(text, add_special=False, parse_special=parse), special=True) == readable


def by_rule() -> dict[PreTokenizer, list[str]]:
    """The names of each rule of the table."""
    rules: dict[PreTokenizer, list[str]] = {}
    for name, rule in PRE_TOKENIZERS.items():
        if name not in LATER:
            rules.setdefault(rule, []).append(name)
    return rules


@pytest.mark.parametrize("names", by_rule().values(), ids=lambda names: names[0])
def test_every_pre_tokenizer_name_cuts_every_line_as_llama_cpp_does(names: list[str]) -> None:
    lines = texts("chosen") + texts("many")
    metadata = crossing_vocabulary(names[0], lines)
    tok = load_tokenizer(metadata)
    if not PRE_TOKENIZERS[names[0]].byte_level:
        lines = plainly_spaced(lines)
    found = chunks([tok.encode(line, add_special=False) for line in lines])
    for name in names:
        told = f"{name}: chunks of {CHUNK} lines with other ids than llama.cpp's"
        assert wrong(found, golden("rules")[name]["crossing"]) == [], told


def test_no_two_rules_give_the_same_ids_of_all_lines() -> None:
    """Else the lines would not tell them apart."""
    cuts = {rule: names[0] for rule, names in by_rule().items()}
    digests = {}
    for rule, name in cuts.items():
        told = tuple(golden("rules")[name]["crossing"])
        digests.setdefault(told, set()).add((rule.cuts, rule.ignore_merges))
    assert all(len(same) == 1 for same in digests.values())


@pytest.mark.parametrize("name", stripping_vocabularies())
def test_white_space_beside_special_tokens_is_llama_cpps(name: str) -> None:
    metadata = stripping_vocabularies()[name]
    tok, lines = load_tokenizer(metadata), spaced_texts(metadata)
    found = [crc([crc(tok.encode(line, parse_special=parse)) for line in lines]) for parse in (False, True)]
    assert found == golden("spaces")[name]
