"""Models in several files, as llama-gguf-split makes them: `NAME-00001-of-00003.gguf`.

The first file holds the metadata; each holds tensors, and tells which part it is (`split.no`, from 0), of how many
(`split.count`), and how many tensors there are in all (`split.tensors.count`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from llamaweb.errors import BrokenCopyError, DownloadError, ModelFileError, UnsupportedError, megabytes, short
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import MAX_DIMS, MAX_NAME_BYTES, MAX_TENSORS, GGUFFile, TensorInfo, read_header
from llamaweb.model.room import Room
from llamaweb.model.source import Source

MAX_SHARDS = 1 << 10
MAX_REST = 64 << 20  # bytes behind a file's last tensor that may be more than all before them
_AT_ONCE = 8  # files whose headers are read side by side

# The most bytes of a header behind the first, for each of its tensors and for the keys that tell which part it is.
_TENSOR_BYTES = 8 + MAX_NAME_BYTES + 4 + 8 * MAX_DIMS + 4 + 8
_PART_BYTES = 4 << 10

_SPLIT = ("split.no", "split.count", "split.tensors.count")
_NAME = re.compile(r"(?s)(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")

S = TypeVar("S", bound=Source)


def shard_names(name: str) -> list[str]:
    """The names of all the files of a split model, given one of them; just `name` if it is not named as one."""
    found = _NAME.fullmatch(name)
    if not found or not 0 < int(found[2]) <= int(found[3]) <= MAX_SHARDS:
        return [name]
    return [f"{found[1]}-{number:05}-of-{found[3]}.gguf" for number in range(1, int(found[3]) + 1)]


def first_shard(names: Sequence[str]) -> str:
    """The first of names that are files of one model; raises ModelFileError if they are not."""
    first = min(names)
    if foreign := [name for name in names if name not in shard_names(first)]:
        raise ModelFileError(f"{foreign[0]} and {first} are not parts of one model; choose one model.")
    return first


async def read_model(
    source: S, progress: Callable[[int], None] | None = None, opened: Callable[[S], None] = lambda _: None
) -> tuple[GGUFFile, list[S]]:
    """The header of a model, its tensors as `unfused` has them, and its files, in the order of TensorInfo.shard;
    `source` is any of them.

    The others are `source`'s siblings, and `opened` is told each before it is read. Raises ModelFileError if one is
    missing or of another model, and what `read_header` raises; none is read any more then.
    """
    header = await _header(source, progress)
    count = _number(source, header, "split.count", 1)
    if count <= 1:
        return unfused(header), [source]
    own = _number(source, header, "split.no", 0)
    names = shard_names(source.name)
    if len(names) != count or names[own : own + 1] != [source.name]:
        should = f"…-{own + 1:05}-of-{count:05}.gguf"
        raise ModelFileError(f"{source.name} is part {own + 1} of {count} of a model; name its files {should} again.")
    parts: dict[int, tuple[S, GGUFFile]] = {own: (source, header)}
    if own:
        parts[0] = await _open(source, names, 0, opened)
    room = _room(*parts[0], count)
    if own:
        room.take(header.data_offset, source.name, "its header")
        parts[own] = source, _apart(header)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def read(number: int) -> None:
        async with turns:
            parts[number] = await _open(source, names, number, opened, room)
            tensors = sum(len(header.tensors) for _, header in parts.values())
            if tensors > MAX_TENSORS:
                raise ModelFileError(
                    f"{source.name} is one of {count} files, some of which have {tensors} tensors together, more than "
                    f"the {MAX_TENSORS} that a sound model may have; fetch or convert it again."
                )

    reading = [asyncio.ensure_future(read(number)) for number in range(count) if number not in parts]
    try:
        await asyncio.gather(*reading)
    except BaseException:
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
        raise
    shards = [parts[number] for number in range(count)]
    return unfused(_merged(shards)), [source for source, _ in shards]


def _room(source: Source, first: GGUFFile, count: int) -> Room:
    """For the headers of all files but the first. They have entries of tensors, of which the first tells how many there
    are, and keys that tell which part they are; and if some of its metadata are there again, not in each."""
    tensors = min(max(_number(source, first, "split.tensors.count", 0), 0), MAX_TENSORS)
    most = first.data_offset + tensors * _TENSOR_BYTES + count * (_PART_BYTES + first.alignment)
    return Room(most, f"the headers of the {count - 1} files behind the first, which tell of {tensors} tensors in all,")


async def _header(source: Source, progress: Callable[[int], None] | None = None, room: Room | None = None) -> GGUFFile:
    try:
        header = await read_header(source, progress, room)
        _check_rest(source, header)
        return header
    except (ModelFileError, UnsupportedError) as error:  # what is damaged may look like what is not supported
        source.sound = isinstance(error, DownloadError)
        raise


def _check_rest(source: Source, header: GGUFFile) -> None:
    """A file is read, and kept, to its end: what is no part of the model must not be most of that."""
    if header.size - header.end > max(header.end, MAX_REST):
        raise ModelFileError(
            f"{source.name} has {megabytes(header.size)}, of which its header tells {megabytes(header.end)}: most "
            "of it is no part of a model; fetch it again."
        )


async def _open(
    source: S, names: list[str], number: int, opened: Callable[[S], None], room: Room | None = None
) -> tuple[S, GGUFFile]:
    """A file, and its header; of one behind the first, for which there is `room`, as `_apart` has it."""
    try:
        shard = source.sibling(names[number])
        opened(shard)
        header = await _header(shard, room=room)
        return shard, _apart(header) if room else header
    except BrokenCopyError:
        raise  # of which nobody is told if it is fetched again
    except ModelFileError as error:
        raise ModelFileError(
            f"{source.name} is one of {len(names)} files, and {names[number]} cannot be read: {error}"
        ) from error


def _apart(header: GGUFFile) -> GGUFFile:
    """The header of a file behind the first, of whose metadata nobody asks for more than which file it is."""
    return replace(header, metadata={key: value for key, value in header.metadata.items() if key in _SPLIT})


def _merged(shards: Sequence[tuple[Source, GGUFFile]]) -> GGUFFile:
    first = shards[0][1]
    total = _number(*shards[0], "split.tensors.count", -1)
    tensors: dict[str, TensorInfo] = {}
    for number, (source, header) in enumerate(shards):
        told = [_number(source, header, key, -1) for key in _SPLIT]
        if told != [number, len(shards), total]:
            says = f"part {told[0] + 1} of {told[1]} with {told[2]} tensors in all" if told[1] > 1 else "a whole model"
            raise ModelFileError(
                f"{source.name} is not of this model: it says it is {says}, not part {number + 1} of {len(shards)} "
                f"with {total}; fetch it again."
            )
        for info in header.tensors.values():
            if info.name in tensors:
                other = shards[tensors[info.name].shard][0].name
                raise ModelFileError(
                    f"The tensor {short(info.name, 72)} is in {other} and in {source.name}, which are not of one "
                    "model; fetch them again."
                )
            tensors[info.name] = replace(info, shard=number)
    if len(tensors) != total:
        raise ModelFileError(
            f"The {len(shards)} files of {shards[0][0].name} have {len(tensors)} tensors in all, not the {total} that "
            "they tell; fetch them again."
        )
    return replace(first, tensors=tensors, size=sum(header.size for _, header in shards))


def _number(source: Source, header: GGUFFile, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if not isinstance(value, int):
        raise ModelFileError(f"{source.name} is damaged: {key} is {short(value)}, not a number; fetch it again.")
    return value
