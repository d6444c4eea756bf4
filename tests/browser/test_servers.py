"""Servers of every habit: what a plain fetch of the page can read is read, with nothing but Range asked for."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import threading
from collections.abc import Iterator
from itertools import count

import pytest
from aiohttp import web
from browser_page import Page

from llamaweb.errors import ModelFileError
from tests.tiny import TinyLlama, tiny_llama

MODEL = tiny_llama(TinyLlama(n_vocab=20_000))  # more than is asked for at first
SHA256 = hashlib.sha256(MODEL).hexdigest()
CORS = {"Access-Control-Allow-Origin": "*"}
NODES = count()


def ranged(request: web.Request, **more: str) -> web.Response:
    """The range that is asked for, or all; nothing is exposed to other sites but what `more` exposes."""
    wanted = request.headers.get("Range")
    if not wanted:
        return web.Response(body=MODEL, headers=CORS | more)
    first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
    last = min(last, len(MODEL) - 1)
    told = {"Content-Range": f"bytes {first}-{last}/{len(MODEL)}"}
    return web.Response(status=206, body=MODEL[first : last + 1], headers=CORS | told | more)


async def answer(request: web.Request) -> web.StreamResponse:
    if request.method == "OPTIONS":
        return web.Response(status=403)  # a preflight: of a header that is not safe
    match request.match_info["habit"]:
        case "signed-for-get" if request.method == "HEAD":
            return web.Response(status=403)
        case "no-head" if request.method == "HEAD":
            return web.Response(status=405)
        case "signed-for-get" | "no-head":
            return ranged(request)
        case "always-gzip":
            return web.Response(body=gzip.compress(MODEL), headers=CORS | {"Content-Encoding": "gzip"})
        case "gzip-without-range" if "Range" not in request.headers:
            return web.Response(body=gzip.compress(MODEL), headers=CORS | {"Content-Encoding": "gzip"})
        case "gzip-without-range" | "star":
            return ranged(request, **{"Content-Range": request.headers.get("Range", "").replace("=", " ") + "/*"})
        case "whole":
            return web.Response(body=MODEL, headers=CORS)
        case "no-length":
            response = web.StreamResponse(headers=CORS)
            await response.prepare(request)
            await response.write(MODEL)
            return response
        case "refuses-ranges" if "Range" in request.headers:
            return web.Response(status=501, headers=CORS)
        case "refuses-ranges":
            return web.Response(body=MODEL, headers=CORS)
        case "redirects":
            raise web.HTTPFound("/no-head/m.gguf", headers=CORS if request.method == "GET" else {})
        case "nodes" | "nodes-told":
            exposed = {"Access-Control-Expose-Headers": "ETag, Last-Modified, Content-Range, X-Linked-ETag"}
            version = {"ETag": f'"{next(NODES)}"', "Last-Modified": f"Sun, 29 Nov 2026 10:00:{next(NODES) % 60:02} GMT"}
            told = {"X-Linked-ETag": f'"{SHA256}"'} if request.match_info["habit"] == "nodes-told" else {}
            return ranged(request, **exposed, **version, **told)
        case "one-etag":
            exposed = {"Access-Control-Expose-Headers": "ETag, Last-Modified, Content-Range"}
            version = {"ETag": '"1"', "Last-Modified": f"Sun, 29 Nov 2026 10:00:{next(NODES) % 60:02} GMT"}
            return ranged(request, **exposed, **version)
        case "weak-etag":
            exposed = {"Access-Control-Expose-Headers": "ETag, Content-Range"}
            return ranged(request, **exposed, ETag='W/"1"' if next(NODES) % 2 else '"1"')
        case "login":
            return web.Response(text="<!DOCTYPE html><title>Log in</title>", content_type="text/html", headers=CORS)
        case "pointer":
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(MODEL)}\n"
            return web.Response(text=text, headers=CORS)
    return web.Response(status=404, headers=CORS)


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        app = web.Application()
        app.router.add_route("*", "/{habit}/{name}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.append(runner.addresses[0][1])
        ready.set()

    loop.create_task(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{port[0]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


async def content(url, sha256=None, ranges=None):
    """The SHA-256 of what streams from a URL's source, read as a load reads it, in ranges of `ranges` bytes."""
    import hashlib

    from pyodide.ffi import JsException

    from llamaweb.files.blob_source import read_error
    from llamaweb.files.cached_source import CachedSource
    from llamaweb.files.url_source import Patience, UrlSource
    from llamaweb.model.shards import read_model

    remote = UrlSource(url, patience=Patience(delay=10, range=ranges or 16 << 20))
    source = CachedSource(remote, {remote.url: sha256} if sha256 else {}, keep=False)
    try:
        await read_model(source)
        digest, reader = hashlib.sha256(), await source.stream(0)
        while not (piece := await reader.read()).done:
            digest.update(piece.value.to_bytes())
        return digest.hexdigest()
    except JsException as error:
        raise read_error(error, source.name) from None
    finally:
        await source.close()


HABITS = ("signed-for-get", "no-head", "always-gzip", "gzip-without-range", "star", "whole", "no-length")
HABITS += ("refuses-ranges", "redirects", "one-etag", "weak-etag", "nodes-told")


@pytest.mark.parametrize("habit", HABITS)
def test_a_server_that_a_plain_fetch_reads_is_read(page: Page, base: str, habit: str) -> None:
    assert page.run(content, url=f"{base}/{habit}/m.gguf?X-Amz-Signature=1", ranges=1 << 20) == SHA256


def test_versions_that_differ_from_node_to_node_matter_where_the_content_is_not_checked(page: Page, base: str) -> None:
    url = f"{base}/nodes/m.gguf"
    assert page.run(content, url=url, sha256=SHA256, ranges=1 << 20) == SHA256
    with pytest.raises(ModelFileError, match="changed on the server while loading"):
        page.run(content, url=url, ranges=1 << 20)
    with pytest.raises(ModelFileError, match=f"is damaged: its SHA-256 is {SHA256}, not 00"):
        page.run(content, url=url, sha256="0" * 64, ranges=1 << 20)


@pytest.mark.parametrize(
    ("habit", "told"), [("login", "as a web page does; check the address"), ("pointer", "as a pointer of Git LFS does")]
)
def test_what_came_in_place_of_a_model_is_named(page: Page, base: str, habit: str, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        page.run(content, url=f"{base}/{habit}/m.gguf")


async def answer_of(url):
    """Six tokens of a model at a URL, twice: as it comes, and as it is kept."""
    from llamaweb import Llama

    tokens = []
    for _ in range(2):
        async with await Llama.load(url, n_ctx=64, n_ubatch=16, tune="off") as llm:
            async for _ in llm.stream("the and in", temperature=0, max_tokens=6, ignore_eos=True):
                pass
            tokens.append(llm.tokens)
    return tokens


@pytest.mark.parametrize("habit", ["signed-for-get", "always-gzip"])
def test_such_a_model_answers_and_is_kept(page: Page, base: str, habit: str) -> None:
    first, again = page.run(answer_of, url=f"{base}/{habit}/m.gguf")
    assert len(first) == 6 and first == again
