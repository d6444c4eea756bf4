"""Bytes of a model in the page: a URL, a file of the user, or Python bytes. Weights stream past the wasm heap."""

from __future__ import annotations

from typing import Any, Protocol

import js
from pyodide.ffi import JsException, to_js

from llamaweb.errors import ModelFileError
from llamaweb.gpu.javascript import js_object
from llamaweb.model.source import Source


class StreamingSource(Source, Protocol):
    """A source that also gives a JavaScript ReadableStream of a range."""

    async def stream(self, offset: int, length: int) -> Any: ...


class BlobSource:
    """A File or Blob of the page."""

    def __init__(self, blob: Any) -> None:
        self._blob = blob
        self.name = str(getattr(blob, "name", None) or "the file")

    async def size(self) -> int:
        return int(self._blob.size)

    async def read(self, offset: int, length: int) -> bytes:
        _check(self.name, offset, length, await self.size())
        try:
            buffer = await self._blob.slice(offset, offset + length).arrayBuffer()
        except JsException as error:
            raise ModelFileError(f"{self.name} cannot be read ({error}); choose it again.") from None
        return buffer.to_bytes()

    async def stream(self, offset: int, length: int) -> Any:
        return self._blob.slice(offset, offset + length).stream()


class UrlSource:
    """A URL, read in ranges; where the server does not serve ranges, the whole file is fetched once."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/").rsplit("/", 1)[-1].split("?")[0] or url
        self._url = url
        self._size: int | None = None
        self._whole: BlobSource | None = None

    async def size(self) -> int:
        if self._size is None:
            response = await self._fetch(0, 1)
            if response.status == 206:
                total = (response.headers.get("Content-Range") or "").rsplit("/", 1)[-1]
                if not total.isdigit():
                    raise ModelFileError(f"The server of {self.name} does not tell the file's size; use another one.")
                self._size = int(total)
                await response.arrayBuffer()
            else:
                self._whole = BlobSource(await response.blob())
                self._size = await self._whole.size()
        return self._size

    async def read(self, offset: int, length: int) -> bytes:
        _check(self.name, offset, length, await self.size())
        if self._whole:
            return await self._whole.read(offset, length)
        if not length:
            return b""
        data = (await (await self._fetch(offset, length)).arrayBuffer()).to_bytes()
        if len(data) != length:
            raise ModelFileError(f"{self.name} gave {len(data)} of {length} bytes; try again.")
        return data

    async def stream(self, offset: int, length: int) -> Any:
        _check(self.name, offset, length, await self.size())
        if self._whole:
            return await self._whole.stream(offset, length)
        return (await self._fetch(offset, length)).body

    async def _fetch(self, offset: int, length: int) -> Any:
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            response = await js.fetch(self._url, js_object({"headers": headers}))
        except JsException as error:
            raise ModelFileError(
                f"{self._url} cannot be fetched ({error}); check the address and the network."
            ) from None
        if response.status not in (200, 206) or (response.status == 200 and self._size is not None):
            raise ModelFileError(f"{self._url} answered {response.status} {response.statusText}; check the address.")
        return response


class PageBytesSource:
    """Python bytes; they are in the WebAssembly heap already."""

    def __init__(self, data: bytes, name: str = "bytes") -> None:
        self.name = name
        self._data = data

    async def size(self) -> int:
        return len(self._data)

    async def read(self, offset: int, length: int) -> bytes:
        _check(self.name, offset, length, len(self._data))
        return self._data[offset : offset + length]

    async def stream(self, offset: int, length: int) -> Any:
        return js.Blob.new(to_js([to_js(memoryview(self._data)[offset : offset + length])])).stream()


def open_source(model: Any) -> StreamingSource:
    """A source for what a user gives: a URL, a File or Blob of the page, Python bytes, or a source itself."""
    if isinstance(model, str):
        return UrlSource(model)
    if isinstance(model, (bytes, bytearray, memoryview)):
        return PageBytesSource(bytes(model))
    if hasattr(model, "arrayBuffer"):
        return BlobSource(model)
    if hasattr(model, "stream") and hasattr(model, "read"):
        return model
    raise ModelFileError(f"A model is a URL, a file of the page or bytes, not {type(model).__name__}.")


def _check(name: str, offset: int, length: int, size: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelFileError(
            f"{name} is cut off: bytes {offset} to {offset + length} are needed, the file has {size}; fetch it again."
        )
