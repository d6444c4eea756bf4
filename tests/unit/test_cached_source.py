"""A browser's storage that fails costs a warning, never the model; what it keeps is not taken for a server's answer
without a word."""

from __future__ import annotations

import asyncio
import importlib
import re
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.errors import CacheError, CacheWarning, DownloadError, LlamaWebError, ModelFileError
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
    async def give(*_: Any, **__: Any) -> Any:
        return value

    return give


def raises(error: Exception) -> Any:
    async def fail(*_: Any) -> Any:
        raise error

    return fail


def remote(**parts: Any) -> Any:
    told = SimpleNamespace(size=SIZE, etag='"1"', modified=None, sha256=None, ranged=True, fits=lambda model: True)
    found = SimpleNamespace(
        name="model.gguf",
        url=URL,
        told=gives(told),
        size=gives(SIZE),
        close=gives(None),
        download=None,
        read=gives(b"GGUF"),
        before=None,
        by_content=lambda: None,
        sibling=lambda name: remote(**parts | {"name": name}),
        again=lambda: remote(**parts),
    )
    return SimpleNamespace(**{**vars(found), **parts})


def storage(cached: Any, monkeypatch: pytest.MonkeyPatch, stored: int, released: list, **parts: Any) -> None:
    """A storage that has `stored` bytes of the model; `parts` of it are otherwise."""
    known = {name: parts.pop(name) for name in ("signature", "sha256", "verified") if name in parts}
    model = cached.CachedModel(URL, "model.gguf", SIZE, '"1"', stored=stored, **known)
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


def taken(cached: Any, source: Any) -> tuple[list[str], str]:
    """What is warned of where the kept file is read, or the error's words."""

    async def size() -> int:
        try:
            return await source.size()
        finally:
            await source.close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert asyncio.run(size()) == SIZE and isinstance(source._local, cached.BlobSource)
            said = ""
        except LlamaWebError as error:
            said = str(error)
    assert all(warning.category is CacheWarning for warning in caught)
    return [str(warning.message) for warning in caught], said


A, B = f"{URL}?sig=a", f"{URL}?sig=b"
NOBODY = DownloadError("no network")
LOGIN = "sends something else, as a page that asks for a login"
ALIKE = "does not tell whether it is the same, and its address was signed otherwise then"
# What the file was kept with, what is asked for, what its server does; how the warning or the error ends.
STANDS_IN: dict[str, tuple[str, str, dict[str, Any], str, str]] = {
    "no network": (URL, URL, {"size": raises(NOBODY)}, "", ""),
    "silence": (URL, URL, {"size": raises(TimeoutError())}, "", ""),
    "401": (URL, URL, {"size": raises(DownloadError("x", 401))}, "as it was kept: its server answered 401.", ""),
    "403": (A, A, {"size": raises(DownloadError("x", 403))}, "as it was kept: its server answered 403.", ""),
    "a login": (URL, URL, {"read": gives(b"<!do")}, f"as it was kept: its server {LOGIN}.", ""),
    "no network, another signature": (A, B, {"size": raises(NOBODY)}, f"as it was kept: its server {ALIKE}.", ""),
    "no network, no signature any more": (A, URL, {"size": raises(NOBODY)}, f"its server {ALIKE}.", ""),
    "silence, another signature": (A, B, {"size": raises(TimeoutError())}, f"its server {ALIKE}.", ""),
    "401, another signature": (
        A,
        B,
        {"size": raises(DownloadError("x", 401))},
        "",
        "answered 401, and what .* another",
    ),
    "403, no signature any more": (A, URL, {"size": raises(DownloadError("x", 403))}, "", "answered 403, and what .*"),
    "403, signed now": (URL, A, {"size": raises(DownloadError("x", 403))}, "", 'cache="only" to take what is kept'),
    "a login, another signature": (A, B, {"read": gives(b"<!do")}, "", f"{LOGIN}, and what"),
    "the same version": (A, B, {}, "", ""),
}


