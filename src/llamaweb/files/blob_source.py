"""A File or Blob of the page, or what becomes one, as the source of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Self

import js
from pyodide.ffi import JsException, create_proxy, to_js

from llamaweb.errors import BrokenCopyError, DownloadError, ModelFileError
from llamaweb.javascript import js_file
from llamaweb.model.source import check_range, file_name

_PIECE = 16 << 20  # bytes


class BlobSource:
    """A File, a Blob or the handle of a file; `beside` are the files that were given with it, by name, which the other
    parts of a split model are looked for in. made: gives the blob where there is none yet, and is called once."""

    sound = True

    def __init__(
        self,
        blob: Any,
        name: str | None = None,
        beside: Mapping[str, Any] = {},
        made: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self.name = name or str(getattr(blob, "name", None) or "the file")
        self._handle = blob if hasattr(blob, "getFile") else None
        self._blob = None if self._handle else blob
        self._beside = beside
        self._made = made

    async def size(self) -> int:
        return int((await self._file()).size)

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, await self.size())
        try:
            buffer = await (await self._file()).slice(offset, offset + length).arrayBuffer()
        except JsException as error:
            raise self.failed(error) from None
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
        return type(self)(self._handle or self._blob, self.name, self._beside, self._made)

    def failed(self, error: JsException) -> ModelFileError:
        """What is said where it cannot be read."""
        return read_error(error, self.name)

    async def _file(self) -> Any:
        make = self._made or (self._handle and self._handle.getFile)
        if self._blob is None and make:
            try:
                self._blob = await make()
            except JsException as error:
                raise read_error(error, self.name) from None
        return self._blob


def bytes_source(data: Any, name: str = "the bytes") -> BlobSource:
    """Python bytes, or what else has Python's buffers, which leave the WebAssembly heap at once."""
    view = memoryview(data)
    plain = view.cast("B") if view.contiguous and view.nbytes else memoryview(view.tobytes())
    return BlobSource(js.Blob.new(to_js([to_js(plain)])), name)


def file_source(file: BinaryIO, name: str) -> BlobSource:
    """An open file of Python's, from where it stands to its end, which passes the heap in pieces."""
    pieces = []
    try:
        while data := file.read(_PIECE):
            if not isinstance(data, bytes | bytearray | memoryview):
                raise ModelFileError(f"{name} gives {type(data).__name__}, not bytes; open it with mode 'rb'.")
            pieces.append(js.Blob.new(to_js([to_js(memoryview(data))])))
    except ValueError as error:  # of one that is closed
        raise ModelFileError(f"{name} cannot be read ({error}); open it again.") from error
    return BlobSource(js.Blob.new(to_js(pieces)), name)


def path_source(path: PathLike[str]) -> BlobSource:
    """A file of Python's own file system. Raises ModelFileError."""
    try:
        with Path(path).open("rb") as file:
            return file_source(file, Path(path).name)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read in Python's file system ({error.strerror}); an address is given as text."
        ) from error


def array_source(array: Any) -> BlobSource:
    """The bytes of an ArrayBuffer or of a view of one, of any type."""
    try:
        blob = js.Blob.new(to_js([array]))
    except JsException:  # of memory that is shared
        blob = js.Blob.new(to_js([js.Uint8Array.new(getattr(array, "buffer", array)).slice()]))
    return BlobSource(blob, "the bytes")


def response_source(response: Any) -> BlobSource:
    """The answer of a fetch, or a ReadableStream as the body of one. The browser has what is read of it in a blob: as
    much as the model's own header tells, whatever comes behind that."""
    name = file_name(str(response.url)) if response.url else "the stream"
    if response.type == "opaque":
        raise ModelFileError(f"The answer for {name} is opaque (it was fetched with mode 'no-cors'); give its URL.")
    if not response.ok:
        answered = f"{response.status} {response.statusText}".strip()
        raise ModelFileError(f"{response.url or 'The server'} answered {answered}; check the address.")
    if response.bodyUsed or (response.body and response.body.locked):
        raise ModelFileError(f"{name} was read already, or is being read; give one that nobody has read from.")
    blob: asyncio.Future[Any] | None = None

    async def made() -> Any:
        nonlocal blob
        blob = blob or asyncio.ensure_future(_whole(response))
        return await blob

    return BlobSource(None, name, made=made)


async def _whole(response: Any) -> Any:
    """The model in an answer's body, as a Blob."""
    if not response.body:  # which an answer of no bytes may lack
        return js.Blob.new()
    reader, length = response.body.getReader(), create_proxy(model_length)
    try:
        return await js_file("files/whole.js")(reader, length, _PIECE)
    finally:
        length.destroy()
        with suppress(JsException):  # of a stream that failed, which is told
            await reader.cancel()


async def model_length(beginning: Any) -> int | None:
    """How long a model is, by its beginning in an ArrayBuffer; None if more of it must be there for that."""
    from llamaweb.model.length import length_told  # imports numpy, which is not needed for files

    return await length_told(beginning.to_bytes())


def stream_source(stream: Any) -> BlobSource:
    """A ReadableStream of bytes."""
    if stream.locked:
        raise ModelFileError("The stream is being read by somebody else; give one that nobody has read from.")
    try:
        return response_source(js.Response.new(stream))
    except JsException as error:
        raise read_error(error, "the stream") from None


def read_error(error: JsException, name: str) -> ModelFileError:
    """What reading `name` in JavaScript threw, as a person should read it."""
    if getattr(error, "name", "") == "DownloadError":
        return DownloadError(str(error.message), getattr(error, "status", None))
    if getattr(error, "name", "") == "BrokenCopyError":
        return broken_copy(name, str(error.message))
    return ModelFileError(f"{name} cannot be read to its end ({error}); give it again.")


def broken_copy(name: str, reason: str) -> BrokenCopyError:
    """What is said of a kept file that cannot be read."""
    return BrokenCopyError(
        f"What the browser's storage has of {name} cannot be read to its end ({reason}), and is given up; load it "
        "again.",
        name,
    )
