"""How long a file is, by its beginning: found as soon as the header is there, and never taken for more."""

from __future__ import annotations

import asyncio

import pytest

from llamaweb.errors import ModelFileError
from llamaweb.model import length
from llamaweb.model.gguf_file import read_header
from llamaweb.model.length import length_told
from llamaweb.model.source import BytesSource
from tests.tiny import TinyLlama, tiny_llama

MODEL = tiny_llama(TinyLlama(n_layer=1))


def told(data: bytes) -> int | None:
    return asyncio.run(length_told(data))


def test_a_model_is_as_long_as_its_header_tells_once_that_is_there() -> None:
    begin = asyncio.run(read_header(BytesSource(MODEL))).data_offset
    assert [told(MODEL[:n]) for n in (begin, begin + 1, len(MODEL))] == [len(MODEL)] * 3
    assert told(MODEL + bytes(1000)) == len(MODEL)
    for n in (4, 5, 24, 1000, begin - 40, begin - 1):
        assert told(MODEL[:n]) is None, n


def test_a_header_without_tensors_ends_the_file() -> None:
    assert told(b"GGUF\x03\0\0\0" + bytes(16) + bytes(8)) == 32


def test_a_file_that_ends_in_a_name_tells_nothing_yet_whatever_would_follow() -> None:
    """What has not come is zeros: other bytes could be lengths and types of their own."""
    for n in range(24, asyncio.run(read_header(BytesSource(MODEL))).data_offset, 7):
        assert told(MODEL[:n]) is None, n


def test_a_beginning_of_less_than_the_magic_tells_nothing_yet() -> None:
    assert [told(b"GGUF"[:n]) for n in range(4)] == [None] * 4


def test_of_a_header_without_an_end_no_more_is_asked_for_than_a_header_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(length, "MAX_HEADER_BYTES", 999)
    assert told(MODEL[:999]) is None and told(MODEL[:1000]) == 1000


@pytest.mark.parametrize("data", [b"<!DOCTYPE html>", b"GGUF\x09\0\0\0", b"PK\x03\x04"])
def test_of_what_is_no_model_no_more_is_needed(data: bytes) -> None:
    assert told(data.ljust(2 << 20, b"x")) == 2 << 20
    assert told(data) == (None if data.startswith(b"GGUF") else len(data))


def test_a_beginning_stands_alone() -> None:
    with pytest.raises(ModelFileError, match="nothing beside it"):
        length._Beginning(b"GGUF").sibling("other.gguf")
