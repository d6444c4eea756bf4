"""The cache in the browser's storage: what is kept goes on where it was, and holds between tabs."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from browser_page import Page
from kept_file import DATA, ETAG, OTHER, PAGE, SHA256, SIZE, load
from unreliable_server import Fault, UnreliableServer

import llamaweb
from llamaweb.errors import CacheError, DownloadError, ModelFileError

pytestmark = pytest.mark.usefixtures("empty_cache")


NO_HANDLES = """
globalThis.createSyncAccessHandle = FileSystemFileHandle.prototype.createSyncAccessHandle;
FileSystemFileHandle.prototype.createSyncAccessHandle = async () => { throw new TypeError("mode is not known"); };
"""


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
