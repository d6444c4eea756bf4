"""The tokenizer against golden files that llama.cpp wrote (tests/golden/make_tokenizer_golden.py)."""

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

from llamaweb.errors import LlamaWebError, ModelFileError, ModelWarning, UnsupportedError
from llamaweb.tokenizer import Tokenizer, bpe, load_tokenizer, merging, pretokenizers, unicode_classes, words
from llamaweb.tokenizer.byte_level import decode_utf8
from llamaweb.tokenizer.merging import Merger
from llamaweb.tokenizer.patterns import compile_pattern
from tests.crafted import crafted, header
from tests.golden.tokenizer_texts import plainly_spaced
from tests.pace import rounds
from tests.vocabularies import odd_vocabulary, vocabulary

GOLDEN = Path(__file__).parents[1] / "golden/tokenizer"
SETTINGS = ((True, False), (False, True))  # (add_special, parse_special), as in the golden files
NAMES = ("smollm2", "gpt2")  # of real vocabularies; tests/golden/test_tokenizers.py has all
LATER = {"glm5"}  # names that came after llama.cpp of September 2026


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
def test_ids_of_chosen_texts_are_llama_cpps(name: str) -> None:
    tok = tokenizer(name)
    for (add, parse), expected in zip(SETTINGS, golden(name)["chosen"], strict=True):
        for text, ids in zip(texts("chosen"), expected, strict=True):
            assert tok.encode(text, add_special=add, parse_special=parse) == ids, (text, add, parse)


@pytest.mark.parametrize("pre", sorted(pretokenizers.PRE_TOKENIZERS.keys() - LATER))
def test_every_pre_tokenizer_name_follows_llama_cpps_rules(pre: str) -> None:
    """Of all texts: tests/golden/test_tokenizers.py."""
    tok, expected = load_tokenizer(odd_vocabulary(pre)), golden("rules")[pre]
    assert roles(tok) == {key: expected[key] for key in roles(tok)}
    if pre != "whitespace":  # llama.cpp reads what is not written in GPT-2's alphabet as if it were
        assert [pieces_digest(tok, special) for special in (False, True)] == expected["pieces"]
    sample = plainly_spaced(texts("chosen"))
    crcs = [crc([crc(tok.encode(t, add_special=a, parse_special=p)) for t in sample]) for a, p in SETTINGS]
    assert crcs == expected["chosen"]


def test_a_string_and_its_utf8_give_the_same_ids() -> None:
    tok = tokenizer("smollm2")
    for text in ("", "naïve 👩‍👩‍👧", "lone \ud800 surrogate"):
        assert tok.encode(text) == tok.encode(text.encode("utf-8", "surrogatepass"))


def test_control_tokens_in_text_are_plain_text_unless_asked_for() -> None:
    tok = tokenizer("smollm2")
    end = next(id for id in tok.eog if tok.token_bytes(id, special=True) == b"<|im_end|>")
    assert tok.encode("a<|im_end|>", parse_special=True)[-1] == end
    assert end not in tok.encode("a<|im_end|>")
    assert tok.token_bytes(end) == b"" and tok.decode([end], special=True) == b"<|im_end|>"


def test_code_points_beyond_unicode_become_replacement_characters() -> None:
    assert decode_utf8(b"a\xf4\x90\x80\x80b") == "a\ufffd\ufffd\ufffd\ufffdb"


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_shows_whole_characters_only_and_all_of_them(name: str) -> None:
    tok = tokenizer(name)
    text = "Grüße 👩‍👩‍👧‍👦 你好 𓀀 नमस्ते 🇩🇪 안녕 ﷺ 🤷🏿‍♀️"
    ids = tok.encode(text, add_special=False)
    assert any(len(tok.token_bytes(id).decode("utf-8", "ignore").encode()) < len(tok.token_bytes(id)) for id in ids)
    stream = tok.stream_decoder()
    pieces = [stream.push(id) for id in ids]
    assert "\ufffd" not in "".join(pieces) and stream.finish() == "" and "".join(pieces) == text


def test_a_stream_cut_inside_a_character_ends_with_one_replacement_character() -> None:
    tok = tokenizer("gpt2")
    ids = tok.encode("ok 𓀀", add_special=False)
    stream = tok.stream_decoder()
    shown = "".join(stream.push(id) for id in ids[:-1])
    assert shown == "ok " and stream.finish() == "\ufffd"
    assert stream.push(ids[0]) == "ok"