@pytest.mark.parametrize("how", STANDS_IN)
def test_what_is_kept_stands_in_for_a_server_with_a_sentence_and_never_for_another_signatures(
    cached: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    kept, asked, server, warned, said = STANDS_IN[how]
    noted: list[Any] = []

    async def put(model: Any) -> None:
        noted.append(model.signature)

    storage(cached, monkeypatch, SIZE, [], signature=cached.signature(kept), put=put)
    found, error = taken(cached, cached.CachedSource(remote(**{"url": asked, **server})))
    assert len(found) == bool(warned) and all(each.endswith(warned) and "\n" not in each for each in found)
    assert bool(error) == bool(said)
    assert not said or (re.search(said, error) and error.endswith(".") and "sig=" not in error)
    # Nothing vouches for another signature but the server's own word.
    assert noted == ([] if said else [cached.signature(asked if not server else kept)])


def test_a_file_that_was_kept_before_signatures_were_is_another_signatures_where_the_address_is_signed(
    cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage(cached, monkeypatch, SIZE, [], signature=None)
    refuses = {"size": raises(DownloadError("x", 403))}
    assert "answered 403" in taken(cached, cached.CachedSource(remote(url=A, **refuses)))[1]
    [warned], said = taken(cached, cached.CachedSource(remote(**refuses)))
    assert warned.endswith("answered 403.") and said == ""


def test_only_what_is_kept_is_taken_without_a_word_to_the_server(cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def ask(*_: Any) -> Any:
        asked.append("server")
        raise DownloadError("no network")

    deaf = {"size": ask, "read": ask, "told": ask}
    storage(cached, monkeypatch, SIZE, [], signature=cached.signature(A))
    source = cached.CachedSource(remote(url=B, **deaf), only=True)
    assert taken(cached, source) == ([], "")
    assert taken(cached, source.sibling("other.gguf")) == taken(cached, source.again()) == ([], "")
    storage(cached, monkeypatch, SIZE - 1, [])
    source = cached.CachedSource(remote(**deaf), only=True)
    sentence = " is not in the browser's storage in whole, and its server was not to be asked; load it once with"
    for name, each in (("model", source), ("other", source.sibling("other.gguf")), ("model", source.again())):
        assert taken(cached, each)[1].startswith(f"{name}.gguf{sentence}")
    with pytest.raises(CacheError):
        asyncio.run(source.size())
    assert asked == []


ONE, TWO = "1" * 64, "2" * 64


@pytest.mark.parametrize(
    ("known", "given", "taken_as_it_is"),
    [
        ({"sha256": ONE, "verified": True}, ONE, True),
        ({"sha256": ONE, "verified": True}, TWO, False),
        ({"sha256": ONE, "verified": False}, ONE, False),
        ({"sha256": ONE, "verified": False}, None, False),
        ({"sha256": ONE, "verified": True}, None, True),
        ({"sha256": None, "verified": False}, ONE, False),
    ],
)
def test_a_kept_file_of_a_known_checksum_is_taken_where_that_was_checked(
    cached: Any, monkeypatch: pytest.MonkeyPatch, known: dict[str, Any], given: str | None, taken_as_it_is: bool
) -> None:
    storage(cached, monkeypatch, SIZE, [], **known)
    source = cached.CachedSource(remote(), {URL: given} if given else {}, only=True)
    said = taken(cached, source)[1]
    assert said == "" if taken_as_it_is else said.startswith("model.gguf is not in the browser's storage in whole")


def test_a_file_that_is_loaded_again_is_that_of_before_or_fetched(cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage(cached, monkeypatch, SIZE, [])
    for fits in (True, False):
        before = SimpleNamespace(fits=lambda model, fits=fits: fits)
        source = cached.CachedSource(remote(before=before), ask=False)
        assert bool(asyncio.run(source._current(asyncio.run(cached.model_cache.find(URL))))) == fits


def test_a_kept_file_that_cannot_be_read_is_not_taken_for_the_servers(
    cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage(cached, monkeypatch, SIZE, [])

    class Unreadable(cached.BlobSource):
        async def read(self, offset: int, length: int) -> bytes:
            raise ModelFileError("it cannot be read")

    monkeypatch.setattr(cached, "BlobSource", Unreadable)
    assert asyncio.run(cached.CachedSource(remote())._alike(SIZE)) is False


def test_where_one_of_two_answers_has_an_etag_their_dates_tell() -> None:
    with no_page.no_page():
        told = importlib.import_module("llamaweb.files.url_source").Told
    one, other = told(SIZE, '"1"', "Mon", None), told(SIZE, None, "Tue", None)
    assert not one.fits(other) and not other.fits(one)
    assert one.fits(told(SIZE, None, "Mon", None)) and one.fits(told(SIZE, '"1"', "Tue", None))
