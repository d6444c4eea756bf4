"""Room in the browser's storage: made by removing what is not in use, or not at all."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.no_page import no_page

FREE = 1000


@pytest.fixture
def model_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """llamaweb.files.model_cache with files "a" to "d" of 100 bytes, the last used first; "c" is in use."""
    with no_page():
        module = importlib.import_module("llamaweb.files.model_cache")
    module.removed, module.locked = [], ["c"]

    async def models() -> list:
        return [module.CachedModel(url, url, 100, stored=100) for url in "abcd" if url not in module.removed]

    async def room() -> Any:
        return module.Room(FREE + module.MARGIN + 400, 400)

    async def lock(url: str, mode: str) -> Any:
        if url in module.locked:
            return None
        module.locked.append(url)
        return lambda: module.locked.remove(url)

    async def discard(url: str) -> None:
        assert url in module.locked
        module.removed.append(url)

    for replacement in (models, room, lock, discard):
        monkeypatch.setattr(module, replacement.__name__, replacement)
    yield module


@pytest.mark.parametrize(
    ("needed", "removed"),
    [
        (FREE, []),
        (FREE + 1, ["d"]),
        (FREE + 101, ["d", "b"]),  # c is in use
        (FREE + 201, None),  # and a is spared
    ],
)
def test_room_is_made_of_what_is_not_in_use_and_nothing_is_removed_in_vain(
    model_cache: Any, needed: int, removed: list[str] | None
) -> None:
    figures = asyncio.run(model_cache.make_room(needed, "a"))
    assert (figures is None) == (removed is not None)
    assert model_cache.removed == (removed or []) and model_cache.locked == ["c"]


def test_a_storage_that_is_refused_is_told_in_a_sentence(model_cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused() -> list[Any]:
        raise model_cache.JsException("SecurityError")

    monkeypatch.setattr(model_cache, "models", refused)
    monkeypatch.setattr(model_cache, "available", lambda: True)
    with pytest.raises(model_cache.CacheError, match=r"cannot be read \(SecurityError\); allow this site"):
        asyncio.run(model_cache.listed())
    monkeypatch.setattr(model_cache, "available", lambda: False)
    assert asyncio.run(model_cache.listed()) == []


URL = "https://example.org/model.gguf"
FACTS = {"url": URL, "name": "model.gguf", "size": 100, "etag": '"1"', "used": 1.5}


def found(model_cache: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> Any:
    """What is known of a file of which the JSON file says `text`."""

    async def file(name: str) -> Any:
        async def read() -> str:
            return text

        return SimpleNamespace(size=100, text=read)

    monkeypatch.setattr(model_cache, "opfs", lambda: SimpleNamespace(file=file))
    return asyncio.run(model_cache.find(URL))


def test_a_file_that_a_later_version_kept_is_known(model_cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = found(model_cache, monkeypatch, json.dumps({**FACTS, "format": 3, "stored": 7}))
    assert (model.url, model.size, model.etag, model.stored) == (URL, 100, '"1"', 100)


DAMAGED = [
    *("", "\0\0", "[]", "5", "null", '"url"', json.dumps(FACTS)[:40], '{"url": "x"}'),
    *(json.dumps({**FACTS, **wrong}) for wrong in ({"url": 5}, {"name": None}, {"size": "big"}, {"used": "x"})),
    *(
        json.dumps({**FACTS, **wrong})
        for wrong in ({"etag": 5}, {"sha256": []}, {"signature": 1}, {"url": "https://example.org/b"})
    ),
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_file_of_which_damaged_facts_are_told_is_not_known(
    model_cache: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    assert found(model_cache, monkeypatch, text) is None