def test_a_stream_hides_control_tokens_unless_asked_for() -> None:
    tok = tokenizer("smollm2")
    ids = tok.encode("<|im_start|>user", parse_special=True, add_special=False)
    plain, special = tok.stream_decoder(), tok.stream_decoder(special=True)
    assert "".join(map(plain.push, ids)) == "user"
    assert "".join(map(special.push, ids)) == "<|im_start|>user"


def test_character_classes_are_those_of_the_table_for_every_code_point() -> None:
    for pattern, table in (
        (r"\p{L}", unicode_classes.LETTERS),
        (r"[^\p{M}]", unicode_classes.MARKS),
        (r"\s", unicode_classes.WHITE_SPACE),
    ):
        members, end = set(), 0
        for item in table.split():
            gap, length = (int(number, 16) for number in item.split("+"))
            members |= set(range(end + gap, end + gap + length))
            end += gap + length
        compiled = compile_pattern(pattern)
        if pattern.startswith("[^"):
            members = set(range(0x110000)) - members
        assert {code for code in range(0x110000) if compiled.fullmatch(chr(code))} == members


def test_words_joined_are_the_text_again() -> None:
    for rule in {rule.cuts: rule for rule in pretokenizers.PRE_TOKENIZERS.values()}.values():
        split = pretokenizers.splitter(rule)
        for text in texts("chosen"):
            assert "".join(split(decode_utf8(text))) == decode_utf8(text)


def test_contractions_are_ascii_letters_in_either_case() -> None:
    split = pretokenizers.splitter(pretokenizers.QWEN2)
    assert split("it's IT'S 'ſt x'Ll") == ["it", "'s", " IT", "'S", " '", "ſt", " x", "'Ll"]
    assert split("'ſt") == ["'ſt"]


def naive_merge(symbols: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """Byte-pair encoding as its definition reads: the lowest rank, leftmost first, until there is none."""
    while True:
        pairs = [(ranks.get(a + b" " + b, len(ranks)), i) for i, (a, b) in enumerate(pairwise(symbols))]
        if not pairs or min(pairs)[0] == len(ranks):
            return symbols
        at = min(pairs)[1]
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]


@pytest.mark.parametrize("short", [0, merging.SHORT])
def test_merging_gives_what_the_definition_gives(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SHORT", short)
    rng = random.Random(7)
    for _ in range(300):
        alphabet = [b"a", b"b", b"c"]
        merges: list[bytes] = []
        for _ in range(rng.randint(1, 25)):
            left, right = rng.choice(alphabet), rng.choice(alphabet)
            if left + b" " + right not in merges:
                merges.append(left + b" " + right)
                alphabet.append(left + right)
        rng.shuffle(merges)
        ranks = dict(zip(merges, range(len(merges)), strict=True))
        word = rng.choices([b"a", b"b", b"c"], k=rng.randint(1, 40))
        merge = Merger(lambda left, right: ranks.get(left + b" " + right))  # noqa: B023
        assert merge(word) == naive_merge(word, ranks)


@pytest.mark.parametrize("name", NAMES)
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
    tok = load_tokenizer(vocabulary("smollm2"))
    assert isinstance(tok, bpe.BPETokenizer)
    tok.encode(" ".join(f"w{chr(0x4E00 + n)}" for n in range(words.CACHED_WORDS + 100)))
    assert 0 < len(tok._words.remembered) <= words.CACHED_WORDS


DAMAGED: dict[str, dict[str, Any]] = {
    "tokenizer.ggml.tokens is missing": {"tokens": None},
    "tokenizer.ggml.tokens is empty": {"tokens": []},
    "tokenizer.ggml.tokens is not a list of strings": {"tokens": np.arange(3)},
    "has the token 'a' twice": {"tokens": [b"a", b"b", b"a"], "token_type": None},
    "tokenizer.ggml.merges is missing": {"merges": None},
    "tokenizer.ggml.merges is not a list of strings": {"merges": "h e"},
    "token_type is not a list of whole numbers": {"token_type": np.ones(1000, np.float32)},
    "token_type has 2 entries for ": {"token_type": np.ones(2, np.int32)},
    "scores has 2 entries for ": {"scores": np.ones(2, np.float32)},
    "eot_token_id is 'x'": {"eot_token_id": "x"},
    "add_bos_token is 1, not true or false": {"add_bos_token": 1},
    "there is no tokenizer.ggml.bos_token_id": {"pre": "glm4", "add_bos_token": True},
}


@pytest.mark.parametrize("finding", DAMAGED)
def test_damaged_metadata_is_named_in_one_sentence(finding: str) -> None:
    metadata = odd_vocabulary("smollm")
    for key, value in DAMAGED[finding].items():
        metadata[f"tokenizer.ggml.{key}"] = value
    metadata = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(ModelFileError, match=re.escape(finding)) as caught:
        load_tokenizer(metadata)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("role", "id", "instead"),
    [
        ("bos", 4_000_000, 11),
        ("eos", 2**32 - 1, 11),
        ("eos", -1, 11),
        ("eot", 4_000_000, None),
        ("fim_pad", 999_999, None),
    ],
)
def test_an_id_out_of_range_is_warned_of_and_the_default_taken(role: str, id: int, instead: int | None) -> None:
    """As llama.cpp does ("bad special token …, using default id 11")."""
    metadata = {**odd_vocabulary("smollm"), f"tokenizer.ggml.{role}_token_id": id}
    told = "left out" if instead is None else f"{instead} is taken"
    with pytest.warns(ModelWarning, match=rf"{role}_token_id is {id}, but the ids go from 0 to \d+; .*{told}"):
        tok = load_tokenizer(metadata)
    if instead is not None:
        assert getattr(tok, role) == instead


