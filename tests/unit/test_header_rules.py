"""The sentences and limits of the header's reader, each at its edge, on files of some hundred bytes."""

from __future__ import annotations

import asyncio
import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType

from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile, TensorInfo, _equal, plain_shape, read_header
from llamaweb.model.source import BytesSource

U32, F32, STRING, ARRAY, BOOL = (GGUFValueType[name] for name in ("UINT32", "FLOAT32", "STRING", "ARRAY", "BOOL"))
MOST_NAME = 1024


def parse(data: bytes) -> GGUFFile:
    return asyncio.run(read_header(BytesSource(data, "m.gguf")))


def said(data: bytes) -> str:
    with pytest.raises((ModelFileError, UnsupportedError)) as caught:
        parse(data)
    return str(caught.value)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes = b"w", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def made(keys: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: int = 0, align: int = 32) -> bytes:
    file = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return file + bytes(-len(file) % align + data) if data else file


FIELDS = (  # what is read, from which byte on, and how many
    ("the version", 4, 4),
    ("the number of tensors", 8, 8),
    ("the number of metadata keys", 16, 8),
)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field[0])
def test_the_beginning_that_is_cut_off_is_named_with_what_is_missing(field: tuple[str, int, int]) -> None:
    what, at, length = field
    for size in range(at, at + length):
        assert said(made()[:size]) == (
            f"m.gguf is cut off or damaged: {what} needs {length} bytes at byte {at}, but the file has {size}; "
            "fetch it again."
        )


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (key(b"k", ARRAY, struct.pack("<IQ", U32, 2) + bytes(8)), "'k'"),
        (key(b"k", STRING, text(b"abcdef")), "'k'"),
        (key(b"k", BOOL, b"\1"), "'k'"),
        (tensor(shape=(8, 1, 1, 4)), "'w'"),
    ],
)
def test_a_key_or_a_tensor_that_is_cut_off_is_named(part: bytes, name: str) -> None:
    """In whichever of its fields: by its name as soon as that is there."""
    whole, least = (made((part,)), 14) if name == "'k'" else (made((), (part,)), 41)
    for size in range(24 + least, len(whole)):
        found = said(whole[:size])
        assert f"damaged: {name} needs " in found or f" values in {name}, but only " in found, found


@pytest.mark.parametrize("number", [8, 16, 1 << 16])
def test_alignments_from_8_to_65536_are_taken(number: int) -> None:
    file = parse(made((key(b"general.alignment", U32, struct.pack("<I", number)),), (tensor(),), 128, number))
    assert (file.alignment, file.data_offset % number, file.tensors["w"].offset) == (number, 0, file.data_offset)


@pytest.mark.parametrize("number", [0, 1, 4, 12, 24, 65_537, 1 << 17])
def test_another_alignment_is_refused(number: int) -> None:
    data = made((key(b"general.alignment", U32, struct.pack("<I", number)),))
    assert said(data) == (
        f"m.gguf is damaged: general.alignment is {number}, not a power of two from 8 to 65536; "
        "fetch or convert it again."
    )


def test_versions_that_are_not_supported_are_told_from_the_other_byte_order() -> None:
    for version, order in ((0, "<"), (1, "<"), (4, "<"), (0x10000, "<"), (1, ">"), (3, ">"), (0xFFFF, ">")):
        found = said(b"GGUF" + struct.pack(f"{order}I", version) + bytes(16))
        if order == ">" or version == 0x10000:  # which is 256 in the other order
            assert found == "m.gguf is big-endian; convert the model to a little-endian GGUF."
        else:
            assert found.startswith(f"m.gguf is GGUF version {version}, but only 2 and 3 are supported; convert the")
    assert "is GGUF version 256, but" in said(b"GGUF" + struct.pack(">I", 0x10000) + bytes(16))


