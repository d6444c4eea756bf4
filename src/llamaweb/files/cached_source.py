"""A model at a URL that is kept in the browser's storage as it comes, and read from there the next time."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from pyodide.ffi import JsException

from llamaweb.errors import CacheError, CacheWarning, DownloadError, ModelFileError
from llamaweb.files import model_cache
from llamaweb.files.blob_source import BlobSource, read_error
from llamaweb.files.kept_file import KeptFile
from llamaweb.files.model_cache import CachedModel
from llamaweb.files.url_source import Told, UrlSource
from llamaweb.javascript import js_file
from llamaweb.model.gguf_file import MAGIC
from llamaweb.model.source import check_range, lasting_url, signature

ENDS = 64 << 10  # bytes of a file's begin and end by which it is known where its server names no version
ANSWER_SECONDS = 5  # that a server has to tell whether a file has changed, before it is taken as it is


class CachedSource:
    """A URL's file: from the cache where it is there in whole, else from its server and into the cache on the way.

    Only models are kept, under an address that is so the next time: without a signature, no blob: or data:.
    checksums: the SHA-256 of files, by URL. keep=False leaves the cache alone. ask=False takes what is there in whole
    without asking the server whether it has changed, and only=True nothing else, with a CacheError where it is not
    there. Raises DownloadError, also for content that is not of its checksum; warns with CacheWarning where the file
    cannot be kept, and where what is kept is taken in spite of its server. What is kept of a file that turns out not to
    be sound, or that cannot be read (BrokenCopyError), is removed, and fetched anew the next time.
    """

    sound = True

    def __init__(
        self,
        remote: UrlSource,
        checksums: Mapping[str, str] = {},
        keep: bool = True,
        ask: bool = True,
        only: bool = False,
    ) -> None:
        self.name, self.url = remote.name, lasting_url(remote.url)
        self._remote = remote
        self._checksums = checksums
        self._sha256 = checksums.get(remote.url)
        if self._sha256:
            remote.by_content()
        self._keep = keep and self.url.startswith("http") and model_cache.available()
        self._ask = ask and not only
        self._only = only
        self._signature = signature(remote.url)
        self._local: KeptFile | UrlSource | None = None  # what can be read as it is
        self._size: int | None = None
        self._keeper: Any = None
        self._writer: Any = None
        self._hash: Any = None
        self._release: Any = None  # gives the lock back

    async def size(self) -> int:
        if self._size is None:
            self._local = await self._kept() if self._keep else None
            if self._local is None:
                if self._only:
                    raise CacheError(
                        f"{self.name} is not in the browser's storage in whole, and its server was not to be asked; "
                        "load it once with the cache on."
                    )
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
        if self._local:
            return await self._local.stream(offset)
        if self._writer:
            await self._make_room()
        return self._keeper.open(offset)

    def sibling(self, name: str) -> Self:
        return type(self)(self._remote.sibling(name), self._checksums, self._keep, self._ask, self._only)

    def again(self) -> Self:
        return type(self)(self._remote.again(), self._checksums, self._keep, ask=False, only=self._only)

    async def close(self) -> None:
        await self._remote.close()
        if self._hash:
            self._hash.close()
        try:
            if self._local:
                await self._local.close()
                self.sound = self.sound and self._local.sound
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

    async def _kept(self) -> KeptFile | None:
        """The file from the cache, if it is whole, checked if it can be, and not known to be another one by now; None
        where the storage does not give it, too."""
        try:
            return await self._found()
        except JsException:
            self._give_back()
            return None

    async def _found(self) -> KeptFile | None:
        model = await model_cache.find(self.url)
        model = await self._current(model) if model and model.complete else None
        if not model:
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

    async def _current(self, model: CachedModel) -> CachedModel | None:
        """What is known of the kept file now; None if it is another one, or may be."""
        same = replace(model, signature=self._signature)
        if self._sha256:  # known by its content
            return same if model.verified and self._sha256 == model.sha256 else None
        if model.sha256 and not model.verified:
            return None  # what could not be checked to its end the last time is checked while it is read again
        if not self._ask:
            before = self._remote.before
            return model if not before or before.fits(model) else None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return same if await self._unchanged(model) else None
        except (ModelFileError, TimeoutError) as error:
            self._stand_in(model, refused(error))
            return model

    async def _unchanged(self, model: CachedModel) -> bool:
        """Whether the server has the same file."""
        if not await self._sends_model():
            raise ModelFileError(f"{self.url} is no model; check the address.")
        told = await self._remote.told()
        known = not told.ranged or _versioned(told, model)
        return told.fits(model) and (known or await self._alike(model.size))

    def _stand_in(self, model: CachedModel, refusal: str) -> None:
        """What is said where a kept file is taken though its server does not tell that it is the same; DownloadError
        where it is refused and was loaded with another signature, which may have been somebody else's. Without a
        network nothing is said of the same address."""
        alike = (model.signature or "") == self._signature
        if refusal and not alike:
            raise DownloadError(
                f"The server of {self.name} {refusal}, and what the browser's storage has of {self.url} came with "
                'another signature; give an address that is still valid, or cache="only" to take what is kept.'
            )
        if not alike:
            refusal = "does not tell whether it is the same, and its address was signed otherwise then"
        if refusal:
            reason = f"{self.name} is taken from the browser's storage as it was kept: its server {refusal}."
            warnings.warn(reason, CacheWarning, stacklevel=2)

    async def _alike(self, end: int) -> bool:
        """Whether the kept file begins, and ends at byte `end`, as the server's does, which names no version of it."""
        blob = await model_cache.opfs().file(model_cache.key(self.url))
        if not blob:  # removed by another tab
            return False
        file, length = BlobSource(blob, self.name), min(end, ENDS)
        places = (0, end - length)
        try:
            mine = [await file.read(at, length) for at in places]
        except ModelFileError:  # what cannot be read is like nothing
            return False
        return mine == [await self._remote.read(at, length) for at in places]

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
        needed = told.size - (model.stored if model and same else 0)
        figures = await model_cache.make_room(needed, self.url, only_look=True)
        if figures:
            self._give_back()
            self._warn(
                f"it takes {_size(told.size)}, and of {_size(figures.quota)} that this site may store "
                f"{_size(figures.usage)} are taken; remove models with llamaweb.cache, or free space on the disk."
            )
            return None
        facts = CachedModel(
            self.url, self.name, told.size, told.etag, told.modified, self._sha256, signature=self._signature
        )
        await model_cache.put(facts)
        model_cache.opfs().persist()
        return await model_cache.writer(self.url, not same)

    async def _make_room(self) -> None:
        """Removes other models for this one, when its header is known to be sound: before its weights come. The header
        itself has room (model_cache.MARGIN)."""
        size = await self.size()
        with suppress(JsException):  # whether there is room is seen when it is written, too
            async with model_cache.opening:
                if await model_cache.make_room(size - self._writer.size(), self.url):
                    self._keeper.state.full = f"it takes {_size(size)}"

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


def refused(error: Exception) -> str:
    """How a server refused a file, for a sentence that begins with it; empty where it cannot be reached, or fails."""
    if isinstance(error, DownloadError):
        return f"answered {error.status}" if error.status else ""
    return "sends something else, as a page that asks for a login" if isinstance(error, ModelFileError) else ""


def _versioned(told: Told, model: CachedModel) -> bool:
    """Whether there is more than the size to tell versions of a file apart."""
    return any(getattr(told, name) and getattr(model, name) for name in ("sha256", "etag", "modified"))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
