"""The tokenizers' rules one by one, on vocabularies of a few tokens whose ids can be told by hand."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
from gguf import TokenType

from llamaweb.errors import LlamaWebError, ModelWarning, UnsupportedError
from llamaweb.tokenizer import KINDS, Tokenizer, bpe, load_tokenizer, merging, pretokenizers, spm, words
from llamaweb.tokenizer.base import _byte
from llamaweb.tokenizer.byte_level import SYMBOLS, decode_utf8, token_to_bytes
from llamaweb.tokenizer.merging import Merger
from llamaweb.tokenizer.prefixes import Prefixes
from llamaweb.tokenizer.special import SpecialTokens

NORMAL, CONTROL, UNKNOWN, USER_DEFINED, UNUSED, BYTE = (
    TokenType[name] for name in ("NORMAL", "CONTROL", "UNKNOWN", "USER_DEFINED", "UNUSED", "BYTE")
)
LETTERS = 12  # the tokens before them have their ids by heart


def bytewise(*more: tuple[str, TokenType], merges: str = "", pre: str = "gpt-2", **told: Any) -> Tokenizer:
    """A byte-level tokenizer: a control token <0> and eleven others, the 256 bytes, and `more`."""
    tokens = [*(f"<{n}>" for n in range(LETTERS)), *(symbol.decode() for symbol in SYMBOLS), *(t for t, _ in more)]
    types = [CONTROL] * LETTERS + [NORMAL] * 256 + [kind for _, kind in more]
    return made("gpt2", tokens, types, pre=pre, merges=[merge.encode() for merge in merges.split(",") if merge], **told)


def pieces(*more: tuple[str, TokenType, float], **told: Any) -> Tokenizer:
    """A SentencePiece tokenizer: <unk>, <s>, </s>, all bytes, and `more` with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *(text for text, _, _ in more)]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *(kind for _, kind, _ in more)]
    scores = np.array([0.0] * 259 + [score for _, _, score in more], np.float32)
    return made("llama", tokens, types, scores=scores, **told)


def made(model: str, tokens: list[str], types: list[TokenType], **told: Any) -> Tokenizer:
    metadata = {
        "model": model,
        "tokens": [token.encode(errors="surrogateescape") for token in tokens],
        "token_type": np.array(types, np.int32),
        **told,
    }
    return load_tokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None})


def letters(text: str) -> list[int]:
    return [LETTERS + byte for byte in text.encode()]


