"""A header is read in pieces: as large as what is needed, else no larger than bounds, each byte once."""

from __future__ import annotations

import asyncio
import struct

import gguf
import pytest

from llamaweb.errors import ModelFileError
from llamaweb.model.gguf_file import FIRST_READ, LARGEST_READ, GGUFFile, plain_shape, read_header
from llamaweb.model.source import BytesSource

STRING, ARRAY = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)


def text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def model(value: bytes, *offsets: int, length: int = 64) -> bytes:
    """A file with the value under the key "k", and tensors of `length` bytes at offsets."""
    data = struct.pack("<4sIQQ", b"GGUF", 3, len(offsets), 1) + text(b"k") + value
    for offset in offsets:
        kind = gguf.GGMLQuantizationType.I8
        data += text(f"t{offset}".encode()) + struct.pack("<IQIQ", 1, length, kind, offset)
    return data.ljust(-(-len(data) // 32) * 32, b"\0") + bytes(max(offsets, default=0) + length)


class Recording(BytesSource):
    def __init__(self, data: bytes, short: int = 0) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []
        self._short = short

    async def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return (await super().read(offset, length))[: length - self._short]


def read(data: bytes, **how: int) -> tuple[GGUFFile, list[int]]:
    """The header, and how many bytes were read at once."""
    source = Recording(data, **how)
    header = asyncio.run(read_header(source))
    ends = [0, *(offset + length for offset, length in source.reads)]
    assert [offset for offset, _ in source.reads] == ends[:-1]
    return header, [length for _, length in source.reads]


def test_a_vocabulary_of_many_texts_is_read_in_pieces_of_the_largest_read() -> None:
    texts = [bytes([97 + n % 26]) * 100_000 for n in range(90)]
    header, sizes = read(model(struct.pack("<IIQ", ARRAY, STRING, len(texts)) + b"".join(map(text, texts)), 0))
    assert list(header.metadata["k"]) == texts
    assert sizes[:-1] == [FIRST_READ] + [LARGEST_READ] * 3 and sizes[-1] <= LARGEST_READ


def test_a_text_that_is_longer_than_that_is_read_at_once() -> None:
    long = b"x" * (5 << 20)
    header, sizes = read(model(struct.pack("<I", STRING) + text(long), 0))
    assert header.metadata["k"] == long.decode() and sizes[0] == FIRST_READ and len(sizes) <= 3


def test_a_source_that_gives_less_than_was_asked_for_is_told_in_a_sentence() -> None:
    with pytest.raises(ModelFileError, match=r"^bytes gave \d+ bytes where \d+ were asked for; try again\.$"):
        read(model(struct.pack("<I", STRING) + text(b"v"), 0), short=1)


def test_dimensions_of_one_are_left_out_at_a_shapes_end_alone() -> None:
    shapes = {(64, 1, 1): (64,), (1, 64): (1, 64), (2, 1, 3, 1): (2, 1, 3), (1, 1): (1,), (1,): (1,)}
    assert {shape: plain_shape(shape) for shape in shapes} == shapes


@pytest.mark.parametrize(("length", "overlap"), [(32, False), (33, True), (64, True)])
def test_tensors_may_touch_and_not_share_a_byte(length: int, overlap: bool) -> None:
    data = model(struct.pack("<I", STRING) + text(b"v"), 0, 32, length=length)
    if overlap:
        with pytest.raises(ModelFileError, match="the tensors 't0' and 't32' overlap"):
            read(data)
    else:
        assert [tensor.nbytes for tensor in read(data)[0].tensors.values()] == [32, 32]
