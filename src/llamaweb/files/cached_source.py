"""A model at a URL that is kept in the browser's storage as it comes, and read from there the next time."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from pyodide.ffi import JsException

from llamaweb.errors import CacheWarning, ModelFileError
from llamaweb.files import model_cache
from llamaweb.files.blob_source import BlobSource, read_error
from llamaweb.files.model_cache import CachedModel
from llamaweb.files.url_source import Told, UrlSource
from llamaweb.javascript import js_file
from llamaweb.model.gguf_file import MAGIC
from llamaweb.model.source import check_range, lasting_url

ENDS = 64 << 10  # bytes of a file's begin and end by which it is known where its server names no version
ANSWER_SECONDS = 5  # that a server has to tell whether a file has changed, before it is taken as it is


class CachedSource:
    """A URL's file: from the cache where it is there in whole, else from its server and into the cache on the way.

    Only models are kept, under an address that is so the next time: without a signature, no blob: or data:.
    checksums: the SHA-256 of files, by URL. keep=False leaves the cache alone. ask=False takes what is there in whole
    without asking the server whether it has changed. Raises DownloadError, also for content that is not of its
    checksum; warns with CacheWarning where the file cannot be kept. What is kept of a file that turns out not to be
    sound is removed, and fetched anew the next time.
    """

    sound = True

    def __init__(
        self, remote: UrlSource, checksums: Mapping[str, str] = {}, keep: bool = True, ask: bool = True
    ) -> None:
        self.name, self.url = remote.name, lasting_url(remote.url)
        self._remote = remote
        self._checksums = checksums
        self._sha256 = checksums.get(remote.url)
        if self._sha256:
            remote.by_content()
        self._keep = keep and self.url.startswith("http") and model_cache.available()
        self._ask = ask
        self._local: BlobSource | UrlSource | None = None  # what can be read as it is
        self._size: int | None = None
        self._keeper: Any = None
        self._writer: Any = None
        self._hash: Any = None
        self._release: Any = None  # gives the lock back

    async def size(self) -> int:
        if self._size is None:
            self._local = await self._kept() if self._keep else None
            if self._local is None:
                await self._open(await self._remote.told())
            self._size = await (self._local or self._remote).size()
        return self._size

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, await self.size())
        if self._local:
            return await self._local.read(offset, length)
        try:
            return (await self._keeper.read(offset, offset + length)).to_bytes() if length else b""
        except JsException as error:
            raise read_error(error, self.name) from None

    async def stream(self, offset: int) -> Any:
        check_range(self.name, offset, 0, await self.size())
        return await self._local.stream(offset) if self._local else self._keeper.open(offset)

    def sibling(self, name: str) -> Self:
        return type(self)(self._remote.sibling(name), self._checksums, self._keep, self._ask)

    def again(self) -> Self:
        return type(self)(self._remote.again(), self._checksums, self._keep, ask=False)

    async def close(self) -> None:
        await self._remote.close()
        if self._hash:
            self._hash.close()
        try:
            if self._local:
                await self._local.close()
            if self._writer:
                await self._writer.close()
            if self._keeper and self._release:
                await self._settle()
            elif self._release and not self.sound:  # a tab that reads it, too, finds it damaged as well
                await model_cache.discard(self.url)
        except JsException as error:
            self._warn(f"the browser's storage does not take it ({error}).")
        finally:
            if self._writer:
                model_cache.expect(self.url, False)
            self._give_back()

    async def _kept(self) -> BlobSource | None:
        """The file from the cache, if it is whole, checked if it can be, and not known to be another one by now."""
        model = await model_cache.find(self.url)
        if not model or not model.complete or not await self._current(model):
            return None
        self._release = await model_cache.lock(self.url, "shared")
        file = await model_cache.file(self.url, self.name) if self._release else None
        self._local = file  # so that it is closed with this, should the load be cancelled now
        if not file or await file.size() != model.size:
            if file:
                await file.close()
            self._give_back()
            return None
        with suppress(JsException):  # a full disk does not take that it was used now, and is read all the same
            await model_cache.put(model)
        return file

    async def _current(self, model: CachedModel) -> bool:
        if self._sha256:  # known by its content
            return model.verified and self._sha256 == model.sha256
        if model.sha256 and not model.verified:
            return False  # what could not be checked to its end the last time is checked while it is read again
        if not self._ask:
            return not self._remote.before or self._remote.before.fits(model)
        return await self._unchanged(model)

    async def _unchanged(self, model: CachedModel) -> bool:
        """Whether the server has the same file; True where it does not answer with one, as without a network."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if not await self._sends_model():
                    return True
                told = await self._remote.told()
                known = not told.ranged or _versioned(told, model)
                return told.fits(model) and (known or await self._alike(model.size))
        except (ModelFileError, TimeoutError):
            return True

    async def _alike(self, end: int) -> bool:
        """Whether the kept file begins, and ends at byte `end`, as the server's does, which names no version of it."""
        blob = await model_cache.opfs().file(model_cache.key(self.url))
        if not blob:  # removed by another tab
            return False
        file, length = BlobSource(blob, self.name), min(end, ENDS)
        for at in (0, end - length):
            if await file.read(at, length) != await self._remote.read(at, length):
                return False
        return True

    async def _sends_model(self) -> bool:
        """Whether what the server sends begins as a model; a page that asks for a login does not, and is not kept."""
        length = min(len(MAGIC), await self._remote.size())
        return await self._remote.read(0, length) == MAGIC

    async def _open(self, told: Told) -> None:
        self._sha256 = self._sha256 or told.sha256
        if self._keep and await self._sends_model():
            try:
                async with model_cache.opening:
                    self._writer = await self._write(told)
                    if self._writer:
                        model_cache.expect(self.url, True)
            except JsException as error:
                self._give_back()
                self._warn(f"the browser's storage does not take it ({error}).")
        if not self._writer and not self._sha256:
            self._local = self._remote
            return
        self._hash = js_file("files/sha256.js")() if self._sha256 else None
        self._keeper = js_file("files/keeper.js")(
            self._remote.download, self.name, told.size, self._writer, self._hash, self._sha256
        )

    async def _write(self, told: Told) -> Any:
        """A writer of the file, behind what is there of it already; None if it is not to be kept."""
        self._release = await model_cache.lock(self.url, "exclusive")
        if not self._release:
            return None  # another tab is at it; this one loads for itself
        model = await model_cache.find(self.url)
        same = model is not None and await self._goes_on(model, told)
        if not same:
            await model_cache.discard(self.url)
        figures = await model_cache.make_room(told.size - (model.stored if model and same else 0), self.url)
        if figures:
            self._give_back()
            self._warn(
                f"it takes {_size(told.size)}, and of {_size(figures.quota)} that this site may store "
                f"{_size(figures.usage)} are taken; remove models with llamaweb.cache, or free space on the disk."
            )
            return None
        facts = CachedModel(self.url, self.name, told.size, told.etag, told.modified, self._sha256)
        await model_cache.put(facts)
        model_cache.opfs().persist()
        return await model_cache.writer(self.url, not same)

    async def _goes_on(self, model: CachedModel, told: Told) -> bool:
        """Whether what is there is the beginning of the same file."""
        if model.size != told.size or model.stored > model.size:
            return False
        if self._sha256 and model.sha256:
            return self._sha256 == model.sha256
        return told.fits(model) and (_versioned(told, model) or (told.ranged and await self._alike(model.stored)))

    async def _settle(self) -> None:
        """Notes in the cache what came of the load."""
        state = self._keeper.state
        if state.bad or not self.sound:
            await model_cache.discard(self.url)
        elif state.verified and (model := await model_cache.find(self.url)):
            await model_cache.put(replace(model, verified=True))
        if state.full:
            figures = await model_cache.room()
            self._warn(
                f"{state.full}; of {_size(figures.quota)} that this site may store {_size(figures.usage)} are taken."
            )

    def _give_back(self) -> None:
        if self._release:
            self._release()
        self._release = None

    def _warn(self, reason: str) -> None:
        warnings.warn(f"{self.name} is not kept in the browser's storage: {reason}", CacheWarning, stacklevel=2)


def _versioned(told: Told, model: CachedModel) -> bool:
    """Whether there is more than the size to tell versions of a file apart."""
    return any(getattr(told, name) and getattr(model, name) for name in ("sha256", "etag", "modified"))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
