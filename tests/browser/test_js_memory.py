"""However large a model is, little of it is in the page's memory while it loads: the browser is asked how much."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_page import Page
from inspector import Inspector
from unreliable_server import UnreliableServer

from llamaweb.ggml import GGMLType
from llamaweb.host import synthetic
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from tests.tiny import TinyLlama, tiny_llama

MOST = 64 << 20  # bytes of JavaScript buffers, for any model
HASHED_LATER = 8 << 20  # of them what sha256.js may have on its way to its worker, where nobody can count it
HEAP_GROWTH = 48 << 20
STOPS = [1 << 20, 40 << 20]  # bytes on the GPU at which it is at a standstill for a while

# Begins to load; wherever the GPU stops, the rest comes as far as it is let.
BEGIN = """
import asyncio, builtins
from types import SimpleNamespace
from llamaweb.gpu import upload
from llamaweb.javascript import wasm_heap_bytes
from llamaweb.llama import Llama

state = builtins.stopping = SimpleNamespace(stopped=asyncio.Event(), go=asyncio.Event(), stops=list(stops), put=0)
put = upload._Uploader.put

async def put_and_stop(self, pieces, *rest):
    await put(self, pieces, *rest)
    state.put += sum(piece.size for piece in pieces)
    if state.stops and state.put >= state.stops[0]:
        state.stops.pop(0)
        state.stopped.set()
        await state.go.wait()
        state.go.clear()

async def load():
    heap = wasm_heap_bytes()
    upload._Uploader.put = put_and_stop
    try:
        llm = await Llama.load(url, n_ctx=32, n_ubatch=1, tune="off", sha256=sha256)
        await llm.close()
        return llm.file.size, wasm_heap_bytes() - heap
    finally:
        upload._Uploader.put = put
        state.stopped.set()

state.load = asyncio.ensure_future(load())
"""
STOPPED = """
import builtins
state = builtins.stopping
await state.stopped.wait()
state.stopped.clear()
if state.load.done():
    await state.load
"""
GO_ON = "import builtins\nbuiltins.stopping.go.set()"
END = "import builtins\nreturn await builtins.stopping.load"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Two layers of a model of 1B."""
    path: Path = tmp_path_factory.mktemp("models") / "large.gguf"
    shape = synthetic.Shape(2, 2048, 6144, 32, 8, n_vocab=320, head_dim=64, rope_base=1e4)
    tokenizer = asyncio.run(read_header(BytesSource(tiny_llama(TinyLlama(n_vocab=320))))).metadata
    synthetic.write(path, shape, GGMLType.Q8_0, tokenizer)
    return path.read_bytes()


@pytest.fixture
def inspector(page: Page) -> Iterator[Inspector]:
    inspector = Inspector(page.runner.driver)
    yield inspector
    inspector.close()


def most(inspector: Inspector) -> int:
    """Bytes of buffers when no more of them come."""
    found = [0, 0]
    while len(found) < 6 or max(found[-2:]) > max(found[:-2]):
        time.sleep(0.25)
        found.append(inspector.array_buffers())
    return max(found)


def test_no_more_than_64_mib_of_a_model_are_in_javascript_buffers_and_few_in_pythons_memory(
    page: Page, server: UnreliableServer, inspector: Inspector, model: bytes
) -> None:
    page.run("from llamaweb import cache\nawait cache.clear()")
    url, sha256 = server.url("large.gguf", model, headers={"ETag": '"1"'}), hashlib.sha256(model).hexdigest()
    assert len(model) > STOPS[-1] + (50 << 20)  # more than is fetched ahead

    def load() -> list[int]:
        before, held = inspector.array_buffers(), []
        page.run(BEGIN, url=url, sha256=sha256, stops=STOPS)
        for _ in STOPS:
            page.run(STOPPED)
            held.append(most(inspector) - before)
            page.run(GO_ON)
        size, heap_growth = page.run(END)
        assert size == len(model) and heap_growth <= HEAP_GROWTH
        assert inspector.array_buffers() - before < 1 << 20  # and nothing of it stays
        return held

    from_server = load()
    assert max(from_server) + HASHED_LATER <= MOST, from_server
    assert max(from_server) >= 24 << 20, from_server  # ranges side by side are there, and are counted
    del server.files["large.gguf"]
    from_storage = load()
    assert max(from_storage) <= MOST, from_storage
    page.run("from llamaweb import cache\nawait cache.clear()")


@pytest.mark.parametrize("keep", [True, False])
def test_headers_of_many_files_do_not_add_up(
    page: Page, server: UnreliableServer, inspector: Inspector, keep: bool
) -> None:
    urls = [server.url(f"{n}.gguf", bytes(2 << 20), headers={"ETag": '"1"'}) for n in range(20)]
    before = inspector.array_buffers()
    page.run(
        """
        import builtins
        from llamaweb.files.sources import open_source
        from llamaweb.model.gguf_file import FIRST_READ

        builtins.headers = [open_source(url, cache=keep) for url in urls]
        for source in builtins.headers:
            await source.read(0, FIRST_READ)
        """,
        urls=urls,
        keep=keep,
    )
    held = inspector.array_buffers() - before
    page.run("import builtins\nfor source in builtins.__dict__.pop('headers'):\n    await source.close()")
    page.run("from llamaweb import cache\nawait cache.clear()")
    assert held < 4 << 20
