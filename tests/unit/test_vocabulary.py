"""The vocabulary's roles: what the metadata says, what the tokens' names say, and what is told where they are wrong."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from gguf import TokenType

from llamaweb.errors import ModelFileError, ModelWarning
from llamaweb.strings import Strings
from llamaweb.tokenizer.vocabulary import Vocabulary, flag, read_vocabulary, scores, strings

NORMAL, CONTROL, USER_DEFINED = int(TokenType.NORMAL), int(TokenType.CONTROL), int(TokenType.USER_DEFINED)


def read(*names: str, bos: int | None = 0, eos: int = 1, add_bos: bool = False, **told: Any) -> Vocabulary:
    """A vocabulary of the tokens a, b, c (all NORMAL), then `names`."""
    metadata = {"tokens": [name.encode() for name in ("a", "b", "c", *names)], **told}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}
    return read_vocabulary(metadata, bos=bos, eos=eos, add_bos=add_bos)


def ends(*names: str, **told: Any) -> set[int]:
    """The ends of an answer, counted from the first of `names`; that of EOS, which is always there, left out."""
    return {end - 3 for end in read(*names, **told).eog} - {-2}


def types(*names: str, **told: Any) -> list[int]:
    return read(*names, **told).types[3:].tolist()


def test_without_a_word_in_the_metadata_the_defaults_hold() -> None:
    found = read()
    assert list(found.tokens) == [b"a", b"b", b"c"] and found.ids[b"c"] == 2
    assert found.types.tolist() == [NORMAL] * 3 and found.types.dtype == np.int32
    assert (found.bos, found.eos, found.add_bos, found.add_eos) == (0, 1, False, False)
    assert found.eog == {1}
    assert read(add_bos=True).add_bos and read(bos=None).bos is None
    assert (read(bos=2).bos, read(bos=3).bos, read(eos=3).eos) == (2, None, None)  # 3 is no token


def test_the_metadata_comes_before_the_defaults() -> None:
    found = read(bos_token_id=2, eos_token_id=0, add_bos_token=True, add_eos_token=True)
    assert (found.bos, found.eos, found.add_bos, found.add_eos, found.eog) == (2, 0, True, True, {0})
    assert not read(add_bos=True, add_bos_token=False).add_bos
    found = read(token_type=np.array([3, 4, 6, 1], np.uint8))
    assert found.types.tolist() == [3, 4, 6] and found.types.dtype == np.int32  # one too many is no matter


def test_an_empty_token_gets_a_name_of_its_own() -> None:
    found = read("", "d", "")
    assert list(found.tokens)[3:] == [b"[EMPTY_3]", b"d", b"[EMPTY_5]"] and found.ids[b"[EMPTY_5]"] == 5


ENDS = """
<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT>
_<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~[
"""


@pytest.mark.parametrize("name", ENDS.split())
def test_a_token_of_such_a_name_ends_an_answer_whatever_its_type_is(name: str) -> None:
    assert ends(name, "x") == {0} and types(name, "x") == [CONTROL, NORMAL]
    assert ends("x", name, eot_token_id=0) == {1, -3}


FILL_IN = {
    (
        "fim_pre",
        "prefix",
    ): "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
    (
        "fim_suf",
        "suffix",
    ): "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
    (
        "fim_mid",
        "middle",
    ): "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
    ("fim_pad",): "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    ("fim_rep",): "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    ("fim_sep",): "<|file_sep|>",
}


@pytest.mark.parametrize("roles", FILL_IN, ids=lambda roles: roles[0])
def test_fill_in_tokens_are_control_tokens_and_the_later_three_end_an_answer(roles: tuple[str, ...]) -> None:
    ending = {0} if len(roles) == 1 else set()
    for name in FILL_IN[roles].split():
        assert types(name, "x") == [CONTROL, NORMAL] and ends(name, "x") == ending
    names = FILL_IN[roles].split()
    if len(names) > 1:  # the first of the names counts, and no other
        assert types(names[1], names[0]) == [NORMAL, CONTROL] and ends(names[1], names[0]) == {1 for _ in ending}
    for role in roles:  # the metadata comes before the names
        told = {f"{role}_token_id": 4}
        assert types(names[0], "x", **told) == [NORMAL, NORMAL] and ends(names[0], "x", **told) == {1 for _ in ending}
    if len(roles) == 2:
        read(**{f"{role}_token_id": 2 for role in roles})


def test_channels_are_part_of_the_text_even_if_they_are_marked_as_control_tokens() -> None:
    names = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|other|>")
    assert types(*names, token_type=np.full(8, CONTROL)) == [USER_DEFINED] * 4 + [CONTROL]


@pytest.mark.parametrize(
    ("names", "right", "kind"),
    [
        (("<|end|>", "<|return|>", "<|call|>"), {1, 2}, USER_DEFINED),
        (("<|end|>", "<|return|>", "<|calls|>"), {1, 2}, USER_DEFINED),
        (("<|end|>", "<|flush|>", "<|call|>"), {1, 2}, USER_DEFINED),
        (("<|end|>", "<|flush|>", "<|calls|>"), {1, 2}, USER_DEFINED),
        (("<|end|>", "<|return|>", "<|flush|>"), {0, 1, 2}, CONTROL),
        (("<|end|>", "<|call|>", "<|calls|>"), {0, 1, 2}, CONTROL),
        (("</s>", "<|tool_response>"), {1}, NORMAL),
        (("</s>", "<|plamo:eos|>"), {0}, CONTROL),
        (("</s>", "x"), {0}, CONTROL),
    ],
)
def test_an_end_beside_certain_others_is_none(names: tuple[str, ...], right: set[int], kind: int) -> None:
    assert ends(*names) == right and types(*names)[0] == kind


def test_plamos_end_takes_the_place_of_another_where_it_ends_an_answer() -> None:
    names = ("</s>", "<|plamo:eos|>")
    assert ends(*names, eot_token_id=4) == {1} and types(*names, eot_token_id=4) == [NORMAL, NORMAL]


@pytest.mark.parametrize("role", ["eos", "eot", "eom"])
def test_the_end_tokens_of_the_metadata_end_an_answer(role: str) -> None:
    assert read("x", "y", **{f"{role}_token_id": 4}).eog == ({4} if role == "eos" else {1, 4})


@pytest.mark.parametrize("role", ["unknown", "seperator", "padding", "mask", "bos", "eos", "eot", "eom", "fim_pre"])
@pytest.mark.parametrize("id", [3, -1])
def test_an_id_beyond_the_tokens_is_warned_of_and_left_out(role: str, id: int) -> None:
    with pytest.warns(ModelWarning) as warned:
        found = read(**{f"{role}_token_id": id})
    instead = {"bos": "0 is taken instead", "eos": "1 is taken instead"}.get(role, "it is taken as left out")
    assert [str(each.message) for each in warned] == [
        f"tokenizer.ggml.{role}_token_id is {id}, but the ids go from 0 to 2; {instead}."
    ]
    assert (found.bos, found.eos, found.eog) == (0, 1, {1})


def test_an_id_at_either_end_of_the_tokens_is_taken_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [read(bos_token_id=id).bos for id in (0, 2)] == [0, 2]


WRONG: dict[str, dict[str, Any]] = {
    "tokenizer.ggml.tokens is missing": {"tokens": None},
    "tokenizer.ggml.tokens is empty": {"tokens": []},
    "tokenizer.ggml.tokens is not a list of strings": {"tokens": [b"a", 1]},
    "tokenizer.ggml.tokens is not a list of strings ": {"tokens": "abc"},
    "tokenizer.ggml.tokens has the token 'a\ufffd' twice": {"tokens": [b"a\xff", b"b", b"a\xff"]},
    "tokenizer.ggml.token_type is not a list of whole numbers": {"token_type": np.ones(3, np.float32)},
    "tokenizer.ggml.token_type is not a list of whole numbers ": {"token_type": np.ones((3, 1), np.int32)},
    "tokenizer.ggml.token_type is not a list of whole numbers  ": {"token_type": [1, 1, 1]},
    "tokenizer.ggml.token_type has 2 entries for 3 tokens": {"token_type": np.ones(2, np.int32)},
    "tokenizer.ggml.scores is not a list of numbers": {"scores": np.array([True] * 3)},
    "tokenizer.ggml.scores is not a list of numbers ": {"scores": np.ones((3, 1), np.float32)},
    "tokenizer.ggml.scores is not a list of numbers  ": {"scores": 1.0},
    "tokenizer.ggml.scores has 2 entries for 3 tokens": {"scores": np.ones(2, np.float32)},
    "tokenizer.ggml.bos_token_id is 'x', not a token's id": {"bos_token_id": "x"},
    "tokenizer.ggml.mask_token_id is True, not a token's id": {"mask_token_id": True},
    "tokenizer.ggml.add_bos_token is 1, not true or false": {"add_bos_token": 1},
    "tokenizer.ggml.add_eos_token is 'no', not true or false": {"add_eos_token": "no"},
}


@pytest.mark.parametrize("finding", WRONG)
def test_what_is_wrong_with_a_vocabulary_is_said_in_one_sentence(finding: str) -> None:
    sentence = f"The model file's tokenizer is damaged: {finding.strip()}; fetch or convert the model again."
    with pytest.raises(ModelFileError, match=f"^{re.escape(sentence)}$"):
        read(**WRONG[finding])


@pytest.mark.parametrize(("name", "default"), [("bos", {"bos": None}), ("eos", {"eos": 9})])
def test_a_token_that_is_to_be_added_must_be_there(name: str, default: dict[str, Any]) -> None:
    says = f"tokenizer.ggml.add_{name}_token is set, but there is no tokenizer.ggml.{name}_token_id"
    with pytest.raises(ModelFileError, match=re.escape(f"is damaged: {says};")):
        read(**default, **{f"add_{name}_token": True})
    read(**default, **{f"add_{name}_token": False})


def test_scores_are_float32_one_for_each_token_and_zero_where_there_are_none() -> None:
    assert scores({}, 3).tolist() == [0.0] * 3 and scores({}, 3).dtype == np.float32
    for kind in ("<f4", "<f8", "<i4", "<u1"):
        found = scores({"tokenizer.ggml.scores": np.array([1, 2, 3], kind)}, 2)
        assert found.tolist() == [1.0, 2.0] and found.dtype == np.float32


def test_strings_and_flags_are_taken_as_they_are() -> None:
    packed = Strings.of([b"x", b"y"])
    assert strings({"k": packed}, "k") is packed and list(strings({"k": [b"x", b"y"]}, "k")) == [b"x", b"y"]
    assert len(strings({"k": []}, "k")) == 0
    assert flag({}, "f", True) is True and flag({"tokenizer.ggml.f": False}, "f", True) is False


def test_the_middle_of_a_text_can_be_filled_in_where_all_three_tokens_are_there() -> None:
    assert read("<fim_prefix>", "<fim_suffix>", "<fim_middle>").fill_in == (3, 4, 5)
    assert read("<PRE>", "x", "<SUF>", middle_token_id=4).fill_in == (3, 5, 4)
    assert read("<fim_prefix>", "<fim_suffix>").fill_in is None and read().fill_in is None
