"""The header of a GGUF file (versions 2 and 3, little-endian): metadata and tensor table, never the tensors' data.

Nothing in the file is believed before it is checked: a count or a length is compared with the bytes that are left
before anything is allocated for it, so a damaged or malicious file costs a sentence. The layout is described in
ggml's `docs/gguf.md`; the values' types come from the `gguf` package.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGUFValueType

from llamaweb.errors import ModelFileError, UnsupportedError, short
from llamaweb.ggml import GGML_QUANT_SIZES, GGMLType
from llamaweb.model.mistaken import ENOUGH, cut_off, mistaken
from llamaweb.model.room import Room
from llamaweb.model.source import Source
from llamaweb.strings import Strings, StringsBuilder

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMS = 4

# Far above any sound file; they bound the memory that a malicious one can take.
MAX_HEADER_BYTES = 64 << 20
MAX_STRINGS = 4 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 1 << 10
MAX_ALIGNMENT = 1 << 16

# Read in growing pieces: few requests for a large vocabulary, little waste for a small one.
FIRST_READ = 1 << 20
LARGEST_READ = 2 << 20

# The fewest bytes that one entry can take: length, one letter, type, value; and length, letter, dimensions, …, offset.
_MIN_KEY = 8 + 1 + 4 + 1
_MIN_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_NUMBERS: dict[GGUFValueType, np.dtype[Any]] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.BOOL: np.dtype("?"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file; `shape` in ggml's order, the row's length first; `offset` in bytes from the file's start.

    Dimensions of one at a shape's end are left out: to ggml a vector of 64 is a matrix of 64 by 1. The `nbytes` bytes
    lie inside the file and overlap no other tensor's. `shard` counts the files of a split model.
    """

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    shard: int = 0


@dataclass(frozen=True)
class GGUFFile:
    """What a header says, or those of a split model together.

    Strings are str, arrays of strings Strings, arrays of numbers read-only numpy arrays.
    """

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    alignment: int
    data_offset: int
    size: int

    @property
    def architecture(self) -> str:
        """The family, `general.architecture`; raises ModelFileError if the file does not say."""
        name = self.metadata.get("general.architecture")
        if not isinstance(name, str):
            raise ModelFileError("The file does not name its architecture (general.architecture); convert it again.")
        return name

    @property
    def end(self) -> int:
        """Bytes up to the end of the last tensor."""
        return max((tensor.offset + tensor.nbytes for tensor in self.tensors.values()), default=self.data_offset)

    @cached_property
    def digest(self) -> str:
        """Of all that the header says, in hex: what two files have in common that are the same model."""
        found = sha256(repr((self.version, self.size, self.data_offset)).encode())
        for key, value in sorted(self.metadata.items()):
            found.update(key.encode())
            if isinstance(value, np.ndarray):
                found.update(value.dtype.str.encode() + value.tobytes())
            elif isinstance(value, Strings):
                found.update(value.lengths.tobytes() + value.data)
            else:
                found.update(repr(value).encode())
        for tensor in sorted(self.tensors.values(), key=lambda tensor: tensor.name):
            found.update(repr(tensor).encode())
        return found.hexdigest()

    def same_as(self, other: GGUFFile) -> bool:
        """Whether two headers say the same, as those of one file that was read twice do."""
        mine, theirs = self.metadata, other.metadata
        return (
            (self.version, self.data_offset, self.size) == (other.version, other.data_offset, other.size)
            and self.tensors == other.tensors
            and mine.keys() == theirs.keys()
            and all(_equal(value, theirs[key]) for key, value in mine.items())
        )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return type(a) is type(b) and (a == b or (a != a and b != b))  # NaN is no other value than NaN


