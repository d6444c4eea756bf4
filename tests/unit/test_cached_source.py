"""A browser's storage that fails costs a warning, never the model."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.errors import CacheWarning
from tests import no_page

SIZE = 1000
URL = "https://example.org/model.gguf"


@pytest.fixture
def cached() -> Iterator[Any]:
    """llamaweb.files.cached_source."""
    with no_page.no_page():
        yield importlib.import_module("llamaweb.files.cached_source")


async def full(*_: Any) -> None:
    raise no_page.JsException("QuotaExceededError")


def gives(value: Any) -> Any:
    async def give(*_: Any) -> Any:
        return value

    return give


def remote(size: int = SIZE) -> Any:
    told = SimpleNamespace(size=size, etag='"1"', modified=None, sha256=None, ranged=True, fits=lambda model: True)
    return SimpleNamespace(
        name="model.gguf",
        url=URL,
        told=gives(told),
        size=gives(size),
        close=gives(None),
        download=None,
        read=gives(b"GGUF"),
    )


def storage(cached: Any, monkeypatch: pytest.MonkeyPatch, stored: int, released: list, **parts: Any) -> None:
    """A storage that has `stored` bytes of the model; `parts` of it are otherwise."""
    model = cached.CachedModel(URL, "model.gguf", SIZE, '"1"', stored=stored)
    writer = SimpleNamespace(close=parts.pop("close", gives(None)))
    file = SimpleNamespace(size=stored, close=lambda: released.append("file"))
    opfs = {"file": gives(file), "open": gives(file), "persist": lambda: None, "writer": gives(writer)}
    replaced = {
        "available": lambda: True,
        "find": gives(model),
        "lock": gives(lambda: released.append(URL)),
        "make_room": gives(None),
        "put": gives(None),
        "opfs": lambda: SimpleNamespace(**opfs),
        **parts,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(cached.model_cache, name, value)


def test_a_whole_file_is_read_from_a_full_disk(cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    storage(cached, monkeypatch, SIZE, released, put=full)
    source = cached.CachedSource(remote())

    async def size() -> int:
        found = await source.size()
        await source.close()
        return found

    assert asyncio.run(size()) == SIZE
    assert isinstance(source._local, cached.BlobSource) and released == ["file", URL]


def test_a_kept_file_is_closed_where_the_load_is_cancelled_while_it_is_noted(
    cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    storage(cached, monkeypatch, SIZE, released, put=never)

    async def cancelled() -> None:
        source = cached.CachedSource(remote())
        waiting = asyncio.ensure_future(source.size())
        await asyncio.wait([waiting], timeout=0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
        await source.close()

    asyncio.run(cancelled())
    assert released == ["file", URL]


def test_a_file_that_does_not_close_is_told_and_unlocked(cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    storage(cached, monkeypatch, 10, released, close=full)
    keeper = SimpleNamespace(state=SimpleNamespace(bad=False, verified=False, full=None))
    monkeypatch.setattr(cached, "js_file", lambda name: lambda *_: keeper)
    source = cached.CachedSource(remote())

    async def close() -> None:
        await source.size()
        await source.close()

    with pytest.warns(CacheWarning, match=r"model\.gguf is not kept in the browser's storage: .*QuotaExceededError"):
        asyncio.run(close())
    assert released == [URL] and not cached.model_cache._coming


@pytest.mark.parametrize("what", ["lock", "writer", "file"])
def test_what_comes_after_the_wait_for_it_was_cancelled_is_given_back(
    cached: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    given_back: list[str] = []
    thing = SimpleNamespace(close=lambda: given_back.append(what))
    answer = (lambda: given_back.append("lock")) if what == "lock" else thing

    async def cancelled() -> None:
        promise = asyncio.get_running_loop().create_future()
        opfs = SimpleNamespace(**{"open" if what == "file" else what: lambda *_: promise})
        monkeypatch.setattr(cached.model_cache, "opfs", lambda: opfs)
        argument = {"lock": "exclusive", "writer": True, "file": "model.gguf"}[what]
        waiting = asyncio.ensure_future(getattr(cached.model_cache, what)(URL, argument))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() and not given_back
        promise.set_result(answer)
        await asyncio.sleep(0.01)

    asyncio.run(cancelled())
    assert given_back == [what]
