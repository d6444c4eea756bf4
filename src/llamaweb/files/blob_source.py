"""A File or Blob of the page, or Python bytes, as the source of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import js
from pyodide.ffi import JsException, to_js

from llamaweb.errors import DownloadError, ModelFileError
from llamaweb.javascript import js_file
from llamaweb.model.source import check_range


class BlobSource:
    """A File, a Blob or the handle of a file; `beside` are the files that were given with it, by name, which the other
    parts of a split model are looked for in."""

    sound = True

    def __init__(self, blob: Any, name: str | None = None, beside: Mapping[str, Any] = {}) -> None:
        self.name = name or str(getattr(blob, "name", None) or "the file")
        self._handle = blob if hasattr(blob, "getFile") else None
        self._blob = None if self._handle else blob
        self._beside = beside

    async def size(self) -> int:
        return int((await self._file()).size)

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, await self.size())
        try:
            buffer = await (await self._file()).slice(offset, offset + length).arrayBuffer()
        except JsException as error:
            raise read_error(error, self.name) from None
        return buffer.to_bytes()

    async def stream(self, offset: int) -> Any:
        return js_file("files/through.js")((await self._file()).slice(offset).stream())

    def sibling(self, name: str) -> Self:
        if name not in self._beside:
            raise ModelFileError("it was not among the files that were given; choose all of them together.")
        return type(self)(self._beside[name], name, self._beside)

    async def close(self) -> None:
        close = getattr(self._blob, "close", None)  # of a file of the browser's storage, see opfs.js
        if close:
            close()

    def again(self) -> Self:
        return type(self)(self._handle or self._blob, self.name, self._beside)

    async def _file(self) -> Any:
        if self._blob is None and self._handle:
            try:
                self._blob = await self._handle.getFile()
            except JsException as error:
                raise read_error(error, self.name) from None
        return self._blob


def bytes_source(data: bytes | bytearray | memoryview, name: str = "the bytes") -> BlobSource:
    """Python bytes, which leave the WebAssembly heap at once."""
    return BlobSource(js.Blob.new(to_js([to_js(memoryview(data))])), name)


def read_error(error: JsException, name: str) -> ModelFileError:
    """What reading `name` in JavaScript threw, as a person should read it."""
    if getattr(error, "name", "") == "DownloadError":
        return DownloadError(str(error.message))
    return ModelFileError(f"{name} cannot be read to its end ({error}); give it again.")
