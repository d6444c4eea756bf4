"""Texts and vocabularies made to take long: the time grows with the text alone, and nothing is found otherwise."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pytest
from gguf import TokenType

from llamaweb.errors import ModelFileError
from llamaweb.tokenizer import load_tokenizer, merging, plamo2, prefixes, special, ugm
from llamaweb.tokenizer.byte_level import SYMBOLS
from llamaweb.tokenizer.merging import Merger
from llamaweb.tokenizer.special import MOST, SpecialTokens
from tests.pace import seconds


def split_naively(tokens: list[bytes], data: bytes) -> list[bytes | int]:
    """As llama.cpp does it: token by token, the longest first, in what the ones before it have left."""
    parts: list[bytes | int] = [data]
    for text, token in sorted(((text, token) for token, text in enumerate(tokens)), key=lambda item: -len(item[0])):
        cut: list[bytes | int] = []
        for part in parts:
            pieces = [part] if isinstance(part, int) else part.split(text)
            cut += [piece for index, found in enumerate(pieces) for piece in ([token, found] if index else [found])]
        parts = cut
    return [part for part in parts if part != b""]


@pytest.mark.parametrize("part", (3, special.PART))
def test_special_tokens_are_found_longest_first_wherever_they_overlap(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(special, "PART", part)
    rng = random.Random(part)
    for _ in range(300):
        letters = rng.sample([b"a", b"b", b"\0", b"\xff", b"<"], rng.randint(1, 4))

        def text(most: int, letters: list[bytes] = letters) -> bytes:
            return b"".join(rng.choices(letters, k=rng.randint(1, most)))

        tokens = list(dict.fromkeys(text(rng.choice((2, 5, 17))) for _ in range(rng.randint(1, 40))))
        data = text(rng.choice((4, 30, 300)))
        assert SpecialTokens(zip(tokens, range(len(tokens)), strict=True)).split(data) == split_naively(tokens, data)


def special_tokens(tokens: list[bytes]) -> SpecialTokens:
    made = SpecialTokens(zip(tokens, range(len(tokens)), strict=True))
    made.split(b"".join(tokens[:1]))  # which makes its tables
    return made


COMMON = b"<|common_beginning_%d|>"


@pytest.mark.parametrize("text", (COMMON % 77 + b" text ", b"<|common_beginning_", COMMON % 10**9))
def test_thirty_times_the_special_tokens_do_not_take_longer(text: bytes) -> None:
    few, many = (special_tokens([COMMON % number for number in range(count)]) for count in (1000, 30_000))
    data = text * (200_000 // len(text))
    assert seconds(lambda: many.split(data)) < 5 * seconds(lambda: few.split(data))


@pytest.mark.parametrize(
    "tokens",
    [
        [b"a" * 1000 + b"%d" % number for number in range(100)],  # each place is the beginning of one
        [b"a" * length for length in range(1, 1000)],  # each place has a thousand
        [*(b"a" * length for length in range(1, 1000)), b"a" * 999 + b"b"],  # which are cut off over and over
        [b"a" * length + b"b" for length in range(1, 1000)],
        [b"a", b"aa", b"b"],
    ],
    ids=("beginnings", "all lengths", "cut off", "all lengths and an end", "each byte"),
)
def test_eight_times_the_text_takes_no_more_than_about_eight_times_as_long(tokens: list[bytes]) -> None:
    found = special_tokens(tokens)
    line = b"a" * 1997 + b"b"
    assert seconds(lambda: found.split(line * 40)) < 20 * seconds(lambda: found.split(line * 5))


def test_tokens_of_all_lengths_at_each_place_take_little_more_than_one_token() -> None:
    """A walk from each to the next shorter one would take hundreds of times as long."""
    line = (b"a" * 1997 + b"b") * 40
    one, all_lengths = (
        special_tokens([*(b"a" * length for length in lengths), b"a" * 999 + b"b"])
        for lengths in ((999,), range(1, 1000))
    )
    assert seconds(lambda: all_lengths.split(line)) < 12 * seconds(lambda: one.split(line))


def bpe(merges: list[bytes]) -> dict[str, Any]:
    tokens = [*SYMBOLS, *(merge.replace(b" ", b"") for merge in merges)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.full(len(tokens), int(TokenType.NORMAL), np.int32),
        "tokenizer.ggml.merges": merges,
    }


DOUBLING = [b"a" * (1 << n) + b" " + b"a" * (1 << n) for n in range(6)]
TURN_BY_TURN = [b"ab c", b"a b", b"abc abc"]  # the second is broken off by the first each time
GROWING = [b"a" * n + b" a" for n in range(40, 0, -1)]  # from one place on, each merge the cheapest


@pytest.mark.parametrize("merges", (DOUBLING, TURN_BY_TURN, GROWING), ids=("doubling", "turn by turn", "growing"))
@pytest.mark.parametrize("text", ("a", "abc"))
def test_a_word_eight_times_as_long_takes_no_more_than_about_eight_times_as_long(
    merges: list[bytes], text: str
) -> None:
    tokenizer = load_tokenizer(bpe(merges))
    assert seconds(lambda: tokenizer.encode(text * 40_000)) < 20 * seconds(lambda: tokenizer.encode(text * 5_000))


def test_a_pair_is_looked_up_once_however_long_the_word_is() -> None:
    asked: list[tuple[bytes, bytes]] = []

    def cost(left: bytes, right: bytes) -> float | None:
        asked.append((left, right))
        return float(len(left)) if left == right and len(left) < 32 else None

    merge = Merger(cost)
    assert merge([b"a"] * 100_001) == [b"a" * 32] * 3125 + [b"a"]
    assert merge([b"a"] * 64) == [b"a" * 32] * 2
    assert len(asked) == len(set(asked)) < 20


def test_what_is_remembered_of_pairs_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "REMEMBERED", 100)
    merge = Merger(lambda left, right: None)
    for number in range(200):
        word = [b"%d" % (7 * number + digit) for digit in range(5)]
        assert merge(list(word)) == word
        assert merge.remembered <= 100 + 20


def test_scores_that_are_no_numbers_end() -> None:
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), b"a", b"aa", b"aaaa"]
    tokenizer = load_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": np.array([0.0] * (len(tokens) - 2) + [np.nan, np.nan], np.float32),
            "tokenizer.ggml.add_space_prefix": False,
        }
    )
    assert tokenizer.decode(tokenizer.encode("a" * 9, add_special=False)) == b"a" * 9


def test_special_tokens_that_would_take_gigabytes_to_search_for_are_refused() -> None:
    piece = b"<" * (MOST // 64)
    assert len(SpecialTokens((piece + bytes((i,)), i) for i in range(63))._texts) == 63
    with pytest.raises(ModelFileError, match=r"special tokens take 16\.8 MB, more than the 16\.7 MB"):
        SpecialTokens((piece + bytes((i,)), i) for i in range(64))


def unigrams(tokens: list[bytes], kind: str = "t5") -> dict[str, Any]:
    every = [b"<pad>", b"</s>", b"<unk>", *(b"<0x%02X>" % byte for byte in range(256)), *tokens]
    types = [int(TokenType.CONTROL)] * 3 + [int(TokenType.BYTE)] * 256 + [int(TokenType.NORMAL)] * len(tokens)
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": every,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.scores": -np.arange(len(every), dtype=np.float32),
    }


def test_what_has_no_number_for_a_score_is_merged_last() -> None:
    metadata = unigrams([b"a", b"b", b"c", b"ab", b"bc"], "llama")
    metadata["tokenizer.ggml.scores"][259 + 3] = np.nan
    metadata["tokenizer.ggml.add_space_prefix"] = False
    assert load_tokenizer(metadata).encode("abc", add_special=False) == [259, 259 + 4]


NESTED = [b"a" * length for length in range(1, 33)]
KINDS = {"t5": ugm, "plamo2": plamo2, "bert": prefixes, "rwkv": prefixes}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_eight_times_as_long_takes_no_more_than_about_eight_times_as_long(kind: str) -> None:
    tokenizer = load_tokenizer(unigrams([*NESTED, "▁".encode(), b"b", b" "], kind))
    for text in ("a", "ab", "a b "):
        long, short = (partial(tokenizer.encode, text * times) for times in (8_000, 1_000))
        assert seconds(long) < 20 * seconds(short)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_would_take_gigabytes_or_hours_to_search_for_are_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = KINDS[kind].NESTED
    nested = [b"a" * length for length in range(1, most + 3)]
    assert load_tokenizer(unigrams(nested[:-1], kind)).n_vocab == 259 + most + 1
    with pytest.raises(ModelFileError, match=f"more than {most} of its tokens begin with one another"):
        load_tokenizer(unigrams(nested, kind))
    monkeypatch.setattr(prefixes, "MOST", 500)
    with pytest.raises(ModelFileError, match=r"its tokens take 0\.1 MB, more than the 0\.0 MB"):
        load_tokenizer(unigrams(NESTED, kind))
