"""How long a model's file is, told by its beginning: for servers that do not say, and might never end."""

from __future__ import annotations

from typing import Self

from llamaweb.errors import LlamaWebError, ModelFileError
from llamaweb.model.gguf_file import MAGIC, MAX_HEADER_BYTES, read_header

_ENDLESS = 1 << 62


class _Beginning:
    """A file of which only the beginning is there; what follows is read as zeros."""

    sound = True

    def __init__(self, data: bytes) -> None:
        self.name = "the file"
        self.read_on = False
        self._data = data

    async def size(self) -> int:
        return _ENDLESS

    async def read(self, offset: int, length: int) -> bytes:
        found = self._data[offset : offset + length]
        self.read_on = self.read_on or len(found) < length
        return found.ljust(length, b"\0")

    def sibling(self, name: str) -> Self:
        raise ModelFileError("there is nothing beside it.")


async def length_told(beginning: bytes) -> int | None:
    """Bytes up to the end of the last tensor; None if more of the file must be known for that. What is no sound model
    is as long as what has come: that is enough to say what is wrong with it."""
    if not beginning.startswith(MAGIC[: len(beginning)]):
        return len(beginning)
    source = _Beginning(beginning)
    try:
        file = await read_header(source)
    except LlamaWebError:
        return len(beginning) if not source.read_on or len(beginning) > MAX_HEADER_BYTES else None
    if file.data_offset > len(beginning):
        return None
    return file.end
