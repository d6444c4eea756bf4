"""A model at a URL, read by download.js: in ranges side by side, resumed after a break, from any server."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import js
from pyodide.ffi import JsException, create_proxy

from llamaweb.errors import DownloadError, ModelChangedError
from llamaweb.files.blob_source import model_length, read_error
from llamaweb.javascript import js_file, js_object
from llamaweb.model.gguf_file import FIRST_READ
from llamaweb.model.source import check_range, file_name, sibling_url
from llamaweb.secrets import without_secrets

_PROTOCOLS = ("https:", "http:", "blob:", "data:")  # what every page's fetch reads


@dataclass(frozen=True)
class Patience:
    """How a download deals with its server: `attempts` that together bring less than `enough` bytes before it gives
    up, a pause of `delay` ms that doubles from one to the next, `stall` ms of silence that count as a break, as do so
    many of less than `slowest` bytes a second, and `parallel` ranges of `range` bytes at once, which bound what is in
    memory."""

    attempts: int = 6
    delay: int = 500
    enough: int = 64 << 10
    stall: int = 30_000
    slowest: int = 1000
    range: int = 16 << 20
    parallel: int = 3
    first: int = FIRST_READ


@dataclass(frozen=True)
class Told:
    """What a server tells of a file: bytes, ETag, Last-Modified, SHA-256 in hex; None where it does not. ranged: it
    sends any part of it."""

    size: int
    etag: str | None
    modified: str | None
    sha256: str | None
    ranged: bool = True

    def fits(self, other: Any) -> bool:
        """Whether `other`, which has the same fields, may be of the same file: as far as both tell."""
        if self.sha256 and other.sha256:
            return bool(self.sha256 == other.sha256)
        names = ("size", "etag" if self.etag and other.etag else "modified")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return all(a == b for a, b in pairs if a is not None and b is not None)


class UrlSource:
    """A file at a URL; `headers` go with every request; `before` is what its server told when it was loaded earlier;
    `beside` are the addresses, by name, of siblings that are not in the same folder. Raises DownloadError, and
    ModelChangedError for a file that is not the one of before."""

    sound = True

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] = {},
        patience: Patience = Patience(),
        before: Told | None = None,
        beside: Mapping[str, str] = {},
    ) -> None:
        self.url = absolute(url)
        self.name = file_name(self.url)
        self._headers = dict(headers)
        self._patience = patience
        self.before = before
        self._beside = beside
        self._length: Any = create_proxy(model_length)
        self.download: Any = js_file("files/download.js")(
            self.url,
            self.name,
            js_object(self._headers),
            js_object(asdict(patience)),
            js_file("files/through.js"),
            js_file("files/whole.js"),
            self._length,
        )
        self._told: Told | None = None
        self._by_content = False

    def by_content(self) -> None:
        """What is read is checked by its content: servers of one file may each name another version of it."""
        self._by_content = True
        self.download.byContent()

    async def told(self) -> Told:
        """Asks the server for the file's beginning."""
        if self._told is None:
            answer = await self._await(self.download.start())
            sha256 = _sha256(answer.digest, answer.linked)
            told = Told(int(answer.size), answer.etag or None, answer.modified or None, sha256, bool(answer.ranged))
            same = self.before is None or self._by_content or self.before.fits(told)
            if not same:
                raise ModelChangedError(
                    f"{self.name} has changed on its server since it was loaded; load it anew with Llama.load."
                )
            if sha256:
                self.by_content()
            self._told = told
        return self._told

    async def size(self) -> int:
        return (await self.told()).size

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, await self.size())
        return (await self._await(self.download.read(offset, offset + length))).to_bytes() if length else b""

    async def stream(self, offset: int) -> Any:
        check_range(self.name, offset, 0, await self.size())
        return self.download.open(offset)

    def sibling(self, name: str) -> Self:
        url = self._beside.get(name) or sibling_url(self.url, name)
        return type(self)(url, self._headers, self._patience, beside=self._beside)

    async def close(self) -> None:
        self.download.close()
        if self._length:
            self._length.destroy()
        self._length = None

    def again(self) -> Self:
        return type(self)(self.url, self._headers, self._patience, self._told or self.before, self._beside)

    async def _await(self, promise: Any) -> Any:
        try:
            return await promise
        except JsException as error:
            raise read_error(error, self.name) from None


def absolute(url: str) -> str:
    """The address as the browser writes it; raises DownloadError for what is none."""
    here = getattr(js, "location", None)
    try:
        found = js.URL.new(url, *((here.href,) if here else ()))
    except JsException:
        raise DownloadError(
            f"{without_secrets(url)!r} is not an address; give one that begins with https://."
        ) from None
    if found.protocol not in {*_PROTOCOLS, *((here.protocol,) if here else ())}:
        raise DownloadError(
            f"{without_secrets(url)!r} is of {found.protocol}, which no page can read; give one that begins with https://."
        )
    return str(found.href)


def _sha256(digest: Any, linked: Any) -> str | None:
    """The SHA-256 of the whole file, from `Repr-Digest` (RFC 9530) or from the Hugging Face hub's `X-Linked-ETag`.

    A plain ETag that looks like one is not believed: content networks put other hashes there.
    """
    if found := re.search(r"sha-256=:([A-Za-z0-9+/]{43}=):", digest or ""):
        return base64.b64decode(found[1]).hex()
    found = re.fullmatch(r'"?([0-9a-fA-F]{64})"?', linked or "")
    return found[1].lower() if found else None
