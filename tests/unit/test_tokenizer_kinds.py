"""Kinds of tokenizers beside those of GPT-2 and SentencePiece, on vocabularies whose ids can be told by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import TokenType

from llamaweb.errors import LlamaWebError, ModelFileError
from llamaweb.strings import Index, Strings
from llamaweb.tokenizer import KINDS, Tokenizer, load_tokenizer
from llamaweb.tokenizer.attributes import Stripping, stripping
from llamaweb.tokenizer.byte_level import SYMBOLS
from llamaweb.tokenizer.characters import lower
from llamaweb.tokenizer.charsmap import LONGEST, MOST, CharsMap
from llamaweb.tokenizer.patterns import compile_pattern
from llamaweb.tokenizer.pretokenizers import PRE_TOKENIZERS, splitter
from llamaweb.tokenizer.rwkv import unescape
from tests.pace import seconds
from tests.vocabularies_more import charsmap

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CONTROL = {"<pad>", "<bos>", "<eos>"}


def made(kind: str, *tokens: str, **told: Any) -> Tokenizer:
    """A tokenizer of some tokens, those of CONTROL control tokens, <0x41> and its like bytes, the others NORMAL."""
    types = [
        TokenType.CONTROL if token in CONTROL else TokenType.BYTE if token in BYTES else TokenType.NORMAL
        for token in tokens
    ]
    metadata = {
        "model": kind,
        "tokens": [token.encode() for token in tokens],
        "token_type": np.array(list(map(int, types)), np.int32),
        **told,
    }
    return load_tokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items()})


def merges(text: str) -> list[bytes]:
    return [merge.encode() for merge in text.split(",")]


# Gemma 4


def gemma4(*more: str, merged: str, **told: Any) -> Tokenizer:
    told = {"bos_token_id": 1, "eos_token_id": 2, "merges": merges(merged), **told}
    return made("gemma4", "<pad>", "<bos>", "<eos>", *BYTES, *more, **told)


def test_gemma4_merges_characters_across_spaces_and_spells_what_it_does_not_know_in_bytes() -> None:
    tok = gemma4("a", "▁", "a▁", "a▁b", "é", merged="a ▁,a▁ b")
    assert tok.encode("a bé a") == [1, 262, 263, 260, 259]
    assert tok.encode("ü", add_special=False) == [3 + 0xC3, 3 + 0xBC]
    assert tok.decode([262, 260, 3 + 0xC3, 3 + 0xBC]) == "a b ü".encode()
    stream = tok.stream_decoder()
    assert [stream.push(id) for id in (3 + 0xC3, 3 + 0xBC, 260)] == ["", "ü", " "]


def test_gemma4_takes_a_run_of_newlines_whole_and_always_begins_with_bos() -> None:
    tok = gemma4("\n", "\n\n\n", "a", merged="x y", add_bos_token=False)
    assert tok.add_bos and tok.encode("\n\n\na\n\n") == [1, 260, 261, 259, 259]
    assert (tok.bos, tok.eos, tok.eog) == (1, 2, {2})
    with pytest.raises(ModelFileError, match=r"there is no tokenizer\.ggml\.bos_token_id"):
        made("gemma4", *map(str, range(20)), merges=[])
    assert made("gemma4", *map(str, range(20)), merges=[], bos_token_id=1).eos is None


def test_words_of_gemma4_are_remembered_where_no_merge_goes_across_their_edge() -> None:
    tok: Any = gemma4("a", "b", "▁", "▁b", merged="▁ b")
    assert tok.encode("ab ab  b", add_special=False) == [259, 260, 261, 259, 260, 261, 262]
    assert set(tok._words.remembered) == {"ab", "▁ab", "▁▁b"}


# Pre-tokenizers


def words(pre: str, text: str) -> list[str]:
    return splitter(PRE_TOKENIZERS[pre])(text)


def test_digits_are_grouped_from_the_right() -> None:
    assert words("superbpe", "x1234567y 12") == ["x", "1", "234", "567", "y ", "12"]
    assert words("superbpe", "１12345６") == ["１12", "345６"]
    assert words("afmoe", "1234567") == ["1", "234", "567"] and words("afmoe", "\x001234") == ["\x001", "234"]
    assert words("tiny_aya", "ab123456") == ["ab", "123", "456"]


@pytest.mark.parametrize("pre", ["superbpe", "afmoe", "deepseek-llm", "jais-2", "exaone-moe", "gpt-4o", "tekken"])
@pytest.mark.parametrize("text", ["1", " ", "aB", "A", "a ", "!"])
def test_a_run_eight_times_as_long_takes_no_more_than_about_eight_times_as_long(pre: str, text: str) -> None:
    split = splitter(PRE_TOKENIZERS[pre])
    short, long = text * 4_000 + "x", text * 32_000 + "x"
    assert "".join(split(long)) == long
    assert seconds(lambda: split(long)) < 20 * seconds(lambda: split(short)) + 0.005


def test_a_class_without_some_of_its_members_is_the_rest() -> None:
    letters = compile_pattern(r"[\p{L}--[a-z]]")
    assert [c for c in "aZzéя1_" if letters.match(c)] == ["Z", "é", "я"]
    assert [c for c in r"-\]^a" if compile_pattern(r"[\-\\\]^]").match(c)] == ["-", "\\", "]", "^"]
    assert compile_pattern(r"\S+|\p{Han}").split("a 你") == ["", "a", " ", "你", ""]
    assert not compile_pattern(r"[^\r\n\t]").match("\t")


def test_kimis_vocabulary_needs_no_merges_but_others_do() -> None:
    symbols = [symbol.decode() for symbol in SYMBOLS]
    assert made("gpt2", *symbols, pre="kimi-k2").encode("ab") == [97, 98]
    with pytest.raises(ModelFileError, match="merges is missing"):
        made("gpt2", *symbols, pre="qwen2")


# White space and lower case


def test_white_space_is_dropped_and_letters_made_small_where_the_file_says_so() -> None:
    told = {"pre": "whitespace", "merges": merges("a b")}
    tokens = ("a", "b", "ab", "A", "i")
    assert made("whitespace", *tokens, **told).encode(" ab\u3000b A\n") == [2, 1, 3]
    small = made("whitespace", *tokens, **told, **{"normalizer.lowercase": True})
    assert small.encode("AB A İ") == [2, 0, 4] and small.decode([2, 0]) == b"aba"


@pytest.mark.parametrize("name", [5, b"qwen2", ["qwen2"], np.zeros(3)])
def test_a_pre_tokenizer_that_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.ggml\.pre is .*, not a name"):
        made("gpt2", "a", pre=name, merges=[])


def test_lower_case_is_one_character_and_of_one_version_of_unicode() -> None:
    assert list(map(lower, "AÄİẞσ1Ⅷ")) == list("aäißσ1ⅷ")
    assert lower("\u1c89") == "\u1c89" and lower("\ua7cb") == "\ua7cb"  # capitals since Unicode 16


def test_what_special_tokens_take_away_goes_by_names() -> None:
    ids = Index(Strings.of([b"<unk>", b"<s>", b"<|user|>", b"<mask>", b"[MASK]"]))
    every = frozenset(range(5))

    def of(**told: Any) -> Stripping:
        return stripping({key.replace("_", "."): value for key, value in told.items()}, ids, every)

    assert of(general_name="A Phi-3 model") == Stripping(right=frozenset((2, 3, 4)))
    assert of(general_name="My Modern-BERT") == Stripping(left=frozenset((4,)))
    assert of(tokenizer_ggml_pre="jina-v2-es", general_name="phi3") == Stripping(left=frozenset((3,)))
    assert of(general_architecture="nomic-bert-moe") == Stripping(left=frozenset((3,)))
    assert of() == of(general_name=3) == of(general_name="phi-2") == Stripping()
    assert stripping({"tokenizer.ggml.pre": "jina-v2-de"}, Index(Strings.of([b"a"])), frozenset()) == Stripping()


# WordPiece

ROLES = {"bos_token_id": 0, "seperator_token_id": 1, "unknown_token_id": 2}


def bert(*tokens: str, **told: Any) -> Tokenizer:
    return made("bert", "[CLS]", "[SEP]", "[UNK]", *tokens, **{**ROLES, **told})


def test_words_are_cut_into_the_longest_tokens_between_cls_and_sep() -> None:
    tok = bert("▁he", "▁hell", "lo", "l", "o", "▁,", "▁你")
    assert tok.encode("hello,  hell\t你o") == [0, 4, 7, 8, 4, 9, 2, 1]
    assert tok.encode("hello", add_special=False) == [4, 7] and tok.encode("") == [0, 1]
    assert tok.encode("hex hell") == [0, 2, 4, 1], "a word that does not end well is unknown as a whole"
    assert tok.encode_prompt("hell") == [0, 4] and tok.decode([4, 7, 8]) == b" hello ,"
    assert (tok.bos, tok.eos, tok.eog) == (0, None, frozenset())


def test_accents_case_and_controls_go_as_the_file_says() -> None:
    tokens = ("▁e", "▁é", "▁É", "▁E", "\u0301")
    assert bert(*tokens).encode("É e\u0301 \x07e\ufffd\xad", add_special=False) == [3, 3, 3]
    cased = bert(*tokens, **{"normalizer.lowercase": False})
    assert cased.encode("É E", add_special=False) == [5, 6]
    kept = bert(*tokens, **{"normalizer.strip_accents": False})
    assert kept.encode("É e\u0301", add_special=False) == [4, 3, 7]
    both = bert(*tokens, **{"normalizer.lowercase": False, "normalizer.strip_accents": True})
    assert both.encode("É e", add_special=False) == [6, 3]


@pytest.mark.parametrize("role", ["bos", "seperator", "unknown"])
def test_wordpiece_needs_its_roles(role: str) -> None:
    with pytest.raises(ModelFileError, match=rf"there is no tokenizer\.ggml\.{role}_token_id"):
        made("bert", "a", "b", "c", **{key: at for key, at in ROLES.items() if key != f"{role}_token_id"})


# RWKV


def test_rwkvs_tokens_are_bytes_in_escapes_and_the_longest_is_taken() -> None:
    tok = made("rwkv", "a", "ab", r"\n", r"\xe4\xbd", r"\xa0", r"\\", "b")
    assert tok.encode("aba\n你\\b") == [1, 0, 2, 3, 4, 5, 6]
    assert tok.decode(tok.encode("aba\n你\\b")) == "aba\n你\\b".encode()
    stream = tok.stream_decoder()
    assert [stream.push(id) for id in (3, 4)] == ["", "你"]
    assert tok.encode("") == [] and (tok.bos, tok.eos) == (None, None)
    assert made("rwkv", "a", bos_token_id=0, add_bos_token=True).encode("a") == [0], "nothing is put around a text"


def test_a_byte_that_rwkvs_vocabulary_cannot_spell_is_unknown_or_named() -> None:
    assert made("rwkv", "a", "?", unknown_token_id=1).encode("azé") == [0, 1, 1, 1]
    with pytest.raises(LlamaWebError, match="no token for the byte 0x7A; leave that character out"):
        made("rwkv", "a").encode("az")


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (r"a\tb\r\n", b"a\tb\r\n"),
        (r"\x41\'\\", b"A'\\"),
        (r"a\x4", b"a"),
        (r"a\x", b"a"),
        ("a\\", b"a"),
        (r"\xff", b"\xff"),
    ],
)
def test_escapes_stand_for_bytes_and_one_that_is_cut_off_for_none(text: str, data: bytes) -> None:
    assert unescape(text.encode()) == data


# Unigrams


def unigram(*tokens: tuple[str, float], charmap: bytes | None = None, **told: Any) -> Tokenizer:
    scores = np.array([0, 0, *(score for _, score in tokens)], np.float32)
    if charmap is not None:
        told["precompiled_charsmap"] = np.frombuffer(charmap, np.uint8)
    told = {"eos_token_id": 0, "unknown_token_id": 1, "scores": scores, **told}
    return made("t5", "</s>", "<unk>", *(text for text, _ in tokens), **told)


def test_the_tokens_with_the_best_sum_of_scores_are_taken() -> None:
    tok = unigram(("a", -1.0), ("b", -1.0), ("ab", -1.5), ("abc", -9.0), ("c", -2.0), ("▁", -3.0))
    assert tok.encode("abc ab") == [4, 6, 7, 4, 0]
    assert unigram(("a", -1.0), ("aa", -2.0)).encode("aaa", add_special=False) == [2, 3], "the first of equals"
    assert tok.encode("", add_special=False) == [] and tok.encode("") == [0]


def test_unknown_characters_in_a_row_are_one_unknown_token() -> None:
    tok = unigram(("a", -1.0), ("▁", -1.0))
    assert tok.encode("aéé你a é", add_special=False) == [2, 1, 2, 3, 1]
    assert unigram(("a", -1.0)).encode("é é", add_special=False) == [1]


def test_spaces_are_put_and_merged_as_the_file_says() -> None:
    tokens = (("▁", -1.0), ("a", -1.0))
    plain = unigram(*tokens)
    assert plain.encode(" a  a ", add_special=False) == [2, 3, 2, 2, 3, 2]
    before = unigram(*tokens, add_space_prefix=True)
    assert before.encode(" a", add_special=False) == [2, 2, 3] and before.encode("  ", add_special=False) == [2, 2]
    assert before.decode([2, 3]) == b"a" and plain.decode([2, 3]) == b" a"
    merged = unigram(*tokens, remove_extra_whitespaces=True)
    assert merged.encode("  a   a ", add_special=False) == [2, 3, 2, 3]


def test_a_text_is_changed_by_the_longest_keys_of_its_character_map() -> None:
    mapping = charsmap({"A": "a", "A\u030a": "å", "ﬁ": "fi", "\t": " ", "é": ""})
    tokens = tuple((text, -1.0) for text in ("▁", "a", "å", "f", "i", "\ufffd"))
    tok = unigram(*tokens, charmap=mapping)
    assert tok.encode("AA\u030aﬁ\té", add_special=False) == [3, 4, 5, 6, 2]
    assert tok.encode(b"A\xffa", add_special=False) == [3, 7, 3], "what is no UTF-8 becomes U+FFFD"
    assert tok.encode("a a", add_special=False) == [3, 2, 3]


def test_what_begins_as_a_users_token_is_not_changed() -> None:
    types = np.array([3, 2, 1, 1, 1, 4], np.int32)
    tokens = [(text, -1.0) for text in ("A", "a", "b", "Ab!")]
    tok = unigram(*tokens, charmap=charsmap({"A": "a"}), token_type=types)
    assert tok.encode("Ab!A", add_special=False) == [5, 2]
    assert tok.encode("bAb", add_special=False) == [4, 2, 4]


GOOD = charsmap({"A": "a"})


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "is cut off"),
        (b"\1\0\0", "is cut off"),
        (b"\xff\xff\xff\xff" + GOOD[4:], "is cut off"),
        (GOOD[:4] + b"\xff" * 4 + GOOD[8:], "has a node outside of its trie"),
        (GOOD[:-1], "has a text outside of its texts"),
        (bytes(MOST + 1), r"takes 4\.2 MB, more than the 4\.1 MB that a sound file may have"),
    ],
)
def test_a_broken_character_map_is_refused_in_one_sentence(data: bytes, finding: str) -> None:
    with pytest.raises(ModelFileError, match=f"damaged: its precompiled_charsmap {finding};"):
        unigram(("a", -1.0), charmap=data)


def test_a_users_token_of_thousands_of_bytes_is_refused() -> None:
    types = np.array([3, 2, 4], np.int32)
    assert unigram(("x" * 4096, 0.0), token_type=types).encode("x" * 4096) == [2, 0]
    with pytest.raises(ModelFileError, match="one of its user-defined tokens is longer than a sound file's may be"):
        unigram(("x" * 4097, 0.0), token_type=types)


def test_a_character_map_that_goes_round_in_circles_is_refused_where_a_text_meets_it() -> None:
    units = np.zeros(512, np.uint32)
    units[0] = 256 << 10
    units[256 ^ ord("a")] = ord("a") << 10 | ord("a")  # its child is itself
    data = units.tobytes()
    looped = CharsMap(len(data).to_bytes(4, "little") + data + b"\0")
    assert looped.longest(b"a" * LONGEST + b"b", 0) is None
    with pytest.raises(ModelFileError, match="has a key that is longer than a sound file's may be"):
        looped.longest(b"a" * (LONGEST + 1), 0)


def test_a_character_map_has_keys_as_short_as_real_ones() -> None:
    assert CharsMap(charsmap({"a" * LONGEST: "b"})).longest(b"a" * 40, 0) == (LONGEST, b"b")
    with pytest.raises(ModelFileError, match="has a key that is longer than a sound file's may be"):
        CharsMap(charsmap({"a" * (LONGEST + 1): "b"}))


@pytest.mark.parametrize("value", [np.zeros(8, np.int32), np.zeros((2, 4), np.int8), [1, 2], "abc", True])
def test_a_character_map_that_is_no_list_of_bytes_is_refused(value: object) -> None:
    with pytest.raises(ModelFileError, match=r"precompiled_charsmap is not a list of bytes"):
        unigram(("a", -1.0), precompiled_charsmap=value)


def test_a_random_character_map_is_refused_or_read_in_no_time() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        data = bytearray(GOOD)
        for at in rng.integers(0, len(data), 20).tolist():
            data[at] = int(rng.integers(256))
        try:
            tok = unigram(("a", -1.0), charmap=bytes(data))
            tok.encode("AaAb é" * 10)
        except ModelFileError as error:
            assert "\n" not in str(error)


# PLaMo 2


def plamo2(*tokens: tuple[str, float], **told: Any) -> Tokenizer:
    scores = np.array([0.0] * 257 + [score for _, score in tokens], np.float32)
    return made("plamo2", "<pad>", *BYTES, *(text for text, _ in tokens), scores=scores, **told)


def test_plamo_takes_the_best_sum_of_scores_and_of_equals_the_longest_first_token() -> None:
    tok = plamo2(("a", -1.0), ("b", -1.0), ("ab", -3.0), ("abc", -9.0), ("c", -2.0), ("aa", -2.0))
    assert tok.encode("abc") == [257, 258, 261] and tok.encode("aaa") == [262, 257]
    assert tok.encode("") == [] and (tok.bos, tok.eos) == (1, 2)


def test_plamo_spells_characters_without_a_token_in_bytes_and_drops_a_mark_of_byte_order() -> None:
    tok = plamo2(("a", -1.0), ("é", float("nan")), ("ü", -2000.5))
    assert tok.encode("\ufeffaéü") == [257, 1 + 0xC3, 1 + 0xA9, 1 + 0xC3, 1 + 0xBC]
    stream = tok.stream_decoder()
    assert [stream.push(id) for id in (257, 1 + 0xC3, 1 + 0xA9)] == ["a", "", "é"]


def test_plamo_needs_a_token_for_each_byte() -> None:
    with pytest.raises(ModelFileError, match="it has no token for the byte 0x00;"):
        made("plamo2", "a", "b")


# Text and DNA


def test_dna_is_cut_into_pieces_of_six_bases_and_text_is_not() -> None:
    """Compared with llama.cpp on 3,000 random texts; these are some of the pieces."""
    mark = "\ue000"
    tokens = ("A", "C", "<dna>", "</dna>", "<oov>", f"ACACAC{mark}", f"CAAAAA{mark}")
    tok = made("hybriddna", *tokens, pre="gpt-2", merges=[])
    assert tok.encode("AC<dna>acacacC</dna>A<dna>CCCCCC") == [0, 1, 2, 5, 6, 3, 0, 2, 4]
    assert tok.decode([0, 2, 5, 6, 3]) == b"A<dna>ACACACCAAAAA</dna>"
    assert tok.encode("<dna></dna>") == [2, 3]
    without = made("hybriddna", "A", "C", "<dna>", "</dna>", pre="gpt-2", merges=[])
    assert without.encode("<dna>AC</dna>") == [0, 1], "bytes without a token are left out"


# Metadata

STRANGE = (
    None,
    "",
    "x",
    b"x",
    [],
    [b"a"],
    [1],
    np.zeros(0, np.int8),
    np.zeros(400, np.float32),
    0,
    -1,
    2**64,
    1.5,
    True,
)
KEYS = """
tokens token_type scores merges pre add_bos_token bos_token_id unknown_token_id seperator_token_id add_space_prefix
remove_extra_whitespaces precompiled_charsmap normalizer.lowercase normalizer.strip_accents
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::llamaweb.errors.ModelWarning")
def test_strange_metadata_of_every_kind_gets_a_tokenizer_or_one_sentence(kind: str) -> None:
    tokens = [*map(str, range(1, 121)), *BYTES]
    sound = {"scores": np.zeros(len(tokens), np.float32), "merges": merges("1 2"), "pre": "qwen2", "bos_token_id": 0}
    made(kind, *tokens, **sound).encode("12")
    said = []
    for key in KEYS.split():
        for value in STRANGE:
            try:
                made(kind, *tokens, **{**sound, key: value}).encode("12 34")
            except LlamaWebError as error:
                said.append(str(error))
    assert len(said) > 20 and all(told.endswith(".") and "\n" not in told and len(told) < 400 for told in said)
