"""The SentencePiece tokenizer against golden files that llama.cpp wrote (tests/golden/make_tokenizer_golden.py)."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import random
import re
from binascii import crc32
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaweb.errors import LlamaWebError, ModelFileError
from llamaweb.tokenizer import Tokenizer, load_tokenizer, merging, spm, words
from llamaweb.tokenizer.merging import Merger
from tests.pace import rounds
from tests.vocabularies_spm import NAMES, REAL, odd_vocabulary, vocabulary

GOLDEN = Path(__file__).parents[1] / "golden/tokenizer"
SETTINGS = ((True, False), (False, True))  # (add_special, parse_special), as in the golden files
GROUP = 20  # texts that share a CRC


@functools.cache
def golden(name: str) -> Any:
    return json.loads(gzip.decompress((GOLDEN / f"{name}.json.gz").read_bytes()))


@functools.cache
def texts(kind: str) -> list[bytes]:
    return [text.encode("latin-1") for text in golden("texts")[kind]]


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(vocabulary(name))


def crc(numbers: list[int]) -> int:
    return crc32(np.array(numbers, "<u4").tobytes())


def grouped(crcs: list[int]) -> list[int]:
    return [crc(crcs[start : start + GROUP]) for start in range(0, len(crcs), GROUP)]


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_chosen_texts_are_llama_cpps(name: str) -> None:
    tok = tokenizer(name)
    for (add, parse), expected in zip(SETTINGS, golden(name)["chosen"], strict=True):
        for text, ids in zip(texts("chosen"), expected, strict=True):
            assert tok.encode(text, add_special=add, parse_special=parse) == ids, (text, add, parse)


@pytest.mark.parametrize("name", NAMES)
def test_ids_of_many_texts_and_the_way_back_are_llama_cpps(name: str) -> None:
    tok = tokenizer(name)
    chosen, many = texts("chosen"), texts("many")
    assert len(many) > 5000
    for (add, parse), ids_crcs, text_crcs in zip(SETTINGS, golden(name)["many"], golden(name)["texts"], strict=True):
        ids = [tok.encode(text, add_special=add, parse_special=parse) for text in chosen + many]
        assert grouped([crc(of_text) for of_text in ids[len(chosen) :]]) == ids_crcs
        assert grouped([crc32(tok.decode(of_text, special=parse)) for of_text in ids]) == text_crcs


@pytest.mark.parametrize("name", NAMES)
def test_token_bytes_and_roles_are_llama_cpps(name: str) -> None:
    tok, expected = tokenizer(name), golden(name)
    for role in ("n_vocab", "bos", "eos", "add_bos", "add_eos"):
        assert getattr(tok, role) == expected[role], role
    assert sorted(tok.eog) == expected["eog"]
    for special, digest in zip((False, True), expected["pieces"], strict=True):
        found = hashlib.sha256()
        for id in range(tok.n_vocab):
            piece = tok.token_bytes(id, special=special)
            found.update(len(piece).to_bytes(4, "little") + piece)
        assert found.hexdigest() == digest


@pytest.mark.parametrize("name", REAL)
def test_text_survives_the_round_trip_byte_by_byte(name: str) -> None:
    tok = tokenizer(name)
    for text in texts("chosen") + texts("many"):
        if text.decode("utf-8", "ignore").encode() == text:  # a cut character takes bytes of the next one with it
            back = tok.decode(tok.encode(text, add_special=False))
            assert back == text.replace("\u2581".encode(), b" "), text


def test_a_space_is_put_before_text_at_the_beginning_and_after_special_tokens() -> None:
    tok = tokenizer("mistral-v1")
    first, after = tok.encode("Hello</s>Hello", parse_special=True)[1::2]
    assert first == after and tok.token_bytes(first) == b" Hello"
    gemma = tokenizer("gemma3")
    assert [gemma.token_bytes(id) for id in gemma.encode("Hello")] == [b"", b"Hello"]


@pytest.mark.parametrize("score", [-1e-3, -1.0, -7.25, -30_000.5, 3.0])
def test_scores_that_are_next_to_each_other_in_float32_decide(score: float) -> None:
    odd = odd_vocabulary(space_prefix=False)
    tokens: list[bytes] = odd["tokenizer.ggml.tokens"]
    ab, ba = tokens.index(b"ab"), tokens.index(b"ba")
    better = np.float32(score)
    worse = np.nextafter(better, np.float32(-np.inf))
    for of_ab, of_ba, expected in ((better, worse, [b"ab", b"a"]), (worse, better, [b"a", b"ba"])):
        scores = odd["tokenizer.ggml.scores"].astype(np.float32)
        scores[[ab, ba]] = of_ab, of_ba
        apart = [b"never" if token == b"aba" else token for token in tokens]
        tok = load_tokenizer({**odd, "tokenizer.ggml.scores": scores, "tokenizer.ggml.tokens": apart})
        assert [tok.token_bytes(id) for id in tok.encode("aba", add_special=False)] == expected


def test_bytes_without_a_token_are_spelled_byte_by_byte() -> None:
    tok = tokenizer("mistral-v1")
    pieces = [tok.token_bytes(id, special=True) for id in tok.encode("𓀀", add_special=False)]
    assert pieces == [b" ", b"\xf0", b"\x93", b"\x80", b"\x80"]


@pytest.mark.parametrize("name", REAL)
def test_a_stream_shows_whole_characters_only_and_all_of_them(name: str) -> None:
    tok = tokenizer(name)
    text = "Grüße 👩‍👩‍👧‍👦 你好 𓀀 नमस्ते 🇩🇪 안녕 ﷺ 🤷🏿‍♀️ 𒀀"
    ids = tok.encode(text, add_special=False)
    assert any(tok.token_bytes(id) == b"\xf0" for id in ids)
    stream = tok.stream_decoder()
    shown = "".join(stream.push(id) for id in ids) + stream.finish()
    assert shown.removeprefix(" ") == text and "\ufffd" not in shown


def test_control_tokens_in_text_are_plain_text_unless_asked_for() -> None:
    tok = tokenizer("gemma3")
    [end] = tok.encode("<end_of_turn>", add_special=False, parse_special=True)
    assert end in tok.eog and end not in tok.encode("<end_of_turn>")
    assert tok.token_bytes(end) == b"" and tok.decode([end], special=True) == b"<end_of_turn>"


def naive_merge(symbols: list[bytes], ids: dict[bytes, int], costs: list[float]) -> list[bytes]:
    """Merging as its definition reads: the lowest cost, leftmost first, until no two neighbours are a token."""
    while True:
        pairs = [(costs[ids[a + b]], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]
        if not pairs:
            return symbols
        at = min(pairs)[1]
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]


@pytest.mark.parametrize("short", [0, merging.SHORT])
def test_merging_gives_what_the_definition_gives(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SHORT", short)
    rng = random.Random(7)
    for _ in range(300):
        tokens = list({bytes(rng.choices(b"abc", k=rng.randint(2, 5))) for _ in range(rng.randint(1, 30))})
        ids = dict(zip(tokens, range(len(tokens)), strict=True))
        costs = [float(rng.randint(0, rng.choice((0, 2, 6)))) for _ in tokens]
        of_pair = {(a, b): costs[i] for t, i in ids.items() for a, b in ((t[:n], t[n:]) for n in range(1, len(t)))}
        merge = Merger(lambda left, right: of_pair.get((left, right)))  # noqa: B023
        for _ in range(3):  # what it remembers of one word holds for the next
            word = [bytes((byte,)) for byte in rng.choices(b"abc", k=rng.randint(1, 40))]
            assert merge(word) == naive_merge(word, ids, costs)


@pytest.mark.parametrize("name", REAL)
def test_tokenizing_takes_a_few_steps_of_python_for_a_token_of_the_vocabulary_and_a_letter(name: str) -> None:
    metadata = vocabulary(name)
    tok = load_tokenizer(metadata)
    assert rounds(lambda: load_tokenizer(metadata)) < 1_000_000 + 500 * tok.n_vocab
    rng = random.Random(1)
    letters = "etaoinshrdlu"
    words = " ".join("".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(4_000))
    assert rounds(lambda: tok.encode(words)) < 3_000 * len(words)
    word = "".join(rng.choices(letters, k=30_000))
    assert rounds(lambda: tok.encode(word)) < 3_000 * len(word)


def test_the_cache_of_words_stays_bounded() -> None:
    tok = load_tokenizer(vocabulary("mistral-v1"))
    assert isinstance(tok, spm.SPMTokenizer)
    tok.encode(" ".join(f"w{chr(0x4E00 + n)}" for n in range(words.CACHED_WORDS + 100)))
    assert 0 < len(tok._words.remembered) <= words.CACHED_WORDS


@pytest.mark.parametrize(
    ("finding", "changes"),
    [
        ("scores has 2 entries", {"scores": np.zeros(2, np.float32)}),
        ("scores is not a list of numbers", {"scores": [b"1"]}),
        ("add_space_prefix is 1, not true or false", {"add_space_prefix": 1}),
    ],
)
def test_damaged_metadata_is_named_in_one_sentence(finding: str, changes: dict[str, Any]) -> None:
    changes = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(ModelFileError, match=re.escape(finding)) as caught:
        load_tokenizer(odd_vocabulary(True) | changes)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_byte_that_the_vocabulary_cannot_spell_is_named() -> None:
    metadata = odd_vocabulary(False)
    metadata["tokenizer.ggml.tokens"] = [b"x" * 9 if t == b"<0x7E>" else t for t in metadata["tokenizer.ggml.tokens"]]
    with pytest.raises(LlamaWebError, match="byte 0x7E"):
        load_tokenizer(metadata).encode("a~")