@pytest.mark.parametrize(
    ("more", "right"),
    [
        (("<|tool_response>",), [0, 2, 304]),
        (("<|return|>", "<|call|>"), [0, 2, 304, 305]),
        (("<|return|>", "<|call|>", "<|end|>"), [0, 2, 304, 305]),
        (("<|flush|>", "<|calls|>", "<|end|>"), [0, 2, 304, 305]),
        (("</s>", "<|tool_response>"), [0, 2, 305]),
        (("</s>",), [0, 2, 304]),
        (("<|plamo:eos|>",), [0, 2]),
    ],
)
def test_a_rule_about_tokens_that_are_not_there_changes_nothing(more: tuple[str, ...], right: list[int]) -> None:
    """Ends of an answer, and ids of a text with special tokens, as llama.cpp has them."""
    metadata = header(crafted(more_tokens=more)).metadata
    tok = load_tokenizer(metadata)
    assert sorted(tok.eog) == right
    text = "<|im_start|>user the<|im_end|>"
    assert tok.encode(text, parse_special=True) == [0, 1, 120, 118, 274, 35, 260, 2]


def test_a_file_that_names_no_pre_tokenizer_gets_the_default_one_with_a_warning() -> None:
    metadata = {key: value for key, value in odd_vocabulary("smollm").items() if key != "tokenizer.ggml.pre"}
    with pytest.warns(ModelWarning, match="does not name its pre-tokenizer"):
        old = load_tokenizer(metadata)
    text = "don't $5.00 12345 <=>  x!!\n\n"
    assert old.encode(text) == load_tokenizer({**metadata, "tokenizer.ggml.pre": "default"}).encode(text)


def test_the_default_pre_tokenizer_cuts_as_llama_cpps() -> None:
    """Compared with llama.cpp on 301 texts over SmolLM2's vocabulary; these are some of the pieces."""
    split = pretokenizers.splitter(pretokenizers.DEFAULT)
    assert split("I'll pay $5.00, 12345 <=>x") == [
        *("I", "'", "ll", " pay", " ", "$", "5", ".", "00", ",", " ", "123", "45", " ", "<=>", "x"),
    ]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("model", "t6", "'t6'"),
        ("model", None, "no tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_supported_is_named(key: str, value: str | None, named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        load_tokenizer({**odd_vocabulary("smollm"), f"tokenizer.ggml.{key}": value})


def test_an_id_that_is_no_token_is_refused() -> None:
    for id in (-1, 49152):
        with pytest.raises(LlamaWebError, match=f"no token {id}"):
            tokenizer("smollm2").token_bytes(id)


def test_a_prompt_for_the_middle_has_prefix_and_suffix_behind_their_tokens() -> None:
    told = {f"tokenizer.ggml.fim_{part}_token_id": id for part, id in (("pre", 5), ("suf", 6), ("mid", 7))}
    tok = load_tokenizer({**vocabulary("smollm2"), **told, "tokenizer.ggml.add_bos_token": True})
    one, other = (tok.encode(text, add_special=False) for text in ("def f(x):", "    return y"))
    assert tok.encode_fill_in("def f(x):", b"    return y") == [tok.bos, 5, *one, 6, *other, 7]
    with pytest.raises(UnsupportedError, match=r"no tokens to fill in the middle of a text; give no suffix"):
        tokenizer("gpt2").encode_fill_in("a", "b")
