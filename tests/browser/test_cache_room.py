"""The cache in the browser's storage where there is little room, or the disk fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from browser_page import Page
from kept_file import DATA, ETAG, SHA256, SIZE, load
from unreliable_server import UnreliableServer

from llamaweb.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("empty_cache")


def with_quota(quota: int) -> str:
    return f"""
        from pyodide.code import run_js
        run_js('''navigator.storage.estimate = async () => {{
            const mine = {{ quota: {quota}, usage: 0 }};
            const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("llamaweb-models");
            for await (const handle of folder.values()) mine.usage += (await handle.getFile()).size;
            return mine;
        }}''')
    """


@pytest.fixture
def small_quota(page: Page) -> Iterator[None]:
    page.run(with_quota(3 * SIZE + (16 << 20)))
    yield
    page.run("from pyodide.code import run_js\nrun_js('delete navigator.storage.estimate')")


def test_what_was_not_used_for_the_longest_makes_room(page: Page, server: UnreliableServer, small_quota: None) -> None:
    for name in ("a", "b"):
        page.run(load, url=server.url(f"{name}.gguf", DATA, headers=ETAG))
    page.run(load, url=f"{server.base}/a.gguf")
    found, warned, models = page.run(load, url=server.url("c.gguf", DATA, headers=ETAG))
    assert found == SHA256 and warned == []
    assert [model["name"] for model in models] == ["c.gguf", "a.gguf"]


def test_nothing_makes_room_for_a_model_whose_header_is_not_sound(
    page: Page, server: UnreliableServer, small_quota: None
) -> None:
    async def header(url):
        from llamaweb.files.cached_source import CachedSource
        from llamaweb.files.url_source import UrlSource
        from llamaweb.model.shards import read_model

        source = CachedSource(UrlSource(url))
        try:
            await read_model(source)
        finally:
            await source.close()

    for name in ("a", "b"):
        page.run(load, url=server.url(f"{name}.gguf", DATA, headers=ETAG))
    with pytest.raises(UnsupportedError, match="version"):
        page.run(header, url=server.url("c.gguf", DATA + DATA, headers=ETAG))
    assert page.run("from llamaweb import cache\nreturn [m.name for m in await cache.list()]") == ["b.gguf", "a.gguf"]


def test_too_little_room_is_told_in_figures_and_the_model_loads(
    page: Page, server: UnreliableServer, small_quota: None
) -> None:
    page.run(load, url=server.url("a.gguf", DATA, headers=ETAG))
    url = server.url("large.gguf", DATA * 4, headers=ETAG)
    found, [warned], models = page.run(load, url=url)
    assert found == hashlib.sha256(DATA * 4).hexdigest()
    assert warned.startswith("large.gguf is not kept in the browser's storage: it takes 8.0 MB, and of 22.8 MB that")
    assert "2.0 MB are taken" in warned
    assert [model["name"] for model in models] == ["a.gguf"]  # nothing is removed in vain


def test_a_disk_that_fills_up_meanwhile_is_told_and_the_model_loads(page: Page, server: UnreliableServer) -> None:
    origin = page.url.rstrip("/")
    page.run(with_quota(1 << 40))
    page.runner.driver.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": 1_200_000})
    try:
        url = server.url("model.gguf", DATA, headers=ETAG)
        found, [warned], [model] = page.run(load, url=url)
    finally:
        page.runner.driver.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": origin})
        page.run("from pyodide.code import run_js\nrun_js('delete navigator.storage.estimate')")
    assert found == SHA256 and model["stored"] < SIZE
    assert warned.startswith("model.gguf is not kept in the browser's storage: ")
    assert page.run(load, url=url)[0] == SHA256


# What synchronous handles do fails: the first `write`, or every `read`.
FAILING_HANDLES = """
const { read, write } = FileSystemSyncAccessHandle.prototype;
globalThis.whole = () => Object.assign(FileSystemSyncAccessHandle.prototype, { read, write });
let failed = 0;
FileSystemSyncAccessHandle.prototype[NAME] = function (...args) {
  if (NAME === "read" || !failed++) throw new DOMException("the disk is busy", "UnknownError");
  return write.apply(this, args);
};
"""


def test_what_is_kept_has_no_gaps_where_a_piece_is_not_written_or_not_read(
    page: Page, server: UnreliableServer
) -> None:
    async def in_pieces(url, pieces, begin):
        from llamaweb.files.cached_source import CachedSource
        from llamaweb.files.url_source import UrlSource

        source = CachedSource(UrlSource(url))
        for at, length in pieces:
            await source.read(at, length)
        reader = await source.stream(begin)
        while not (await reader.read()).done:
            pass
        await source.close()

    url = server.url("model.gguf", DATA, headers=ETAG)
    page.run(in_pieces, url=url, pieces=[(0, 1000)], begin=2000)
    assert page.run(load, url=url)[0] == SHA256
    page.run("from llamaweb import cache\nawait cache.clear()")
    page.runner.run_js(FAILING_HANDLES.replace("NAME", "'write'"))
    try:
        page.run(in_pieces, url=url, pieces=[(0, 1000), (1000, 1000)], begin=2000)
    finally:
        page.runner.run_js("whole()")
    assert page.run(load, url=url)[0] == SHA256


def test_a_beginning_that_cannot_be_read_is_fetched_anew(page: Page, server: UnreliableServer) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG, pace=0.01)
    page.run(load, url=url, stop=900_000)
    page.runner.run_js(FAILING_HANDLES.replace("NAME", "'read'"))
    try:
        found, [warned], models = page.run(load, url=url)
    finally:
        page.runner.run_js("whole()")
    assert found == SHA256 and models == []
    assert warned.startswith("model.gguf is not kept in the browser's storage: the disk is busy; of ")
    assert page.run(load, url=url)[0] == SHA256


def test_more_than_a_file_has_is_not_read_as_zeros(page: Page) -> None:
    async def read():
        from pyodide.ffi import JsException, to_js

        from llamaweb.files import model_cache

        writer = await model_cache.writer("short", True)
        writer.append(to_js(bytes(range(1, 11))))
        try:
            return writer.read(2, 5).to_bytes(), writer.read(5, 11)
        except JsException as error:
            return str(error)
        finally:
            await writer.close()
            await model_cache.discard("short")

    assert "the file ends early" in page.run(read)
