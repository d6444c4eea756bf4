"""The cache in the browser's storage: it goes on where it was, is checked, makes room, and holds between tabs."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_page import Page
from unreliable_server import Fault, UnreliableServer

import llamaweb
from llamaweb.errors import CacheError, DownloadError, ModelFileError, UnsupportedError

SIZE = 2_000_003
DATA = b"GGUF" + np.random.RandomState(4).bytes(SIZE - 4)
OTHER = DATA[:4] + DATA[:3:-1]
PAGE = b"<!doctype html><title>Log in</title>"
SHA256 = hashlib.sha256(DATA).hexdigest()
ETAG = {"ETag": '"one"'}


@pytest.fixture(autouse=True)
def empty(page: Page) -> Iterator[None]:
    page.run("from llamaweb import cache\nawait cache.clear()")
    yield


NO_HANDLES = """
globalThis.createSyncAccessHandle = FileSystemFileHandle.prototype.createSyncAccessHandle;
FileSystemFileHandle.prototype.createSyncAccessHandle = async () => { throw new TypeError("mode is not known"); };
"""


async def load(url, sha256=None, stop=None, offset=70_000, keep=True, only=False):
    """As a model is loaded: a header, then the rest, cancelled after `stop` bytes. What came, warnings, the cache."""
    import asyncio
    import hashlib
    import warnings
    from dataclasses import asdict

    from pyodide.ffi import JsException

    from llamaweb import cache
    from llamaweb.files.blob_source import read_error
    from llamaweb.files.cached_source import CachedSource
    from llamaweb.files.url_source import Patience, UrlSource

    patience = Patience(delay=20, stall=1000, range=300_000, parallel=2, first=100_000)
    source = CachedSource(UrlSource(url, patience=patience), {url: sha256} if sha256 else {}, keep, only=only)
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as caught:
        try:
            digest = hashlib.sha256(await source.read(0, offset))
            reader = await source.stream(offset)
            n = offset
            while stop is None or n < stop:
                try:
                    chunk = await reader.read()
                except JsException as error:
                    raise read_error(error, source.name) from None
                if chunk.done:
                    break
                digest.update(chunk.value.to_bytes())
                n += len(chunk.value)
            reader.cancel()
        finally:
            await source.close()
    await asyncio.sleep(0)
    models = [asdict(model) for model in await cache.list()]
    return digest.hexdigest(), [str(w.message) for w in caught], models


def test_nobody_waits_until_a_person_allows_storage(page: Page, server: UnreliableServer) -> None:
    async def opened(url):
        import asyncio

        from pyodide.code import run_js

        from llamaweb.files.cached_source import CachedSource
        from llamaweb.files.url_source import UrlSource

        run_js("navigator.storage.persist = () => new Promise(() => { globalThis.asked = true; })")
        source = CachedSource(UrlSource(url))
        try:
            return await asyncio.wait_for(source.size(), 30), run_js("globalThis.asked")
        finally:
            run_js("delete navigator.storage.persist")
            await source.close()

    assert page.run(opened, url=server.url("model.gguf", DATA, headers=ETAG)) == (SIZE, True)


def test_a_file_is_kept_and_read_without_the_network_the_next_time(page: Page, server: UnreliableServer) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG)
    found, warned, [model] = page.run(load, url=url)
    assert (found, warned) == (SHA256, [])
    assert (model["url"], model["stored"], model["size"], model["etag"]) == (url, SIZE, SIZE, '"one"')
    asked = len(server.files["model.gguf"].requests)
    server.files["model.gguf"].always = Fault()
    found, warned, _ = page.run(load, url=url)
    assert (found, warned) == (SHA256, [])
    assert len(server.files["model.gguf"].requests) > asked  # it was asked whether the file has changed
    assert page.run("from llamaweb import cache\nreturn await cache.size()") == SIZE


@pytest.mark.parametrize("handles", [True, False])
def test_a_kept_file_is_read_by_two_at_once_and_can_be_removed_then(
    page: Page, server: UnreliableServer, handles: bool
) -> None:
    async def twice(url, offset):
        from llamaweb import cache
        from llamaweb.files.cached_source import CachedSource
        from llamaweb.files.url_source import UrlSource

        sources = [CachedSource(UrlSource(url)) for _ in range(2)]
        readers = [await source.stream(offset) for source in sources]
        found = [[await source.read(1, 70_001)] for source in sources]
        for read, reader in zip(found, readers, strict=True):
            while not (chunk := await reader.read()).done:
                read.append(chunk.value.to_bytes())
        quick = [hasattr(source._local._blob, "close") for source in sources]
        for source in sources:
            await source.close()
        await cache.remove(url)
        return [(read[0], b"".join(read[1:])) for read in found], quick

    url = server.url("model.gguf", DATA, headers=ETAG)
    page.run(load, url=url)
    if not handles:
        page.run("from pyodide.code import run_js\nrun_js(script)", script=NO_HANDLES)
    try:
        found, quick = page.run(twice, url=url, offset=333)
    finally:
        back = "FileSystemFileHandle.prototype.createSyncAccessHandle = createSyncAccessHandle"
        page.run("from pyodide.code import run_js\nrun_js(script)", script="" if handles else back)
    assert found == [(DATA[1:70_002], DATA[333:])] * 2
    assert quick == [handles] * 2


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_where_it_was(page: Page, server: UnreliableServer, ranges: bool) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG, ranges=ranges, pace=0.01)
    _, _, [model] = page.run(load, url=url, stop=900_000)
    stored = model["stored"]
    assert 900_000 <= stored < SIZE
    server.files["model.gguf"].requests.clear()
    found, _, [model] = page.run(load, url=url)
    assert found == SHA256 and model["stored"] == SIZE
    if ranges:
        begins = [int(request.split("=")[1].split("-")[0]) for request in server.files["model.gguf"].requests]
        assert begins[0] == 0 and min(begins[1:]) == stored


def test_what_a_page_wrote_before_it_was_closed_is_there(page: Page, server: UnreliableServer) -> None:
    async def write_and_die(url, data, size, etag):
        from pathlib import Path

        import js
        from pyodide.ffi import to_js

        import llamaweb
        from llamaweb.files import model_cache

        await model_cache.put(model_cache.CachedModel(url, "model.gguf", size, etag=etag))
        text = (Path(llamaweb.__path__[0]) / "files" / "opfs.js").read_text()
        script = f"""
            onmessage = async ({{data}}) => {{
                const opfs = ({text.strip()})({model_cache.FOLDER!r});
                const lock = await opfs.lock({f"{model_cache.FOLDER}/{model_cache.key(url)}"!r}, "exclusive");
                const writer = await opfs.writer({model_cache.key(url)!r}, true);
                writer.append(data);
                postMessage("written");
            }};"""
        blob = js.Blob.new(to_js([script]))
        worker = js.Worker.new(js.URL.createObjectURL(blob))
        answer = js.Promise.withResolvers()
        worker.onmessage = answer.resolve
        worker.postMessage(to_js(data))
        await answer.promise
        busy = await model_cache.lock(url, "shared")
        worker.terminate()
        while not (free := await model_cache.lock(url, "exclusive")):
            pass
        free()
        return busy is None, (await model_cache.find(url)).stored

    url = server.url("model.gguf", DATA, headers=ETAG)
    busy, stored = page.run(write_and_die, url=url, data=DATA[:777_777], size=SIZE, etag='"one"')
    assert busy and stored == 777_777
    found, _, [model] = page.run(load, url=url)
    assert found == SHA256 and model["stored"] == SIZE
    assert "GET bytes=777777-1077776" in server.files["model.gguf"].requests


@pytest.mark.parametrize("stop", [900_000, None])
def test_a_file_that_has_changed_since_is_fetched_anew(page: Page, server: UnreliableServer, stop: int | None) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG)
    page.run(load, url=url, stop=stop)
    server.url("model.gguf", OTHER, headers={"ETag": '"two"'})
    found, _, [model] = page.run(load, url=url)
    assert found == hashlib.sha256(OTHER).hexdigest() and model["etag"] == '"two"'
    server.files["model.gguf"].always = Fault()
    assert page.run(load, url=url)[0] == found


@pytest.mark.parametrize("stop", [900_000, None])
def test_what_a_server_names_no_version_of_is_known_by_its_begin_and_end(
    page: Page, server: UnreliableServer, stop: int | None
) -> None:
    url = server.url("model.gguf", DATA)
    _, _, [model] = page.run(load, url=url, stop=stop)
    server.files["model.gguf"].requests.clear()
    assert page.run(load, url=url)[0] == SHA256
    begins = [int(request.split("=")[1].split("-")[0]) for request in server.files["model.gguf"].requests]
    assert begins[:2] == [0, model["stored"] - (64 << 10)] and all(begin >= model["stored"] for begin in begins[2:])
    page.run("from llamaweb import cache\nawait cache.clear()")
    page.run(load, url=url, stop=stop)
    for other in (DATA[:500_000] + OTHER[500_000:], OTHER[:500_000] + DATA[500_000:], DATA):  # of one size
        server.url("model.gguf", other)
        assert page.run(load, url=url)[0] == hashlib.sha256(other).hexdigest()


def test_a_beginning_from_a_server_without_versions_and_ranges_is_not_trusted(
    page: Page, server: UnreliableServer
) -> None:
    _, _, [model] = page.run(load, url=server.url("model.gguf", DATA, ranges=False, pace=0.01), stop=900_000)
    assert model["stored"] < SIZE
    other = server.url("model.gguf", OTHER, ranges=False)
    assert page.run(load, url=other)[0] == hashlib.sha256(OTHER).hexdigest()


@pytest.mark.parametrize("stop", [900_000, None])
def test_a_page_that_asks_for_a_login_is_not_kept_nor_displaces_what_is(
    page: Page, server: UnreliableServer, stop: int | None
) -> None:
    models = "from llamaweb import cache\nreturn [(model.url, model.stored) for model in await cache.list()]"
    url = server.url("model.gguf", PAGE, headers={"ETag": '"page"'})
    with pytest.raises(ModelFileError, match="is cut off"):
        page.run(load, url=url)
    assert page.run(models) == []
    server.url("model.gguf", DATA, headers=ETAG)
    _, _, [model] = page.run(load, url=url, stop=stop)
    server.url("model.gguf", PAGE, headers={"ETag": '"page"'})
    if stop:
        with pytest.raises(ModelFileError, match="is cut off"):
            page.run(load, url=url)
    else:
        assert page.run(load, url=url)[0] == SHA256
    assert page.run(models) == [(url, model["stored"])]


def test_an_address_that_is_another_one_the_next_time_is_not_kept(page: Page) -> None:
    async def blob(source, data):
        import js
        from pyodide.ffi import to_js

        scope = {}
        exec(source, scope)
        return await scope["load"](js.URL.createObjectURL(js.Blob.new(to_js([to_js(data)]))))

    assert page.run(blob, source=inspect.getsource(load), data=DATA) == (SHA256, [], [])


@pytest.mark.parametrize("told", ["given", "by the server"])
def test_the_checksum_is_checked(page: Page, server: UnreliableServer, told: str) -> None:
    headers = ETAG if told == "given" else {"X-Linked-ETag": f'"{SHA256}"'}
    url = server.url("model.gguf", DATA, headers=headers)
    sha256 = SHA256 if told == "given" else None
    page.run(load, url=url, sha256=sha256, stop=900_000)
    found, _, [model] = page.run(load, url=url, sha256=sha256)
    assert found == SHA256 and model["verified"] and model["sha256"] == SHA256
    requests = len(server.files["model.gguf"].requests)
    if told == "given":  # known by its content, so that nobody is asked
        assert page.run(load, url=url, sha256=sha256)[0] == SHA256
        assert len(server.files["model.gguf"].requests) == requests


@pytest.mark.parametrize("keep", [True, False])
def test_content_of_another_checksum_is_an_error_and_not_kept(page: Page, server: UnreliableServer, keep: bool) -> None:
    url = server.url("model.gguf", DATA[:-1] + b"x", headers=ETAG)
    with pytest.raises(
        DownloadError, match=rf"model\.gguf is damaged: its SHA-256 is \w+, not {SHA256}; load it again"
    ):
        page.run(load, url=url, sha256=SHA256, keep=keep)
    assert page.run("from llamaweb import cache\nreturn list(await cache.list())") == []
    server.url("model.gguf", DATA, headers=ETAG)
    assert page.run(load, url=url, sha256=SHA256, keep=keep)[0] == SHA256


def test_an_address_whose_signature_changes_is_one_file_which_is_kept_without_it(
    page: Page, server: UnreliableServer
) -> None:
    url = server.url("a model.gguf", DATA, headers=ETAG)
    first, second = (f"{url}?v=1&X-Amz-Signature={sig}&X-Amz-Date=1" for sig in "ab")
    assert page.run(load, url=f"{first}#x")[0] == SHA256
    server.files["a model.gguf"].always = Fault()
    found, [warned], [model] = page.run(load, url=second)
    assert found == SHA256 and model["url"] == f"{server.base}/a%20model.gguf?v=1"
    assert warned.endswith("not tell whether it is the same, and its address was signed otherwise then.")
    server.files["a model.gguf"].always = None
    assert page.run(load, url=second)[:2] == (SHA256, [])  # the server tells that it is the same
    server.files["a model.gguf"].always = Fault()
    assert page.run(load, url=second)[:2] == (SHA256, [])
    page.run("from llamaweb import cache\nawait cache.remove(url)", url=f"{url}?v=1&X-Amz-Signature=c")
    assert page.run("from llamaweb import cache\nreturn await cache.size()") == 0


@pytest.mark.parametrize("status", [401, 403])
def test_a_kept_file_that_its_server_refuses_is_taken_with_a_sentence_and_for_no_other_signature(
    page: Page, server: UnreliableServer, status: int
) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG)
    page.run(load, url=f"{url}?sig=a")
    server.files["model.gguf"].always = Fault(status)
    found, [warned], _ = page.run(load, url=f"{url}?sig=a")
    assert found == SHA256 and warned.endswith(f"as it was kept: its server answered {status}.")
    for other in (url, f"{url}?sig=b"):
        with pytest.raises(
            DownloadError, match=rf"answered {status}, and what the browser's storage has of {url} came"
        ):
            page.run(load, url=other)
    asked = len(server.files["model.gguf"].requests)
    assert page.run(load, url=f"{url}?sig=b", only=True)[:2] == (SHA256, [])
    assert len(server.files["model.gguf"].requests) == asked


def test_a_file_that_is_not_kept_in_whole_is_not_asked_for_where_only_what_is_kept_is_wanted(
    page: Page, server: UnreliableServer
) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG, pace=0.01)
    for _ in ("nothing is there", "a part is"):
        asked = len(server.files["model.gguf"].requests)
        with pytest.raises(
            CacheError, match=r"model\.gguf is not in the browser's storage in whole, and its server was"
        ):
            page.run(load, url=url, only=True)
        assert len(server.files["model.gguf"].requests) == asked
        page.run(load, url=url, stop=900_000)


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


def test_two_loads_at_once_do_not_disturb_each_other(page: Page, server: UnreliableServer) -> None:
    async def twice(source, url):
        import asyncio

        scope = {}
        exec(source, scope)
        return await asyncio.gather(scope["load"](url), scope["load"](url), scope["load"](url))

    url = server.url("model.gguf", DATA, headers=ETAG, pace=0.01)
    results = page.run(twice, source=inspect.getsource(load), url=url)
    assert [found for found, _, _ in results] == [SHA256] * 3
    assert page.run(load, url=url)[0] == SHA256


def test_models_are_removed_by_name_and_all_together(page: Page, server: UnreliableServer) -> None:
    for name in ("a", "b", "c"):
        page.run(load, url=server.url(f"{name}.gguf", DATA, headers=ETAG))
    names = "return [m.name for m in await cache.list()]"
    url = f"{server.base}/b.gguf"
    assert page.run(f"from llamaweb import cache\nawait cache.remove(url)\n{names}", url=url) == ["c.gguf", "a.gguf"]
    with pytest.raises(CacheError, match=r"b\.gguf is not in the cache; llamaweb\.cache\.list\(\) tells what is"):
        page.run("from llamaweb import cache\nawait cache.remove(url)", url=url)
    assert page.run(f"from llamaweb import cache\nawait cache.clear()\n{names}") == []


def test_what_nobody_knows_what_it_is_is_removed_when_it_is_seen_but_not_from_under_a_tab(
    page: Page, server: UnreliableServer
) -> None:
    async def see(source, url):
        from pyodide.ffi import to_js

        from llamaweb import cache
        from llamaweb.files import model_cache

        scope = {}
        exec(source, scope)
        await scope["load"](url)
        whole = {model_cache.key(url), f"{model_cache.key(url)}.json"}
        store = model_cache.opfs()
        for name in ("lost JSON", "damaged JSON", "locked"):
            writer = await model_cache.writer(name, True)
            writer.append(to_js(bytes(1000)))
            await writer.close()
        await store.put(f"{model_cache.key('damaged JSON')}.json", '{"url": "dam')
        await store.put(f"{model_cache.key('lost file')}.json", "{}")
        release = await model_cache.lock("locked", "exclusive")
        found = []
        for _ in range(2):
            models = await cache.list()
            found.append(([model.url for model in models], {str(name) for name in await store.names()} - whole))
            release()
        return found, model_cache.key("locked")

    url = server.url("model.gguf", DATA, headers=ETAG)
    found, locked = page.run(see, source=inspect.getsource(load), url=url)
    assert found == [([url], {locked}), ([url], set())]


def test_a_model_that_is_being_loaded_is_not_removed_with_the_others(page: Page, server: UnreliableServer) -> None:
    page.run(load, url=server.url("model.gguf", DATA, headers=ETAG))
    page.run(load, url=server.url("other.gguf", DATA, headers=ETAG))
    page.run(load, url=f"{server.base}/model.gguf")
    for remove in ("remove(url)", "clear()"):
        with pytest.raises(CacheError, match=r"model\.gguf is being loaded, perhaps in another tab"):
            page.run(
                f"""
                from llamaweb import cache
                from llamaweb.files import model_cache
                release = await model_cache.lock(url, "shared")
                try:
                    await cache.{remove}
                finally:
                    release()
                """,
                url=f"{server.base}/model.gguf",
            )
    assert page.run("from llamaweb import cache\nreturn [m.name for m in await cache.list()]") == ["model.gguf"]


def test_on_the_main_thread_a_file_is_kept_when_it_is_closed_and_goes_on(page: Page) -> None:
    opfs = Path(llamaweb.__file__).with_name("files").joinpath("opfs.js").read_text().strip()
    script = f"""
        const done = arguments[0];
        (async () => {{
            const opfs = ({opfs})("main-thread");
            const bytes = (from, to) => Uint8Array.from({{ length: to - from }}, (_, i) => (from + i) % 251);
            const first = await opfs.writer("file", true);
            await first.append(bytes(0, 1000), true);
            await first.append(bytes(1000, 3000), false);
            const header = Array.from(await first.read(0, 1000));
            await first.close();
            const second = await opfs.writer("file", false);
            const at = second.size();
            await second.append(bytes(3000, 4000), true);
            const across = Array.from(await second.read(2990, 3010));
            await second.close();
            const all = Array.from(new Uint8Array(await (await opfs.file("file")).arrayBuffer()));
            await opfs.remove("file");
            return {{ header, at, across, all }};
        }})().then(done, (error) => done(String(error)));
    """
    driver: Any = page.runner.driver
    found = driver.execute_async_script(script)
    assert isinstance(found, dict), found
    whole = [i % 251 for i in range(4000)]
    assert found == {"header": whole[:1000], "at": 3000, "across": whole[2990:3010], "all": whole}


def test_sha256_of_every_length_around_a_block(page: Page) -> None:
    async def digests(data, lengths):
        from pyodide.ffi import to_js

        from llamaweb.javascript import js_file

        found = []
        for length in lengths:
            hash = js_file("files/sha256.js")()
            for at in range(0, length, 37):
                await hash.update(to_js(data[at : min(length, at + 37)]))
            found.append(await hash.digest())
            hash.close()
        return found

    lengths = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 5000]
    found = page.run(digests, data=DATA[:5000], lengths=lengths)
    assert json.dumps(found) == json.dumps([hashlib.sha256(DATA[:n]).hexdigest() for n in lengths])


def test_sha256_of_more_bits_than_a_word_counts(page: Page) -> None:
    async def digest(pieces, rest):
        import js

        from llamaweb.javascript import js_file

        hash = js_file("files/sha256.js")()
        for size in (*[1 << 26] * pieces, rest):
            await hash.update(js.Uint8Array.new(size))
        found = await hash.digest()
        hash.close()
        return found

    expected = hashlib.sha256()
    for size in (*[1 << 26] * 8, 3):  # 2^32 bits and 24
        expected.update(bytes(size))
    assert page.run(digest, pieces=8, rest=3) == expected.hexdigest()


# A worker ends once it has begun, as one does whose memory is full: where it is to `digest`, or at its second `piece`;
# with an error of its own, or without a word. Seconds pass quickly.
ENDING_WORKER = """
const { Worker: RealWorker, setInterval: realInterval } = globalThis;
globalThis.whole = () => Object.assign(globalThis, { Worker: RealWorker, setInterval: realInterval });
globalThis.setInterval = (call, ms) => realInterval(call, ms / 50);
globalThis.Worker = class extends RealWorker {
  #pieces = 0;
  postMessage(data, ...rest) {
    if (AT === "digest" ? data === null : ++this.#pieces === 2) {
      this.terminate();
      if (WORD) setTimeout(() => this.onerror({ message: "out of memory" }));
    } else super.postMessage(data, ...rest);
  }
};
"""


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("at", ["piece", "digest"])
def test_a_worker_that_ends_while_it_hashes_is_told_and_the_file_is_checked_the_next_time(
    page: Page, server: UnreliableServer, at: str, word: bool
) -> None:
    data = DATA * 6  # more than the worker may be behind
    sha256, url = hashlib.sha256(data).hexdigest(), server.url("model.gguf", data, headers=ETAG)
    run = "from pyodide.code import run_js\nrun_js(script)"
    page.run(run, script=ENDING_WORKER.replace("AT", json.dumps(at)).replace("WORD", json.dumps(word)))
    why = "out of memory" if word else "it was silent for 30 seconds"
    try:
        with pytest.raises(
            DownloadError, match=rf"^model\.gguf could not be checked \(.+ ended: {why}\); load it again"
        ):
            page.run(load, url=url, sha256=sha256)
    finally:
        page.run(run, script="whole()")
    found, _, [model] = page.run(load, url=url, sha256=sha256)
    assert found == sha256 and model["verified"]
