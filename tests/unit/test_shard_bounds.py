"""What the headers of a split model may take together, whatever each of its files says of itself."""

from __future__ import annotations

import asyncio
import struct
from typing import Self

import pytest
from gguf import GGUFValueType

from llamaweb.errors import ModelFileError
from llamaweb.model import shards
from llamaweb.model.shards import read_model
from llamaweb.model.source import check_range
from tests.splits import split
from tests.tiny import TinyLlama, tiny_llama

U8, U32, ARRAY = GGUFValueType.UINT8, GGUFValueType.UINT32, GGUFValueType.ARRAY


def key(name: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def header(number: int, count: int, bulk: int) -> bytes:
    """The beginning of a part without tensors, whose last key has `bulk` bytes that follow."""
    told = {"split.no": number, "split.count": count, "split.tensors.count": 0}
    keys = [key(name, U32, struct.pack("<I", value)) for name, value in told.items()]
    keys.append(key("x", ARRAY, struct.pack("<IQ", U8, bulk)))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys)


class Parts:
    """A folder of parts, each of which begins as told and goes on with zeros."""

    def __init__(self, parts: dict[str, bytes], size: int) -> None:
        self.parts, self.size = parts, size
        self.read = self.open = self.most_open = 0

    def source(self, name: str) -> Part:
        return Part(self, name)


class Part:
    sound = True

    def __init__(self, folder: Parts, name: str) -> None:
        self.name = name
        self._folder, self._data = folder, folder.parts[name]

    async def size(self) -> int:
        return max(self._folder.size, len(self._data))

    async def read(self, offset: int, length: int) -> bytes:
        folder = self._folder
        check_range(self.name, offset, length, await self.size())
        folder.read += length
        folder.open += 1
        folder.most_open = max(folder.most_open, folder.open)
        await asyncio.sleep(0)
        folder.open -= 1
        return self._data[offset : offset + length].ljust(length, b"\0")

    def sibling(self, name: str) -> Self:
        return type(self)(self._folder, name)


def name(number: int, count: int) -> str:
    return f"m-{number + 1:05}-of-{count:05}.gguf"


def folder(count: int, bulk: int) -> Parts:
    parts = {name(n, count): header(n, count, bulk) for n in range(count)}
    return Parts(parts, len(header(0, count, bulk)) + bulk + 32)


# Of one that is not read in one piece, and of one that is.
@pytest.mark.parametrize("bulk", [4 << 20, 900 << 10])
@pytest.mark.parametrize("given", [0, 1])
def test_headers_of_parts_are_refused_together_before_they_fill_the_memory(bulk: int, given: int) -> None:
    made = folder(200, bulk)
    with pytest.raises(
        ModelFileError,
        match=r"^m-0000\d-of-00200\.gguf (is one of 200 files, and .* cannot be read: .*)?is damaged: .* makes the "
        r"headers of the 199 files behind the first, which tell of 0 tensors in all, larger than \d\.\d MB; fetch or "
        r"convert it again\.$",
    ):
        asyncio.run(read_model(made.source(name(given, 200))))
    assert made.read < 8 * bulk + (20 << 20)  # of 200


def test_as_few_files_are_read_side_by_side_as_bounds_what_is_in_memory() -> None:
    made = folder(200, 100)
    assert len(asyncio.run(read_model(made.source(name(0, 200))))[1]) == 200
    assert made.most_open == shards._AT_ONCE


def test_of_files_behind_the_first_no_metadata_is_kept_but_what_tells_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = []
    merged = shards._merged
    monkeypatch.setattr(shards, "_merged", lambda found: kept.extend(found) or merged(found))
    whole, _ = asyncio.run(read_model(folder(3, 100).source(name(1, 3))))
    assert "x" in whole.metadata
    assert [set(header.metadata) - {"x"} for _, header in kept] == 3 * [{*shards._SPLIT}]
    assert ["x" in header.metadata for _, header in kept] == [True, False, False]


def test_files_of_more_tensors_together_than_one_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Parts(split(tiny_llama(TinyLlama(n_vocab=320)), 3, "m"), 0)
    assert asyncio.run(read_model(made.source(name(0, 3))))
    monkeypatch.setattr(shards, "MAX_TENSORS", 5)
    with pytest.raises(ModelFileError, match=r"some of which have \d+ tensors together, more than the 5 that"):
        asyncio.run(read_model(made.source(name(0, 3))))