def test_names_go_up_to_their_limit_and_texts_need_not_be_utf_8() -> None:
    name = b"n" * MOST_NAME
    file = parse(made((key(name, STRING, text(b"a\xff")),), (tensor(name),), 128))
    assert file.metadata == {name.decode(): "a\ufffd"} and list(file.tensors) == [name.decode()]
    assert "at most 1024 bytes" in said(made((key(name + b"n", STRING, text(b"")),)))
    assert said(made((key(b"\xff\xfe", STRING, text(b"a")),))) == (
        "m.gguf is damaged: a metadata key is not UTF-8: b'\\xff\\xfe'; fetch or convert it again."
    )
    assert f"'{'k' * 68}..." in said(made((key(b"k" * 90, 99, bytes(8)),)))
    assert f"'{'k' * 70}' has" in said(made((key(b"k" * 70, 99, bytes(8)),)))


def test_an_array_may_fill_the_file_to_its_last_byte_and_hold_empty_texts() -> None:
    for kind, items in ((STRING, text(b"") * 3), (U32, bytes(12)), (BOOL, b"\0\1\0")):
        found = parse(made((key(b"k", ARRAY, struct.pack("<IQ", kind, 3) + items),))).metadata["k"]
        assert len(found) == 3
    for truth in (2, 88, 255):
        assert "truth value" in said(made((key(b"k", BOOL, bytes([truth])),)))


def test_the_table_of_tensors_ends_with_zeros_only() -> None:
    data = bytearray(made((), (tensor(),), 128))
    assert parse(bytes(data)).tensors["w"].nbytes == 128
    for odd in (1, ord("X")):
        data[60] = odd  # between the table and the data
        assert "goes on behind the 1 that it claims" in said(bytes(data))


def test_shapes_of_one_to_four_dimensions_lose_the_ones_at_their_end() -> None:
    for shape, plain in (((1,), (1,)), ((1, 1), (1,)), ((32, 1), (32,)), ((32, 1, 1, 1), (32,)), ((1, 32), (1, 32))):
        assert plain_shape(shape) == plain
    for shape in ((4, 1, 2), (2, 2, 2, 4), (1, 1, 1, 32), (4, 2)):
        assert plain_shape(shape) == shape and parse(made((), (tensor(shape=shape),), 128)).tensors["w"].shape == shape


def test_values_are_equal_only_in_kind_and_content_and_nan_equals_nan() -> None:
    nan = float("nan")
    assert _equal(nan, nan) and _equal(1, 1) and _equal(np.arange(2), np.arange(2))
    for a, b in ((nan, 1.0), (1.0, nan), (1, True), (1, 1.0), (np.arange(2), [0, 1]), ("a", "b")):
        assert not _equal(a, b)


def stacked(
    rows: int, row: tuple[int, ...] = (32,), kind: str = "F32", more: str = "", layer: str = "blk.0"
) -> set[str]:
    """The tensors of a file with attn_qkv of so many rows, whose attn_output takes 8 values."""
    types = GGMLQuantizationType
    tensors = [
        TensorInfo(f"{layer}.attn_qkv.weight", types[kind], (*row, rows), 0, 4 * 32 * rows),
        TensorInfo(f"{layer}.attn_output.weight", types.F32, (8, 64), 1 << 20, 4 * 512),
        *([TensorInfo(more, types.F32, (1,), 2 << 20, 4)] if more else []),
    ]
    file = unfused(GGUFFile(3, {}, {info.name: info for info in tensors}, 32, 0, 4 << 20))
    return set(file.tensors) - {f"{layer}.attn_output.weight", more}


def test_rows_are_taken_apart_where_they_come_out_and_else_left() -> None:
    whole, parts = {"blk.0.attn_qkv.weight"}, {f"blk.0.attn_{part}.weight" for part in "qkv"}
    assert stacked(10) == stacked(12) == stacked(10, kind="Q4_0") == stacked(10, row=()) == parts
    for left in (stacked(8), stacked(9), stacked(11), stacked(6), stacked(10, (32, 2)), stacked(10, (4, 2, 2))):
        assert left == whole
    assert stacked(64, row=(), kind="Q4_0") == whole, "values of a block cannot be taken apart"
    assert stacked(10, more="blk.0.attn_k.weight") == whole
    assert stacked(10, more="blk.0.attn_k.bias") == parts