def test_bos_and_eos_are_put_where_the_file_wants_them_and_the_caller_lets_it() -> None:
    told = {"bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True, "add_eos_token": True}
    both = bytewise(**told)
    assert (both.bos, both.eos, both.add_bos, both.add_eos) == (1, 2, True, True)
    assert both.encode("ab") == [1, *letters("ab"), 2] and both.encode("ab", add_special=False) == letters("ab")
    assert both.encode("") == [1, 2]
    assert bytewise(**told | {"add_bos_token": False}).encode("a") == [*letters("a"), 2]
    assert bytewise(**told | {"add_eos_token": False}).encode("a") == [1, *letters("a")]
    assert both.eog == {2} and bytewise(eot_token_id=3).eog == {3, 11}
    neither = bytewise()
    assert (neither.bos, neither.eos, neither.encode("a")) == (11, 11, letters("a"))
    assert bytewise(pre="glm4").bos is None


def test_a_prompt_begins_with_one_bos_and_never_ends_with_eos() -> None:
    tok = bytewise(bos_token_id=1, eos_token_id=2, add_bos_token=True, add_eos_token=True)
    assert tok.encode_prompt("a") == [1, *letters("a")]
    assert tok.encode_prompt("<1>a<2>", parse_special=True) == [1, *letters("a"), 2]
    assert tok.encode_prompt("<1><1>", parse_special=True) == [1, 1]
    assert tok.encode_prompt("<2>", parse_special=True) == [1, 2]
    assert tok.encode_prompt("<1>") == [1, *letters("<1>")]
    assert tok.encode_prompt("") == [1]
    without = bytewise(bos_token_id=1, add_bos_token=False)
    assert without.encode_prompt("a") == letters("a") and without.encode_prompt("") == []
    assert bytewise(pre="glm4").encode_prompt("a") == letters("a")


def test_a_text_to_evaluate_has_bos_no_eos_no_special_tokens_and_at_least_two_tokens() -> None:
    told = {"bos_token_id": 1, "eos_token_id": 2, "add_eos_token": True}
    tok, plain = bytewise(**told, add_bos_token=True), bytewise(**told, add_bos_token=False)
    assert tok.encode_to_evaluate("<2>a") == [1, *letters("<2>a")]
    assert tok.encode_to_evaluate("a") == [1, *letters("a")] and plain.encode_to_evaluate("ab") == letters("ab")
    assert bytewise(pre="glm4").encode_to_evaluate("ab") == letters("ab")
    needs = "but a perplexity needs at least two; give a longer one."
    for tokenizer, text, found in ((tok, "", "a single token"), (plain, "a", "a single token"), (plain, "", "empty")):
        with pytest.raises(LlamaWebError, match=re.escape(f"The text is {found}, {needs}")):
            tokenizer.encode_to_evaluate(text)


def test_a_special_token_is_written_as_the_file_has_it() -> None:
    tok = bytewise(("<eöt>", CONTROL))
    assert (tok.written(None), tok.written(0), tok.written(268)) == ("", "<0>", "<eöt>")
    assert tok.written(LETTERS + 0xFF) == "\ufffd"
    assert tok.stream_decoder().push(268) == "" and tok.stream_decoder(True).push(268) == "<eöt>"


def test_what_a_token_stands_for_goes_by_its_type() -> None:
    kinds = (("Ġa", NORMAL), ("Ġb", USER_DEFINED), ("Ġc", CONTROL), ("Ġd", UNKNOWN), ("<0x0A>", BYTE), ("Ġe", UNUSED))
    tok = bytewise(*kinds, ("<0x4>", BYTE), ("<0xé>", BYTE))
    ids = range(268, tok.n_vocab)
    assert [tok.token_bytes(id) for id in ids] == [b" a", "Ġb".encode(), b"", b"", b"\n", b"", b"", b""]
    with_special = [b" a", "Ġb".encode(), "Ġc".encode(), "Ġd".encode(), b"\n", b"", b"", b""]
    assert [tok.token_bytes(id, special=True) for id in ids] == with_special
    assert tok.decode(ids) == " aĠb\n".encode() and tok.decode(ids, special=True) == b"".join(with_special)
    assert [_byte(text) for text in (b"<0x41>", b"<0xZZ>", b"x", "<0xé>".encode())] == [b"A", b"", b"", b""]
    for id in (-1, 276):
        with pytest.raises(LlamaWebError, match=f"^There is no token {id}: the model's ids go from 0 to 275\\.$"):
            tok.token_bytes(id)


def test_text_of_strangers_holds_user_defined_tokens_but_no_control_tokens() -> None:
    tok = bytewise(("<|u|>", USER_DEFINED), ("<|unk|>", UNKNOWN))
    assert tok.encode("a<|u|><1><|unk|>") == [*letters("a"), 268, *letters("<1><|unk|>")]
    assert tok.encode("a<|u|><1><|unk|>", parse_special=True) == [*letters("a"), 268, 1, 269]


def test_a_word_that_is_a_token_ignores_the_merges_only_where_the_rule_says_so() -> None:
    more = (("ab", NORMAL), ("abc", NORMAL))
    assert bytewise(*more, merges="a b").encode("abc") == [268, *letters("c")]
    assert bytewise(*more, merges="a b", pre="youtu").encode("abc") == [269]
    assert bytewise(*more, merges="a b", pre="youtu").encode("abcd") == [268, *letters("cd")]
    # What merges give that is no token is spelled; a byte without a token is left out, as llama.cpp does.
    assert bytewise(*more, merges="x y").encode("axy") == letters("axy")


def test_the_first_of_two_equal_merges_counts_and_each_merge_before_those_behind_it() -> None:
    more = (("ab", NORMAL), ("bc", NORMAL))
    assert bytewise(*more, merges="a b,b c").encode("abc") == [268, *letters("c")]
    assert bytewise(*more, merges="b c,a b,b c").encode("abc") == [*letters("a"), 269]


@pytest.mark.parametrize("tok", [bytewise(), pieces(add_space_prefix=False)], ids=["bpe", "spm"])
def test_short_words_are_remembered_and_long_ones_are_not(
    tok: bpe.BPETokenizer | spm.SPMTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a text of long words would fill the memory."""
    for length in (1, 63, 64, 65, 200):
        ids = tok.encode("x" * length, add_special=False)
        assert tok.decode(ids) == b"x" * length and tok.encode("x" * length, add_special=False) == ids
    assert sorted(map(len, tok._words.remembered)) == [1, 63, 64]
    monkeypatch.setattr(words, "CACHED_WORDS", 5)
    for word in "abcd":
        tok.encode(word)
    assert set(tok._words.remembered) == set("cd") | ({"x" * 64} & set(tok._words.remembered)), (
        "they are forgotten all at once"
    )


def test_a_space_prefix_stands_at_the_beginning_and_behind_special_tokens_only() -> None:
    more = (("▁", NORMAL, -1.0), ("a", NORMAL, -1.0), ("▁a", NORMAL, -2.0), ("<|u|>", USER_DEFINED, 0.0))
    space, a, prefixed, added = range(259, 263)
    tok = pieces(*more)
    assert (tok.bos, tok.eos, tok.add_bos, tok.add_eos) == (1, 2, True, False)
    assert tok.encode("a") == [1, prefixed] and tok.encode("aa") == [1, prefixed, a]
    assert tok.encode("a<|u|>a a") == [1, prefixed, added, prefixed, prefixed]
    assert tok.encode("a</s>a", add_special=False, parse_special=True) == [prefixed, 2, prefixed]
    assert tok.encode(" a", add_special=False) == [space, prefixed]
    without = pieces(*more, add_space_prefix=False)
    assert without.encode("a a<|u|>a") == [1, a, prefixed, added, a]


def test_decoding_takes_one_space_from_the_beginning_and_only_where_encoding_put_one() -> None:
    more = (("▁", NORMAL, -1.0), ("▁a", NORMAL, -2.0), ("▁c", CONTROL, 0.0), (" u", USER_DEFINED, 0.0))
    more = (*more, (" d", CONTROL, 0.0))
    space, a, control, user, written = range(259, 264)
    tok, without = pieces(*more), pieces(*more, add_space_prefix=False)
    assert tok.decode([a, a]) == b"a a" and tok.decode([space, a]) == b" a" and tok.decode([]) == b""
    assert tok.decode(iter([a, a])) == b"a a"
    assert tok.decode([1, a]) == b" a" and tok.decode([1, a], special=True) == b"<s> a"
    assert tok.decode([user, a]) == b"u a" and tok.decode([control, a]) == b" a"
    assert tok.decode([written, a], special=True) == b"d a" and tok.decode([written, a]) == b" a"
    assert without.decode([a, a]) == b" a a"


def test_pieces_are_merged_by_their_scores_rounded_to_float32_and_from_the_left_among_equals() -> None:
    told = {"add_space_prefix": False, "add_bos_token": False}
    single = (("a", NORMAL, -9.0), ("b", NORMAL, -9.0), ("c", NORMAL, -9.0))

    def ids(text: str, ab: float, bc: float) -> list[int]:
        return pieces(*single, ("ab", NORMAL, ab), ("bc", NORMAL, bc), **told).encode(text)

    left, right = [262, 261], [259, 263]
    assert ids("abc", -1.0, -2.0) == left and ids("abc", -2.0, -1.0) == right
    assert ids("abc", -1.0, -1.0) == left and ids("abc", 5.0, 7.0) == right
    assert ids("abc", -1.0 - 1e-9, -1.0) == left, "equal in float32"
    assert ids("abc", float("nan"), -1e30) == right, "what is no number is merged last"
    assert ids("abc", float("nan"), float("nan")) == left


def test_bytes_are_spelled_by_their_tokens_or_by_themselves() -> None:
    tokens = ["<unk>", "<s>", "</s>", "<0x41>", "a", "B", "\udcc3", "\udca9"]  # the last two are the bytes of an é
    tok = made("llama", tokens, [UNKNOWN, CONTROL, CONTROL, BYTE, *[NORMAL] * 4], add_space_prefix=False)
    assert tok.encode("AaBé", add_special=False) == [3, 4, 5, 6, 7]
    sentence = "The model's vocabulary has no token for the byte 0x7E; leave that character out of the text."
    with pytest.raises(LlamaWebError, match=f"^{re.escape(sentence)}$"):
        tok.encode("a~")


def test_symbols_are_as_long_as_their_first_byte_says_whatever_follows() -> None:
    told = {"add_space_prefix": False, "add_bos_token": False}
    tok = pieces(("é", NORMAL, 0.0), ("€", NORMAL, 0.0), ("🦙", NORMAL, 0.0), ("▁", NORMAL, 0.0), **told)
    assert tok.encode("é€🦙 ") == [259, 260, 261, 262]
    for data in (b"\xc3", b"\xe2\x82", b"\xf0\x9f\xa6", b"\xff", b"a\xc3\n\xff\n", b"\x80"):
        assert tok.decode(tok.encode(data), special=True) == data
        assert tok.encode(data) == [3 + byte for byte in data]


@pytest.mark.parametrize("inside", ["x▁y", "é▁y", "€▁y", "🦙▁y", "].▁y", "x▁▁y", "▁x▁y", "x▁"])
def test_a_token_with_a_space_inside_is_found_across_words(inside: str) -> None:
    """Words are cut at spaces so that they can be remembered, but no token may be lost by it."""
    singles = [(each, NORMAL, -9.0) for each in dict.fromkeys("▁xyé€🦙].")]
    parts = [(inside[:n], NORMAL, -1.0 / n) for n in range(2, len(inside) + 1)]
    told = {"add_space_prefix": False, "add_bos_token": False}
    tok = pieces(*singles, *parts, **told)
    whole = 259 + len(singles) + len(parts) - 1
    text = inside.replace("▁", " ")
    assert tok.encode(text) == [whole] and tok.encode(f"y{text}")[-1] == whole
    assert isinstance(tok, spm.SPMTokenizer) and max(map(len, tok._words.remembered)) <= len(text) + 1


def test_words_are_cut_at_spaces_where_no_token_goes_on_behind_one() -> None:
    tok = pieces(("a", NORMAL, 0.0), ("▁a", NORMAL, 0.0), ("▁▁", NORMAL, 0.0), ("x▁y", NORMAL, 0.0))
    assert isinstance(tok, spm.SPMTokenizer)
    assert tok._word.findall("▁ab▁▁c▁") == ["▁ab", "▁▁c", "▁"]
    assert tok._word.findall("▁ax▁y▁c") == ["▁ax▁y", "▁c"]
    two = pieces(("x▁y", NORMAL, 0.0), (".▁x", NORMAL, 0.0), ("\udc80▁x", NORMAL, 0.0), ("\udc80▁", NORMAL, 0.0))
    assert isinstance(two, spm.SPMTokenizer)
    assert two._word.findall("ax▁y▁.▁c▁") == ["ax▁y", "▁.▁c", "▁"]


def test_every_byte_has_a_printable_character_of_its_own() -> None:
    characters = [symbol.decode() for symbol in SYMBOLS]
    assert len(set(characters)) == 256 and all(each.isprintable() and not each.isspace() for each in characters)
    assert characters[ord("!")] == "!" and characters[ord(" ")] == "Ġ" and characters[0xFF] == "ÿ"
    assert token_to_bytes("ĠaĊ".encode()) == b" a\n"
    for other in ("你".encode(), b"\xff\xfe", "a\u3000".encode()):
        assert token_to_bytes(other) == other


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xc0\xaf", "/"),  # overlong
        (b"\xe0\x80\xaf", "/"),
        (b"\xf0\x80\x80\xaf", "/"),
        (b"\xed\xa0\x80", "\ud800"),
        (b"\xf4\x8f\xbf\xbf", "\U0010ffff"),
        (b"\xf4\x90\x80\x80", "\ufffd" * 4),  # beyond Unicode
        (b"\xf7\xbf\xbf\xbf", "\ufffd" * 4),
        (b"\xf8\x80\x80\x80\x80", "\ufffd" * 5),
        (b"\x80a", "\ufffda"),
        (b"\xbf", "\ufffd"),
        (b"\xc3", "\ufffd"),
        (b"\xc3(", "\ufffd("),
        (b"\xe2\x82", "\ufffd\ufffd"),
        (b"\xe2\x82(", "\ufffd\ufffd("),
        (b"\xe2(\xa1", "\ufffd(\ufffd"),
        (b"\xf0\x9f\xa6", "\ufffd\ufffd\ufffd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\xc0\x80b\xed\xbf\xbfc", "a\0b\udfffc"),
    ],
)
def test_bytes_that_are_no_utf_8_are_read_as_llama_cpp_reads_them(data: bytes, text: str) -> None:
    assert decode_utf8(data) == text


def test_the_longest_string_that_a_text_goes_on_with_is_found_at_each_place() -> None:
    rng = random.Random(3)
    for _ in range(40):
        letters = rng.sample(range(256), rng.randint(1, 3))
        lengths = rng.choice(((1, 2, 3), (1, 5, 8, 9), (2, 16, 33)))
        some = {bytes(rng.choices(letters, k=rng.choice(lengths))) for _ in range(rng.randint(1, 30))}
        strings = list(some | {string[: rng.randint(1, len(string))] for string in some})
        rng.shuffle(strings)
        text = b"".join(rng.choices([*strings, *(bytes([each]) for each in letters)], k=rng.randint(1, 12)))
        starts = np.flatnonzero(np.array([rng.random() < 0.7 for _ in text]))
        found = Prefixes(strings)
        expected = [
            max((n for n, s in enumerate(strings) if text.startswith(s, at)), key=lambda n: len(strings[n]), default=-1)
            for at in starts.tolist()
        ]
        assert found.longest(np.frombuffer(text, np.uint8), starts).tolist() == expected
        for string, most in ((n, m) for n in range(min(len(strings), 5)) for m in range(len(strings[n]) + 2)):
            shorter = [n for n, s in enumerate(strings) if strings[string].startswith(s) and len(s) <= most]
            best = max(shorter, key=lambda n: len(strings[n]), default=None)
            assert found.shortened(string, most) == best


def test_a_shorter_string_is_found_in_few_steps_along_a_long_chain() -> None:
    """Strings that each begin with the one before: a walk from one to the next would take hundreds of steps."""
    strings = [b"a" * length for length in range(1, 400)]
    found = Prefixes(strings)

    class Counted(list[int]):
        looks = 0

        def __getitem__(self, at: Any) -> Any:
            Counted.looks += 1
            return super().__getitem__(at)

    assert found._jump  # made before its steps are counted
    found.lengths = Counted(found.lengths)
    assert [found.shortened(len(strings) - 1, most) for most in (399, 398, 170, 1, 0)] == [398, 397, 169, 0, None]
    assert Counted.looks < 150


def test_no_strings_are_found_nowhere() -> None:
    assert Prefixes([]).longest(np.frombuffer(b"abc", np.uint8), np.array([0, 2])).tolist() == [-1, -1]
    assert SpecialTokens([]).split(b"abc") == [b"abc"] and SpecialTokens([]).split(b"") == []


def test_what_was_forgotten_is_looked_up_again_between_words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, bytes]] = []

    def cost(left: bytes, right: bytes) -> float | None:
        asked.append((left, right))
        return None

    merge = Merger(cost)
    word = [b"a", b"b", b"c"]
    assert merge(word) == word and merge.remembered == 2 and len(asked) == 2
    monkeypatch.setattr(merging, "REMEMBERED", 2)
    assert merge(word) == word and len(asked) == 2, "as many as may be remembered"
    assert merge([b"c", b"a"]) == [b"c", b"a"] and merge.remembered == 3
    assert merge(word) == word and len(asked) == 5 and merge.remembered == 2
    assert merge([]) == [] and merge([b"z"]) == [b"z"]


@pytest.mark.parametrize("short", [0, merging.SHORT])
def test_a_cost_of_zero_and_costs_below_it_merge_in_their_order(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SHORT", short)
    costs = {(b"a", b"b"): 0.0, (b"b", b"c"): -1.0, (b"a", b"bc"): 0.5, (b"abc", b"abc"): 7.0}
    merge = Merger(lambda left, right: costs.get((left, right)))
    assert merge([b"a", b"b", b"c"] * 4) == [b"abcabc"] * 2
    assert merge([b"a", b"b", b"a"]) == [b"ab", b"a"]


def test_a_kind_that_is_not_there_is_named_with_those_that_are() -> None:
    for kind, found in (
        (None, "no tokenizer"),
        ("t6", "a tokenizer of the kind 't6'"),
        (7, "a tokenizer of the kind 7"),
    ):
        with pytest.raises(UnsupportedError) as caught:
            load_tokenizer({"tokenizer.ggml.model": kind} if kind else {})
        assert str(caught.value) == f"The model file has {found}; supported so far: {', '.join(KINDS)}."


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, "does not name its pre-tokenizer"),
        ("", "does not name its pre-tokenizer"),
        ("of-tomorrow", "names an unknown pre-tokenizer, 'of-tomorrow'"),
    ],
)
def test_a_pre_tokenizer_that_is_not_named_or_unknown_is_the_default_one_with_one_warning(
    name: object, found: str
) -> None:
    with pytest.warns(ModelWarning) as warned:
        assert pretokenizers.pre_tokenizer(name) is pretokenizers.DEFAULT
    assert [str(each.message) for each in warned] == [
        f"The model file {found} (tokenizer.ggml.pre); the default one is taken, so that answers may be worse; convert "
        "the model again with a current converter."
    ]


def test_what_was_found_once_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for tok in (bytewise(add_eos_token=False), pieces()):
        found: list[object] = []
        for part, name in ((tok._words, "_encode"), (tok, "_piece")):
            make = getattr(part, name)
            monkeypatch.setattr(part, name, lambda value, make=make, found=found: found.append(value) or make(value))
        ids = [tok.encode(text, add_special=False) for text in ("one", "one", "two", "one")]
        assert ids[0] == ids[1] == ids[3] != ids[2] and len(found) == 2
        assert len({tok.decode(ids[0]) for _ in range(3)}) == 1 and len(found) == 2 + len(ids[0])


def test_halves_of_surrogate_pairs_are_bytes_as_any_others() -> None:
    lone = b"\xed\xa0\x80"
    for tok, ids in (
        (bytewise(), [LETTERS + byte for byte in lone]),
        (pieces(add_bos_token=False), [3 + byte for byte in lone]),
    ):
        assert tok.encode("\ud800")[-3:] == tok.encode(lone)[-3:] == ids
        assert tok.encode(bytearray(lone)) == tok.encode(lone)


def test_a_stream_holds_back_half_a_character_and_tells_of_what_never_becomes_one() -> None:
    stream = bytewise().stream_decoder()

    def push(data: bytes) -> list[str]:
        return [stream.push(LETTERS + byte) for byte in data]

    assert push("a€b".encode()) == ["a", "", "", "€", "b"] and stream.finish() == ""
    assert push(b"\xff\xc3(") == ["\ufffd", "", "\ufffd("]
    assert push(b"\xe2\x82") == ["", ""] and stream.finish() == "\ufffd"
    assert push(b"\xac") == ["\ufffd"] and stream.finish() == "" and push(b"a") == ["a"]


def test_what_several_others_say_is_no_end_is_taken_away_once() -> None:
    names = ("<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>")
    tok = bytewise(*((name, NORMAL) for name in names), eos_token_id=0)
    first = LETTERS + 256
    assert tok.eog == {0, *range(first + 1, first + 5)} and tok.token_bytes(first) == b"<|end|>"
