"""Many strings packed together, and the place of each."""

from __future__ import annotations

import random

import pytest

from llamaweb.strings import Index, Strings

LISTS = {
    "none": [],
    "one, empty": [b""],
    "mixed": [b"b", b"", b"ab", b"a", b"abc", b"\0", b"a\0", b"\0a", "ü".encode(), b"ba", b"bc", b"c" * 300],
    "inside each other": [b"aa", b"aaa", b"a", b"aaaa"],
    "random": [bytes(random.Random(i).choices(b"ab\0", k=i % 7)) + b"%d" % i for i in range(2000)],
}


@pytest.mark.parametrize("strings", LISTS.values(), ids=LISTS)
def test_strings_are_a_sequence_of_what_was_given(strings: list[bytes]) -> None:
    packed = Strings.of(strings)
    assert packed == strings and packed.tolist() == strings and len(packed) == len(strings)
    assert [packed[i] for i in range(len(strings))] == strings
    assert packed[1:5] == strings[1:5] and packed[-3:] == strings[-3:]
    assert [packed[i] for i in range(-len(strings), 0)] == strings
    with pytest.raises(IndexError):
        packed[len(strings)]


@pytest.mark.parametrize("strings", LISTS.values(), ids=LISTS)
def test_a_string_is_found_in_its_place_and_no_other_is(strings: list[bytes]) -> None:
    packed, index = Strings.of(strings), Index(Strings.of(strings))
    assert index.twice is None
    for _ in range(2):  # the second answer is a remembered one
        for place, string in enumerate(strings):
            assert string in packed and string in index and index.get(string) == index[string] == place
    for string in (b"", b"\0\0", b"abcd", b"a\0\0", b"bb", b"aaaaa", b"z" * 300):
        expected = strings.index(string) if string in strings else None
        assert (string in packed, index.get(string)) == (expected is not None, expected)
        assert index.get(string, -1) == (-1 if expected is None else expected)
    with pytest.raises(KeyError):
        index[b"never there"]


@pytest.mark.parametrize("twice", [b"", b"a", b"ab\0"])
def test_of_a_string_that_stands_twice_the_first_place_counts(twice: bytes) -> None:
    index = Index(Strings.of([b"x", twice, b"ab", twice, b"y", twice]))
    assert index.twice == twice and index[twice] == 1 and index[b"y"] == 4


def test_more_questions_than_are_remembered_are_answered() -> None:
    strings = [b"%x" % (i * 7919) for i in range(40_000)]
    index = Index(Strings.of(strings))
    assert [index[string] for string in strings] == list(range(len(strings)))


def test_a_repr_is_short_however_long_the_strings_are() -> None:
    assert repr(Strings.of([b"a", b"b"])) == "Strings([b'a', b'b'])"
    assert len(repr(Strings.of([b"x" * 100_000] * 5))) < 200
