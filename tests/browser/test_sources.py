"""Models from every source, end to end: the same tokens; progress; cancelled loads give everything back."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import time
from typing import Any

import pytest
from browser_page import Page
from unreliable_server import Fault, UnreliableServer

from llamaweb.errors import CacheError, DownloadError, ModelFileError
from tests.splits import split
from tests.tiny import TinyLlama, tiny_llama

# Rope factors are read while the weights stream past.
MODEL = tiny_llama(TinyLlama(type="Q8_0", rope_freqs=True, head_dim=24, n_embd=96, n_head=4))
SHARDS = split(MODEL, 3, "tiny")


async def tokens(model, files=None, **options):
    """Eight tokens of the model: bytes, a URL, or `files` by name, made into Files, handles or a list of URLs."""
    import js
    from pyodide.ffi import to_js

    from llamaweb import Llama

    if files:
        model = [js.File.new(to_js([to_js(data)]), name) for name, data in files.items()]
    async with await Llama.load(model, n_ctx=32, n_ubatch=4, tune="off", **options) as llm:
        async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=8):
            pass
        return llm.tokens


@pytest.fixture(scope="module")
def expected(page: Page) -> list[int]:
    page.run("from llamaweb import cache\nawait cache.clear()")
    return page.run(tokens, model=MODEL)


@pytest.fixture
def shards(server: UnreliableServer) -> list[str]:
    return [server.url(f"models/{name}", data, headers={"ETag": '"1"'}) for name, data in SHARDS.items()]


def test_a_url_of_any_shard_loads_the_whole_model_and_again_from_the_cache(
    page: Page, server: UnreliableServer, shards: list[str], expected: list[int]
) -> None:
    assert page.run(tokens, model=shards[1]) == expected
    for name in SHARDS:
        del server.files[f"models/{name}"]
    assert page.run(tokens, model=shards[0]) == expected
    for given in (shards[0], shards):
        assert page.run(tokens, model=given, cache="only") == expected
        with pytest.raises(DownloadError, match="answered 404"):
            page.run(tokens, model=given, cache=False)


@pytest.mark.parametrize(
    "address",
    [
        *("/no-such.gguf?token=hunter2", "http://me:hunter2@127.0.0.1:9/m.gguf", "http://me:hunter2@[::1/x"),
        *("http://h:99999/x?token=hunter2", "ftp://me:hunter2@h/x", ["http://me:hunter2@[::1/a"]),
    ],
)
def test_no_error_repeats_a_secret_of_an_address(
    page: Page, server: UnreliableServer, address: str | list[str]
) -> None:
    if isinstance(address, str) and address.startswith("/"):
        address = server.url("there", b"").removesuffix("/there") + address
    with pytest.raises(ModelFileError) as error:
        page.run(tokens, model=address, cache=False)
    assert "hunter" not in str(error.value)


def test_a_kept_file_with_a_damaged_header_is_given_up_and_fetched_anew(
    page: Page, server: UnreliableServer, expected: list[int], shards: list[str]
) -> None:
    async def damage(url):
        from llamaweb.files import model_cache

        writer = await model_cache.writer(url, False)
        data = writer.read(0, writer.size())
        await writer.close()
        data[30] = 255
        writer = await model_cache.writer(url, True)
        writer.append(data)
        await writer.close()

    stored = "from llamaweb import cache\nreturn {model.url for model in await cache.list()}"
    page.run(tokens, model=shards[0])
    page.run(damage, url=shards[1])
    with pytest.raises(ModelFileError, match=r"and tiny-00002-of-00003\.gguf cannot be read: .* is damaged: .* again"):
        page.run(tokens, model=shards[0])
    kept = page.run(stored)
    assert {shards[0], shards[2]} <= kept and shards[1] not in kept
    assert page.run(tokens, model=shards[0]) == expected


# Whatever is kept now cannot be read from a byte on, until it is removed.
BREAK_OFF = """
const [handle, folder, access] = [FileSystemFileHandle, FileSystemDirectoryHandle, FileSystemSyncAccessHandle];
const real = [handle.prototype.createSyncAccessHandle, folder.prototype.removeEntry, access.prototype.read];
const kept = await (await navigator.storage.getDirectory()).getDirectoryHandle("llamaweb-models");
const damaged = new Set(await Array.fromAsync(kept.keys()));
handle.prototype.createSyncAccessHandle = async function (...args) {
  return Object.assign(await real[0].apply(this, args), { damaged: damaged.has(this.name) });
};
folder.prototype.removeEntry = function (name) {
  damaged.delete(name);
  return real[1].call(this, name);
};
access.prototype.read = function (data, { at }) {
  if (this.damaged && at + data.length > FROM) throw new DOMException("the disk is damaged", "UnknownError");
  return real[2].call(this, data, { at });
};
globalThis.whole = () => {
  [handle.prototype.createSyncAccessHandle, folder.prototype.removeEntry, access.prototype.read] = real;
};
"""


@pytest.mark.parametrize("begin", [0, 2000])
def test_a_kept_file_that_breaks_off_is_given_up_and_fetched_again_where_that_is_wanted(
    page: Page, server: UnreliableServer, shards: list[str], expected: list[int], begin: int
) -> None:
    async def told(source, model, cache):
        import warnings

        scope = {}
        exec(source, scope)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = await scope["tokens"](model, cache=cache)
            except Exception as error:
                found = str(error)
        return found, [str(each.message) for each in caught]

    keeps = "from llamaweb import cache\nreturn {model.url for model in await cache.list() if model.complete}"
    for wanted in (True, "only"):
        assert page.run(tokens, model=shards[1]) == expected
        page.runner.run_js(BREAK_OFF.replace("FROM", str(begin)))
        try:
            found, said = page.run(told, source=inspect.getsource(tokens), model=shards[1], cache=wanted)
        finally:
            page.runner.run_js("whole()")
        broken = (
            r"What the .+ has of tiny-0000\d-of-00003\.gguf cannot be .+ \(UnknownError: the .+ged\), and is given up\."
        )
        assert said and len(said) == len(set(said)) and all(re.fullmatch(broken, each) for each in said), said
        if wanted == "only":
            assert "is not in the browser's storage in whole" in found
        else:
            assert found == expected and page.run(keeps) == set(shards)


def test_a_list_of_urls_needs_no_common_folder(page: Page, server: UnreliableServer, expected: list[int]) -> None:
    urls = [f"{server.url(f'{n}/{file}', SHARDS[file])}?sig={n}" for n, file in enumerate(SHARDS)]
    assert page.run(tokens, model=urls[::-1], cache=False) == expected


def test_files_that_were_chosen_together_are_one_model(page: Page, expected: list[int]) -> None:
    assert page.run(tokens, model=None, files=dict(reversed(SHARDS.items()))) == expected


def test_a_shard_that_was_not_chosen_is_named(page: Page) -> None:
    name = "tiny-00002-of-00003.gguf"
    with pytest.raises(ModelFileError, match=rf"and {name} cannot be read: it was not among the files"):
        page.run(tokens, model=None, files={key: data for key, data in SHARDS.items() if key != name})


def test_a_shard_that_the_server_lacks_is_named(page: Page, server: UnreliableServer) -> None:
    url = server.url("some/tiny-00001-of-00003.gguf", SHARDS["tiny-00001-of-00003.gguf"])
    with pytest.raises(ModelFileError, match=r"tiny-0000[23]-of-00003\.gguf cannot be read: .* answered 404"):
        page.run(tokens, model=url, cache=False)


def test_a_file_of_the_browsers_storage(page: Page, expected: list[int]) -> None:
    async def from_handle(source, data):
        import js
        from pyodide.ffi import to_js

        scope = {}
        exec(source, scope)
        root = await js.navigator.storage.getDirectory()
        handle = await root.getFileHandle("own.gguf", to_js({"create": True}, dict_converter=js.Object.fromEntries))
        access = await handle.createSyncAccessHandle()
        access.write(to_js(data))
        access.close()
        try:
            return await scope["tokens"](handle)
        finally:
            await root.removeEntry("own.gguf")

    import inspect

    assert page.run(from_handle, source=inspect.getsource(tokens), data=MODEL) == expected


def test_progress_tells_bytes_rate_and_time_left(page: Page, server: UnreliableServer) -> None:
    async def progress(url):
        from llamaweb import Llama

        told = []
        llm = await Llama.load(url, n_ctx=32, n_ubatch=1, tune="off", cache=False, progress=told.append)
        await llm.close()
        return [p for p in told if p.phase == "weights"]

    told = page.run(progress, url=server.url("model.gguf", MODEL, pace=0.5))
    assert (told[-1].done, told[-1].total, told[-1].unit) == (len(MODEL), len(MODEL), "B")
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert len(told) > 5  # in a second and a half
    middle = told[len(told) // 2]
    assert middle.rate > 0 and middle.seconds_left == pytest.approx((middle.total - middle.done) / middle.rate)


def test_a_load_that_is_cancelled_at_any_point_gives_all_gpu_memory_back(page: Page, server: UnreliableServer) -> None:
    async def cancelled(url, after):
        import asyncio

        from llamaweb import Llama
        from llamaweb.files.model_cache import lock
        from llamaweb.gpu.device import Device

        devices, opened = [], Device.open

        async def open():
            devices.append(await opened())
            return devices[-1]

        Device.open = open
        most = 0

        def stop(progress):
            nonlocal most
            most = max([most, *(device.live_bytes for device in devices)])
            if (progress.phase, progress.done > after[1]) == (after[0], True):
                task.cancel()

        try:
            task = asyncio.ensure_future(Llama.load(url, n_ctx=32, n_ubatch=4, tune="off", progress=stop))
            await asyncio.wait([task])
        finally:
            Device.open = opened
        release = await lock(url, "exclusive")
        release()
        return task.cancelled(), most, sum(device.live_bytes for device in devices)

    url = server.url("model.gguf", MODEL, headers={"ETag": '"1"'}, pace=0.3)
    for phase, done in (("header", 0), ("weights", 0), ("weights", len(MODEL) // 2), ("pipelines", 2)):
        was_cancelled, most, left = page.run(cancelled, url=url, after=(phase, done))
        assert was_cancelled and left == 0
        assert (most > 0) == (phase != "header")


def test_a_file_that_is_gone_while_it_is_read_is_told_in_a_sentence(page: Page) -> None:
    async def gone(data):
        import js
        from pyodide.code import run_js
        from pyodide.ffi import to_js

        from llamaweb import Llama
        from llamaweb.files.blob_source import BlobSource

        class Gone(BlobSource):
            async def stream(self, offset):
                return run_js("new ReadableStream({ start: (c) => c.error(new TypeError('gone')) }).getReader()")

        await Llama.load(Gone(js.Blob.new(to_js([to_js(data)])), "model.gguf"), n_ctx=32, n_ubatch=4, tune="off")

    with pytest.raises(
        ModelFileError, match=r"^model\.gguf cannot be read to its end \(TypeError: gone\); give it again"
    ):
        page.run(gone, data=MODEL)


REPO = "some-owner/some-model-GGUF"


@pytest.fixture
def hub(server: UnreliableServer) -> str:
    """A hub with one repository, listed as the Hugging Face hub does."""
    files = {"a/tiny-q8_0.gguf": MODEL, "tiny-f16.gguf": MODEL[:-1], "README.md": b"hello", **SHARDS}
    listing = [
        {"rfilename": path, "size": len(data), "lfs": {"sha256": hashlib.sha256(data).hexdigest()}}
        if path.endswith(".gguf")
        else {"rfilename": path, "size": len(data)}
        for path, data in files.items()
    ]
    body = json.dumps({"id": REPO, "siblings": listing}).encode()
    server.url(f"api/models/{REPO}/revision/main", body, ranges=False)
    for path, data in files.items():
        server.url(f"{REPO}/resolve/main/{path}", data)
    return server.base


async def pretrained(endpoint, filename, repo_id="some-owner/some-model-GGUF", keep=True):
    import warnings

    from llamaweb import Llama, cache

    options = {"n_ctx": 32, "n_ubatch": 4, "tune": "off", "endpoint": endpoint}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llm = await Llama.from_pretrained(repo_id, filename, cache=keep, **options)
    async with llm:
        async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=8):
            pass
        verified = {model.url: model.verified for model in await cache.list()}
        return llm.tokens, verified, [str(each.message) for each in caught]


def test_a_pattern_names_one_file_of_a_hub_which_loads_again_without_it(
    page: Page, server: UnreliableServer, hub: str, expected: list[int]
) -> None:
    found, verified, _ = page.run(pretrained, endpoint=hub, filename="*q8_0.gguf")
    assert found == expected and verified[f"{hub}/{REPO}/resolve/main/a/tiny-q8_0.gguf"]
    server.files.clear()
    assert page.run(pretrained, endpoint=hub.upper() + "/", filename="*q8_0.gguf")[0] == expected


def test_a_hub_at_an_address_beyond_ascii_has_its_checksums_and_is_found_without_the_network(
    page: Page, server: UnreliableServer, hub: str, expected: list[int]
) -> None:
    endpoint = hub.replace("127.0.0.1", "Bücher.localhost")
    found, verified, _ = page.run(pretrained, endpoint=endpoint, filename="*q8_0.gguf")
    written = hub.replace("127.0.0.1", "xn--bcher-kva.localhost")
    assert found == expected and verified[f"{written}/{REPO}/resolve/main/a/tiny-q8_0.gguf"]
    server.files.clear()
    assert page.run(pretrained, endpoint=endpoint, filename="*q8_0.gguf")[0] == expected


@pytest.mark.parametrize("answer", ["a login", "an error", "silence"])
def test_a_kept_model_of_a_hub_that_does_not_answer_as_one_loads_soon_and_another_is_an_error(
    page: Page, server: UnreliableServer, hub: str, expected: list[int], answer: str
) -> None:
    page.run(pretrained, endpoint=hub, filename="*q8_0.gguf")
    listing = server.files[f"api/models/{REPO}/revision/main"]
    if answer == "a login":
        listing.data = b"<!doctype html><title>Log in</title>"
    else:
        listing.always = Fault(401) if answer == "an error" else Fault(then="stall")
    begin = time.monotonic()
    found, _, warned = page.run(pretrained, endpoint=hub, filename="*q8_0.gguf")
    assert found == expected and time.monotonic() - begin < 45
    told = {"a login": [r"its hub sends something else, as .* a login\."], "an error": [r"its hub answered 401\."]}
    assert len(warned) == len(told.get(answer, []))
    assert all(map(re.search, told.get(answer, []), warned))
    listing.requests.clear()
    assert page.run(pretrained, endpoint=hub, filename="*q8_0.gguf", keep="only")[::2] == (expected, [])
    with pytest.raises(
        CacheError, match=r"that fits '\*f16\.gguf' is in the browser's storage, and the hub was not to"
    ):
        page.run(pretrained, endpoint=hub, filename="*f16.gguf", keep="only")
    assert listing.requests == []
    if answer != "silence":
        with pytest.raises(DownloadError, match=rf"The files of {REPO} cannot be listed: .*(401|JSON)"):
            page.run(pretrained, endpoint=hub, filename="*f16.gguf")


@pytest.mark.parametrize("pattern", ["*-of-00003.gguf", "tiny-00001-of-*.gguf"])
def test_a_pattern_names_one_set_of_shards(page: Page, hub: str, expected: list[int], pattern: str) -> None:
    found, verified, _ = page.run(pretrained, endpoint=hub, filename=pattern)
    assert found == expected
    assert all(verified[f"{hub}/{REPO}/resolve/main/{name}"] for name in SHARDS)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "several": ({"filename": "*.gguf"}, ModelFileError, r"5 files of .* fit '\*\.gguf': a/tiny-q8_0\.gguf, tiny-f16"),
    "none": ({"filename": "*q4_0.gguf"}, ModelFileError, r"No file .* fits '\*q4_0\.gguf'; it has a/tiny-q8_0\.gguf,"),
    "no repository": (
        {"filename": "*", "repo_id": "no/such"},
        DownloadError,
        "no/such cannot be listed: .* answered 404",
    ),
    "no address": (
        {"filename": "*", "endpoint": "http://[x"},
        DownloadError,
        r"'http://\[x/.*' is not an address; give one that begins with https://",
    ),
    "no page's": (
        {"filename": "*", "endpoint": "ftp://hub"},
        DownloadError,
        r"'ftp://hub/.*' is of ftp:, which no page can read; give one that begins with https://",
    ),
    "no name": ({"filename": "*", "repo_id": "a b"}, ModelFileError, "'a b' is no repository's name"),
    "damaged": ({"filename": "*f16.gguf"}, ModelFileError, "tiny-f16.gguf is cut off"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_a_hub_does_not_have_is_told_with_what_it_has(page: Page, hub: str, how: str) -> None:
    arguments, kind, sentence = REFUSED[how]
    with pytest.raises(kind, match=sentence):
        page.run(pretrained, **{"endpoint": hub, **arguments})


@pytest.mark.parametrize("sizes", [(1,) * 40, (3, 1, 7, 2, 64, 5), (4, 8, 4096), (4099,)], ids=str)
def test_chunks_of_any_size_reach_the_gpu_whole(page: Page, sizes: tuple[int, ...]) -> None:
    async def written(chunks, first, second):
        from pyodide.code import run_js
        from pyodide.ffi import to_js

        from llamaweb.gpu.device import Device
        from llamaweb.javascript import js_file, js_object

        reader = "(all) => ({read: async () => ({done: !all.length, value: all.shift()}), cancel: async () => {}})"
        stream = js_file("gpu/stream.js")(run_js(reader)(to_js(chunks)))
        device = await Device.open()
        buffer, slot = (
            device.buffer("x", 8192, "COPY_SRC", "COPY_DST"),
            device.buffer("y", 8192, "MAP_READ", "COPY_DST"),
        )
        queue = device.handle.queue
        pieces = js_object([{"skip": 0, "buffer": buffer, "at": 4, "size": first}])
        counts = [await stream.place(queue, None, pieces)]
        pieces = js_object([{"skip": 2, "buffer": buffer, "at": 4096, "size": second}])
        counts += [await stream.place(queue, None, pieces)]
        data = await js_file("gpu/replay.js")(device.handle).readBytes(buffer, 0, 8192, slot).there
        device.close()
        return counts, data.to_bytes()

    data = bytes((7 * i + i // 251) % 255 + 1 for i in range(sum(sizes)))
    chunks = [data[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
    first = len(data) // 2 + 1
    rest = len(data) - first - 2
    counts, found = page.run(written, chunks=chunks, first=first, second=rest + 9)
    assert counts == [first, 2 + rest]
    padded = -len(data[:first]) % 4
    assert found[: 4 + first + padded] == bytes(4) + data[:first] + bytes(padded)
    assert found[4096 : 4096 + rest + 4] == data[first + 2 :] + bytes(4)
