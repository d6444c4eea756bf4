"""What a user may give as a model in the page, as a source. Weights stream from it past the wasm heap."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Self

import js
from pyodide.ffi import JsException, JsProxy

from llamaweb.errors import ModelFileError, short
from llamaweb.files.blob_source import (
    BlobSource,
    array_source,
    bytes_source,
    file_source,
    path_source,
    response_source,
    stream_source,
)
from llamaweb.files.cached_source import CachedSource
from llamaweb.files.url_source import UrlSource
from llamaweb.model.shards import first_shard
from llamaweb.model.source import Source, file_name


class StreamingSource(Source, Protocol):
    """A source that also streams in JavaScript."""

    async def stream(self, offset: int) -> Any:
        """A reader of the bytes from `offset` to the file's end, as a ReadableStream gives one: read() and cancel()."""

    async def close(self) -> None:
        """Ends what goes on; the source is not used again."""

    def again(self) -> Self:
        """The same as it was before it was read: from the browser's storage, if it has come to be there."""


def open_source(model: Any, *, cache: bool | str = True, sha256: str | None = None) -> StreamingSource:
    """A source for what a user gives: a URL, a File or Blob of the page, a file handle of the browser's storage, a list
    of these that are one model, the bytes of an array or buffer of JavaScript or Python, a Response, a ReadableStream,
    a path or an open file of Python's, or a source itself. Raises ModelFileError that names what is none of these. Of
    what may have no end (a Response, a ReadableStream, a URL of no told length) as much is read as the model's own
    header tells.

    cache: keep the files of URLs in the browser's storage; "only" takes what is kept, and asks no server. sha256: of a
    URL's file, in hex.
    """
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ModelFileError(f"{short(sha256)} is no SHA-256; give its 64 digits in hex, or leave sha256 out.")
    if isinstance(model, str):
        if not model.strip():  # it would be the page's own
            raise ModelFileError("The address of the model is empty; give a URL.")
        source = UrlSource(model)
        return CachedSource(source, {source.url: sha256.lower()} if sha256 else {}, bool(cache), only=cache == "only")
    if sha256:
        raise ModelFileError("A checksum is for the file of an address; leave sha256 out.")
    try:
        return _source(model, cache)
    except JsException as error:  # of an object that lets nobody look at it, as a revoked Proxy
        raise ModelFileError(f"What was given cannot be read as a model ({error}); give {_MODEL}.") from error


def _source(model: Any, cache: bool | str) -> StreamingSource:
    """What is no text."""
    kind = _kind(model)
    if kind in ("ArrayBuffer", "SharedArrayBuffer", "DataView") or kind.endswith(_ARRAYS):
        return array_source(model)
    if kind == "Response":
        return response_source(model)
    if kind == "ReadableStream":
        return stream_source(model)
    if kind in ("Promise", "coroutine", "PyodideFuture", "Future"):
        raise ModelFileError("The model is still to come (a Promise or coroutine); await it first.")
    if kind in _INSTEAD:
        raise ModelFileError(f"A {kind} is no model; give {_INSTEAD[kind]}.")
    if hasattr(model, "arrayBuffer") or hasattr(model, "getFile"):
        return BlobSource(model)
    if hasattr(model, "stream") and hasattr(model, "read"):
        return model
    if isinstance(model, PathLike):
        return path_source(model)
    if _has_buffer(model):
        return bytes_source(model)
    if hasattr(model, "read"):
        return file_source(model, Path(str(getattr(model, "name", "the file"))).name)
    if hasattr(model, "__iter__") and not isinstance(model, Mapping):
        return _together(list(model), cache)
    raise ModelFileError(f"A model is {_MODEL}, not {_named(kind)}.")


_MODEL = "a URL, a file of the page, bytes, a Response or a ReadableStream"
_ARRAYS = tuple(f"{name}Array" for name in ("Int8", "Uint8", "Uint8Clamped", "Int16", "Uint16", "Int32", "Uint32"))
_ARRAYS += ("Float16Array", "Float32Array", "Float64Array", "BigInt64Array", "BigUint64Array")
_INSTEAD = {
    "URL": "its href",
    "Request": "its URL, or await fetch(request)",
    "FileSystemDirectoryHandle": "the handles of its files",
    "DataTransferItem": "what its getAsFile() gives",
    "DataTransferItemList": "the files of the DataTransfer",
    "DataTransfer": "its files",
    "HTMLInputElement": "its files",
    "XMLHttpRequest": "its response",
    "WebSocket": "a URL of https:",
}


def _kind(model: Any) -> str:
    """What a thing calls itself: the name of its JavaScript class, or of its Python type."""
    if not isinstance(model, JsProxy):
        return type(model).__name__
    return str(js.Object.prototype.toString.call(model))[8:-1]


def _named(kind: str) -> str:
    return {"NoneType": "None", "JsNull": "null", "JsUndefined": "undefined"}.get(kind, f"a {kind}")


def _has_buffer(model: Any) -> bool:
    try:
        memoryview(model).release()
    except TypeError:
        return False
    return True


def _of_the_page(model: Any) -> bool:
    """Whether it is a File or a file handle, which have names."""
    return hasattr(model, "name") and (hasattr(model, "arrayBuffer") or hasattr(model, "getFile"))


def _together(models: list[Any], cache: bool | str) -> StreamingSource:
    if not models:
        raise ModelFileError("There is no file in the list; choose a GGUF file.")
    if len({isinstance(model, str) for model in models}) > 1 or not all(
        isinstance(model, str) or _of_the_page(model) for model in models
    ):
        raise ModelFileError("The files of one model are all addresses, or all files of the page; give them alike.")
    by_name: dict[str, Any] = {}
    for model in models:
        name = file_name(model) if isinstance(model, str) else str(model.name)
        if name in by_name:
            raise ModelFileError(f"Two of the files are named {name}; give each file of one model once.")
        by_name[name] = model
    first = first_shard(list(by_name))
    if isinstance(by_name[first], str):
        return CachedSource(UrlSource(by_name[first], beside=by_name), keep=bool(cache), only=cache == "only")
    return BlobSource(by_name[first], first, by_name)