async def read_header(
    source: Source, progress: Callable[[int], None] | None = None, room: Room | None = None
) -> GGUFFile:
    """Read and check a file's header; `progress` is told how many bytes were read so far, and `room` how many the
    header takes.

    Raises ModelFileError for what is not a sound GGUF file, UnsupportedError for a version, byte order, or tensor
    type that is not supported. A part of a split model is read as it is: see `shards.read_model`.
    """
    cursor = _Cursor(source, await source.size(), progress, room or Room(MAX_HEADER_BYTES, "the header"))
    version = await _version(cursor)
    n_tensors = await cursor.u64("the number of tensors")
    n_keys = await cursor.u64("the number of metadata keys")
    cursor.check_count("metadata keys", n_keys, _MIN_KEY, MAX_KEYS)
    cursor.check_count("tensors", n_tensors, _MIN_TENSOR, MAX_TENSORS)

    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = await cursor.name("a metadata key")
        if key in metadata:
            raise cursor.damaged(f"the metadata key {_quoted(key)} is there twice")
        metadata[key] = await _value(cursor, _quoted(key))
    alignment = _alignment(cursor, metadata)

    found: list[TensorInfo] = []
    names: set[str] = set()
    for _ in range(n_tensors):
        info = await _tensor(cursor, alignment)
        if info.name in names:
            raise cursor.damaged(f"the tensor {_quoted(info.name)} is there twice")
        names.add(info.name)
        found.append(info)
    data_offset = -(-cursor.position // alignment) * alignment
    if (await cursor.peek(data_offset - cursor.position)).strip(b"\0"):
        raise cursor.damaged(f"its table of tensors goes on behind the {n_tensors} that it claims")
    cursor.count(data_offset, "its end")
    _check_overlaps(cursor, found)
    tensors = {info.name: _placed(cursor, info, data_offset) for info in found}
    return GGUFFile(version, metadata, tensors, alignment, data_offset, cursor.size)


async def _version(cursor: _Cursor) -> int:
    start = await cursor.peek(ENOUGH)
    if not start.startswith(MAGIC):
        raise ModelFileError(mistaken(cursor.source.name, start))
    await cursor.take(len(MAGIC), "the magic")
    version = await cursor.u32("the version")
    if version not in VERSIONS:
        if 0 < int.from_bytes(version.to_bytes(4, "little"), "big") <= 0xFFFF:
            raise UnsupportedError(f"{cursor.source.name} is big-endian; convert the model to a little-endian GGUF.")
        raise UnsupportedError(
            f"{cursor.source.name} is GGUF version {version}, but only 2 and 3 are supported; convert the model again."
        )
    return version


async def _value(cursor: _Cursor, key: str) -> Any:
    kind = await _value_type(cursor, key)
    if kind == GGUFValueType.STRING:
        return (await cursor.string(key, cursor.size)).decode(errors="replace")
    if kind == GGUFValueType.ARRAY:
        return await _array(cursor, key)
    return (await _numbers(cursor, key, kind, 1))[0].item()


async def _value_type(cursor: _Cursor, key: str) -> GGUFValueType:
    number = await cursor.u32(key)
    try:
        return GGUFValueType(number)
    except ValueError:
        raise cursor.damaged(f"the metadata key {key} has the unknown value type {number}") from None


async def _array(cursor: _Cursor, key: str) -> Strings | np.ndarray:
    kind = await _value_type(cursor, key)
    count = await cursor.u64(key)
    if kind == GGUFValueType.ARRAY:
        raise cursor.damaged(f"the metadata key {key} is an array of arrays, which no model needs")
    if kind == GGUFValueType.STRING:
        cursor.check_count(f"strings in {key}", count, 8, MAX_STRINGS)
        return await cursor.strings(key, count)
    cursor.check_count(f"values in {key}", count, _NUMBERS[kind].itemsize, MAX_HEADER_BYTES)
    return await _numbers(cursor, key, kind, count)


async def _numbers(cursor: _Cursor, key: str, kind: GGUFValueType, count: int) -> np.ndarray:
    dtype = _NUMBERS[kind]
    data = await cursor.take(count * dtype.itemsize, key)
    if kind == GGUFValueType.BOOL and data.strip(b"\0\1"):
        raise cursor.damaged(f"the metadata key {key} has a truth value that is neither 0 nor 1")
    return np.frombuffer(data, dtype)


def _quoted(name: str) -> str:
    """A key or a tensor's name in a message."""
    return short(name, 72)


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    sound = isinstance(value, int) and 8 <= value <= MAX_ALIGNMENT and value & (value - 1) == 0
    if not sound:
        raise cursor.damaged(f"general.alignment is {short(value)}, not a power of two from 8 to {MAX_ALIGNMENT}")
    return value


async def _tensor(cursor: _Cursor, alignment: int) -> TensorInfo:
    """One entry of the table; its offset is still relative to the data section."""
    name = await cursor.name("a tensor's name")
    quoted = _quoted(name)
    n_dims = await cursor.u32(quoted)
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.damaged(f"the tensor {quoted} has {n_dims} dimensions, not 1 to {MAX_DIMS}")
    shape = struct.unpack(f"<{n_dims}Q", await cursor.take(8 * n_dims, quoted))
    number = await cursor.u32(quoted)
    offset = await cursor.u64(quoted)
    try:
        kind = GGMLType(number)
    except ValueError:
        raise UnsupportedError(
            f"The tensor {quoted} of {cursor.source.name} has the unknown type {number}; "
            "use a model in another quantization."
        ) from None
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape:
        raise cursor.damaged(f"the tensor {quoted} has the shape {shape} with no elements")
    if shape[0] % block:
        raise cursor.damaged(
            f"the rows of the tensor {quoted} have {shape[0]} values, not blocks of {block} ({kind.name})"
        )
    elements = 1
    for length in shape:
        elements *= length
    nbytes = elements // block * block_bytes
    if nbytes > cursor.size:
        raise cursor.damaged(
            f"the tensor {quoted} of shape {shape} ({kind.name}) takes {nbytes} bytes, but the file has {cursor.size}"
        )
    if offset % alignment:
        raise cursor.damaged(f"the offset {offset} of the tensor {quoted} is not a multiple of {alignment}")
    return TensorInfo(name, kind, plain_shape(shape), offset, nbytes)


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as TensorInfo has it: without dimensions of one at its end."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _placed(cursor: _Cursor, info: TensorInfo, data_offset: int) -> TensorInfo:
    start = data_offset + info.offset
    if start + info.nbytes > cursor.size:
        raise ModelFileError(
            f"{cursor.source.name} is cut off: the tensor {_quoted(info.name)} ends at byte {start + info.nbytes}, "
            f"but the file has {cursor.size}; {cut_off(cursor.source.name)}."
        )
    return replace(info, offset=start)


def _check_overlaps(cursor: _Cursor, tensors: list[TensorInfo]) -> None:
    for before, after in pairwise(sorted(tensors, key=lambda info: info.offset)):
        if before.offset + before.nbytes > after.offset:
            overlap = f"the tensors {_quoted(before.name)} and {_quoted(after.name)} overlap"
            if before.type is GGMLType.Q2_0:
                raise UnsupportedError(
                    f"In {cursor.source.name} {overlap}, as where Q2_0 has blocks of 128 weights, of before llama.cpp "
                    'took it up; use a file with blocks of 64 ("g64" in its name).'
                )
            raise cursor.damaged(overlap)


class _Cursor:
    """A place in the file, and the bytes after it that were read already.

    Only `_fill` waits for the source; what is in the buffer is parsed without a pause.
    """

    def __init__(self, source: Source, size: int, progress: Callable[[int], None] | None, room: Room) -> None:
        self.source = source
        self.size = size
        self._progress = progress
        self._room = room
        self._counted = 0  # bytes of the header that have room
        self._buffer = b""
        self._next = 0  # in the buffer
        self._read = 0  # bytes of the file that were read
        self._piece = FIRST_READ

    @property
    def position(self) -> int:
        return self._read - len(self._buffer) + self._next

    def damaged(self, finding: str) -> ModelFileError:
        return ModelFileError(f"{self.source.name} is damaged: {finding}; fetch or convert it again.")

    def check_count(self, what: str, count: int, least: int, most: int) -> None:
        """Refuse a count of things of at least `least` bytes each that the rest of the file cannot hold."""
        left = self.size - self.position
        if count > most:
            raise self.damaged(f"it claims {count} {what}, more than the {most} that a sound file may have")
        if count * least > left:
            raise self.damaged(f"it claims {count} {what}, but only {left} bytes are left")

    async def take(self, length: int, what: str) -> bytes:
        """The next `length` bytes."""
        if len(self._buffer) - self._next < length:
            await self._fill(length, what)
        start = self._next
        self._next = start + length
        return self._buffer[start : self._next]

    async def peek(self, length: int) -> bytes:
        """Up to `length` next bytes, which are not taken."""
        length = min(length, self.size - self.position)
        if len(self._buffer) - self._next < length:
            await self._fill(length, "the beginning")
        return self._buffer[self._next : self._next + length]

    async def u32(self, what: str) -> int:
        return _U32.unpack(await self.take(4, what))[0]

    async def u64(self, what: str) -> int:
        return _U64.unpack(await self.take(8, what))[0]

    async def string(self, what: str, most: int) -> bytes:
        length = await self.u64(what)
        if length > most:
            raise self.damaged(f"the length of {what} is {length}, but at most {most} bytes can be there")
        return await self.take(length, what)

    async def name(self, what: str) -> str:
        """A key or a tensor's name: short UTF-8, not empty."""
        data = await self.string(what, MAX_NAME_BYTES)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8: {short(data)}") from None
        if not text:
            raise self.damaged(f"{what} is empty")
        return text

    async def strings(self, what: str, count: int) -> Strings:
        """`count` strings; hundreds of thousands in a vocabulary, so the loop does as little as it can."""
        found = StringsBuilder()
        while True:
            self._next = _scan_strings(self._buffer, self._next, count, found)
            if len(found) == count:
                return found.strings()
            # The buffer ends inside this string: take it alone, which refills.
            found.append(await self.string(what, self.size))

    def count(self, end: int, what: str) -> None:
        """The header goes on to byte `end`; ModelFileError where it has no room."""
        self._room.take(max(end - self._counted, 0), self.source.name, what)
        self._counted = max(end, self._counted)

    async def _fill(self, length: int, what: str) -> None:
        """Have at least `length` bytes in the buffer after the cursor."""
        start = self.position
        if start + length > self.size:
            raise ModelFileError(
                f"{self.source.name} is cut off or damaged: {what} needs {length} bytes at byte {start}, "
                f"but the file has {self.size}; {cut_off(self.source.name)}."
            )
        self.count(start + length, what)
        wanted = max(start + length - self._read, self._piece)
        wanted = min(wanted, self.size - self._read)
        data = await self.source.read(self._read, wanted)
        if len(data) != wanted:
            raise ModelFileError(f"{self.source.name} gave {len(data)} bytes where {wanted} were asked for; try again.")
        self._buffer = self._buffer[self._next :] + data
        self._next = 0
        self._read += wanted
        self._piece = min(2 * self._piece, LARGEST_READ)
        if self._progress is not None:
            self._progress(self._read)


def _scan_strings(buffer: bytes, start: int, count: int, found: StringsBuilder) -> int:
    """Append the strings that lie in the buffer as a whole, up to `count` in all; returns where it stopped."""
    unpack, append = _U64.unpack_from, found.append
    limit = len(buffer)
    try:
        for _ in range(count - len(found)):
            text = start + 8
            end = text + unpack(buffer, start)[0]
            if end > limit:
                break
            append(buffer[text:end])
            start = end
    except struct.error:  # the buffer ends inside the length
        pass
    return start
