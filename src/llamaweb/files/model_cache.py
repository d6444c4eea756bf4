"""The models in the browser's storage: what is there, room for more, and locks between tabs.

A model file is kept under a key, beside a JSON file `KEY.json` that tells what it is. Its bytes are written in order,
so that its length says how much of it is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pyodide.ffi import JsException

from llamaweb.errors import CacheError
from llamaweb.files.kept_file import KeptFile
from llamaweb.javascript import js_file, take

FOLDER = "llamaweb-models"
MARGIN = 16 << 20  # bytes that stay free for what a page keeps besides

opening = asyncio.Lock()  # between `make_room` and `expect`, so that parts of a model do not count on the same room
_coming: set[str] = set()  # URLs whose rest this page is fetching, as of the other parts of a split model


@dataclass(frozen=True)
class CachedModel:
    """A file in the cache. `stored` of `size` bytes are there; `used` in seconds since 1970; etag, modified and sha256
    are what its server or its user told, and `verified` that the content has that sha256; `signature` is that of the
    address it was loaded with last (see model.source)."""

    url: str
    name: str
    size: int
    etag: str | None = None
    modified: str | None = None
    sha256: str | None = None
    verified: bool = False
    used: float = 0.0
    stored: int = 0
    signature: str | None = None

    @property
    def complete(self) -> bool:
        return self.stored == self.size


@dataclass(frozen=True)
class Room:
    """Bytes that this site may use in the browser's storage, and that it uses."""

    quota: int
    usage: int


def key(url: str) -> str:
    """The name of a URL's file."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def opfs() -> Any:
    return js_file("files/opfs.js")(FOLDER)


def available() -> bool:
    return bool(opfs().available())


async def lock(url: str, mode: str) -> Any:
    """A function that gives the lock back, or None: another has it. Readers take it "shared", writers "exclusive"."""
    return await _lock(key(url), mode)


async def writer(url: str, fresh: bool) -> Any:
    """Writes a URL's file on, or `fresh` from its start; see opfs.js."""
    return await take(opfs().writer(key(url), fresh), lambda writer: writer.close())


async def file(url: str, name: str) -> KeptFile | None:
    """A URL's file, to be read and closed; None if it is not there."""
    blob = await take(opfs().open(key(url)), lambda blob: getattr(blob, "close", bool)())
    return KeptFile(blob, name) if blob else None


async def find(url: str) -> CachedModel | None:
    """What is known of a URL's file; None if it is not there, or damaged."""
    try:
        return await _read(opfs(), key(url))
    except JsException:
        return None


async def models() -> list[CachedModel]:
    """All files, the most recently used first.

    What belongs to none of them is removed, as a file whose JSON was lost, unless a tab is at it.
    """
    store = opfs()
    names: dict[str, list[str]] = {}  # of the key, its JSON and what is being written of them
    for name in map(str, await store.names()):
        names.setdefault(name.partition(".")[0], []).append(name)
    found = []
    for stem, own in names.items():
        try:
            if model := await _read(store, stem):
                found.append(model)
            else:
                await _clean(store, stem, own)
        except JsException:
            continue  # it is being changed
    return sorted(found, key=lambda model: -model.used)


async def listed() -> list[CachedModel]:
    """The same for a person: none without storage; raises CacheError where the browser refuses it to this site."""
    try:
        return await models() if available() else []
    except JsException as error:
        raise CacheError(f"The browser's storage cannot be read ({error}); allow this site to keep data.") from None


def expect(url: str, still: bool) -> None:
    """Notes that this page is fetching the rest of a file, for which `make_room` leaves room; or no more."""
    (_coming.add if still else _coming.discard)(url)


async def put(model: CachedModel) -> None:
    """Writes what is known of a file, used now."""
    facts = asdict(replace(model, used=time.time()))
    del facts["stored"]
    await opfs().put(f"{key(model.url)}.json", json.dumps(facts))


async def remove(url: str) -> None:
    """Removes a file; raises CacheError while it is being loaded, or where the browser does not remove it."""
    try:
        removed = await _removed(url)
    except JsException as error:
        raise CacheError(f"{url} cannot be removed from the browser's storage ({error}); try again.") from None
    if not removed:
        raise CacheError(f"{url} is being loaded, perhaps in another tab; remove it afterwards.")


async def discard(url: str) -> None:
    """Removes a file whose lock the caller has."""
    await opfs().remove(key(url))
    await opfs().remove(f"{key(url)}.json")


async def room() -> Room:
    estimate = await opfs().estimate()
    return Room(int(estimate.quota or 0), int(estimate.usage or 0))


async def make_room(needed: int, sparing: str, *, only_look: bool = False) -> Room | None:
    """Removes the files that were not used for the longest, but the URL `sparing`'s, until `needed` bytes fit.

    Gives the figures, and removes nothing, where that would not be enough. only_look: removes nothing at all.
    """
    others = [model for model in reversed(await models()) if model.url != sparing]
    now = await room()
    coming = sum(model.size - model.stored for model in others if model.url in _coming)
    missing = needed + coming + MARGIN - (now.quota - now.usage)
    held: list[tuple[CachedModel, Any]] = []  # what may be removed, and what gives its lock back
    try:
        for model in others:
            if sum(model.stored for model, _ in held) >= missing:
                break
            if model.url not in _coming and (release := await lock(model.url, "exclusive")):
                held.append((model, release))
        if sum(model.stored for model, _ in held) < missing:
            return now
        for model, _ in () if only_look else held:
            await discard(model.url)
    finally:
        for _, release in held:
            release()
    return None


async def _removed(url: str) -> bool:
    release = await lock(url, "exclusive")
    if release is None:
        return False
    try:
        await discard(url)
    finally:
        release()
    return True


async def _lock(name: str, mode: str) -> Any:
    return await take(opfs().lock(f"{FOLDER}/{name}", mode), lambda release: release())


async def _read(store: Any, name: str) -> CachedModel | None:
    """None where the file or its JSON is not there, or damaged; JsException where it cannot be read."""
    file, facts = await store.file(name), await store.file(f"{name}.json")
    if not file or not facts:
        return None
    model = _told(await facts.text(), int(file.size))
    return model if model and key(model.url) == name else None


def _told(text: str, stored: int) -> CachedModel | None:
    """What a JSON file tells, None if it is damaged; what a later version of this package may add is passed over."""
    try:
        found = json.loads(text)
        known = {field.name: found[field.name] for field in fields(CachedModel) if field.name in found}
        model = CachedModel(**{**known, "stored": stored})
    except (ValueError, TypeError):
        return None
    optional = (model.etag, model.modified, model.sha256, model.signature)
    sound = isinstance(model.url, str) and isinstance(model.name, str) and isinstance(model.size, int)
    sound = sound and isinstance(model.used, (int, float)) and all(isinstance(fact, str | None) for fact in optional)
    return model if sound else None


async def _clean(store: Any, stem: str, names: Sequence[str]) -> None:
    """Removes files of which it is not known what they are, if nobody has their lock."""
    if release := await _lock(stem, "exclusive"):
        try:
            if await _read(store, stem) is None:  # still
                for name in names:
                    await store.remove(name)
        finally:
            release()
