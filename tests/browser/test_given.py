"""What a page or its Python has at hand loads as a model, or is refused by name in a sentence."""

from __future__ import annotations

import hashlib

import pytest
from browser_page import Page
from unreliable_server import UnreliableServer

from llamaweb.errors import ModelFileError
from tests.tiny import tiny_llama

MODEL = tiny_llama()
MODEL += bytes(-len(MODEL) % 8)  # so that it is whole numbers of 8 bytes, too
SHA256 = hashlib.sha256(MODEL).hexdigest()


async def content(make, data=b"", url="", twice=False):
    """The SHA-256 of what streams from `make`, an expression of Python over `data` as bytes and `array` in JavaScript;
    `twice`: of the source as it is loaded again."""
    import array as arrays  # noqa: F401
    import hashlib
    import io  # noqa: F401
    from pathlib import Path

    import js
    import numpy as np  # noqa: F401
    from pyodide.ffi import to_js

    from llamaweb.files.sources import open_source
    from llamaweb.model.shards import read_model

    array = to_js(data)
    path = Path("/tmp/given.gguf")
    path.write_bytes(data)
    response = await js.fetch(url) if url else None
    model = eval(make, {**globals(), **locals()})
    source = open_source(model)
    try:
        if twice:
            await read_model(source)
            source = source.again()
        await read_model(source)
        digest, reader = hashlib.sha256(), await source.stream(0)
        while not (piece := await reader.read()).done:
            digest.update(piece.value.to_bytes())
        return source.name, digest.hexdigest()
    finally:
        await source.close()


GIVEN = (
    "data",
    "bytearray(data)",
    "memoryview(data)",
    "memoryview(np.repeat(np.frombuffer(data, np.uint8), 2))[::2]",
    "np.frombuffer(data, np.float64)",
    "np.frombuffer(data, np.uint8).reshape(-1, 8)",
    "arrays.array('B', data)",
    "io.BytesIO(data)",
    "path",
    "path.open('rb')",
    "array",
    "array.buffer",
    "js.DataView.new(array.buffer)",
    "js.Uint8ClampedArray.new(array.buffer)",
    "js.Uint32Array.new(array.buffer)",
    "js.Float64Array.new(array.buffer)",
    "js.BigUint64Array.new(array.buffer)",
    "js.Blob.new(to_js([array]))",
    "js.File.new(to_js([array]), 'given.gguf')",
    "[js.File.new(to_js([array]), 'given.gguf')]",
    "js.Response.new(array)",
    "js.Response.new(array).body",
    "js.Blob.new(to_js([array])).stream()",
)


@pytest.mark.parametrize("make", GIVEN)
def test_whatever_holds_the_bytes_of_a_model_loads(page: Page, make: str) -> None:
    name, found = page.run(content, make=make, data=MODEL)
    assert found == SHA256
    assert name in ("given.gguf", "the bytes", "the file", "the stream")


def test_shared_memory_loads(page: Page) -> None:
    shared = "(lambda a: (a.set(array), a)[1])(js.Uint8Array.new(js.SharedArrayBuffer.new(len(data))))"
    for make in (shared, f"{shared}.buffer"):
        assert page.run(content, make=make, data=MODEL)[1] == SHA256


def test_the_answer_of_a_fetch_loads_and_loads_again(page: Page, server: UnreliableServer) -> None:
    url = server.url("given.gguf", MODEL)
    for make, name in (("response", "given.gguf"), ("response.body", "the stream")):
        for twice in (False, True):
            assert page.run(content, make=make, url=url, twice=twice) == (name, SHA256)


ENDLESS = """(lambda source: (setattr(js, "pulled", 0), js.Response.new(source) if {answer} else source)[1])(js.eval('''
    (data) => new ReadableStream({
      pull(stream) {
        stream.enqueue(pulled++ ? new Uint8Array(1 << 16) : data);
        if (pulled > 4096) stream.error(new Error("nobody stops"));
      },
      cancel() { globalThis.pulled = -pulled; },
    })
''')(array))"""


@pytest.mark.parametrize("answer", [False, True])
def test_of_a_stream_without_an_end_as_much_is_read_as_the_models_header_tells(page: Page, answer: bool) -> None:
    make = ENDLESS.replace("{answer}", str(answer))
    assert page.run(content, make=make, data=MODEL) == ("the stream", SHA256)
    assert -4 < page.run("import js\nreturn js.pulled") < 0  # it was cancelled, too
    half = len(MODEL) // 2  # zeros follow, which are its weights
    found = page.run(content, make=make, data=MODEL[:half])[1]
    assert found == hashlib.sha256(MODEL[:half].ljust(len(MODEL), b"\0")).hexdigest()
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        page.run(content, make=make, data=b"<!doctype html>")
    assert -4 < page.run("import js\nreturn js.pulled") < 0


SILENT = """js.eval('''
    (data) => {
      let at = 0;
      const pull = (stream) => {
        if (at >= data.length) stream.error(new Error("there is no more"));
        else stream.enqueue(data.subarray(at, (at += 1000)));
      };
      return new ReadableStream({ pull }, { highWaterMark: 0 });
    }
''')(array)"""


def test_of_a_stream_that_does_not_end_nothing_behind_the_model_is_waited_for(page: Page) -> None:
    assert page.run(content, make=SILENT, data=MODEL) == ("the stream", SHA256)


REFUSED = {
    "js.eval('new ReadableStream({ start: (c) => c.enqueue(`text`) })')": "cannot be read to its end .*no bytes",
    "js.eval('new ReadableStream({ start: (c) => c.error(new Error(`gone`)) })')": "to its end .*gone.*; give it again",
    "js.Response.new()": "is not a GGUF file: it is empty",
    "None": "not None",
    "3": "not a int",
    "{'url': 'x'}": "not a dict",
    "js.JSON": "not a JSON",
    "js.URL.new('https://example.org/m.gguf')": "A URL is no model; give its href",
    "js.Request.new('https://example.org/m.gguf')": r"A Request is no model; give its URL, or await fetch\(request\)",
    "js.Promise.resolve(1)": "still to come .* await it first",
    "js.fetch('data:,x')": "still to come .* await it first",
    "js.Response.new(array, status=404)": "answered 404; check the address",
    "(lambda r: (r.body.getReader(), r)[1])(js.Response.new(array))": "is being read; give one that nobody has read",
    "(lambda s: (s.getReader(), s)[1])(js.Response.new(array).body)": "is being read by somebody else",
    "js.Response.error()": "answered 0; check the address",
    "Path('/tmp/nowhere.gguf')": "nowhere.gguf cannot be read in Python's file system .*No such file",
    "Path('/tmp')": "/tmp cannot be read in Python's file system",
    "path.open('r', encoding='latin-1')": "given.gguf gives str, not bytes; open it with mode 'rb'",
    "js.Uint8Array.new(0)": "the bytes is not a GGUF file: it is empty",
    "js.Blob.new()": "is not a GGUF file: it is empty",
    "[]": "There is no file in the list",
    "[path]": "all files of the page; give them alike",
    "[js.eval('() => 1')]": "all files of the page; give them alike",
    "(lambda file: (file.close(), file)[1])(path.open('rb'))": "given.gguf cannot be read .*closed.*; open it again",
    "js.eval(\"Symbol('x')\")": "cannot be read as a model .*; give a URL",
    "js.eval('new Proxy({}, {get() { throw new Error(1) }})')": "cannot be read as a model .*; give a URL",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_is_no_model_is_refused_by_name(page: Page, make: str) -> None:
    with pytest.raises(ModelFileError, match=REFUSED[make]) as caught:
        page.run(content, make=make, data=MODEL)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_an_opaque_answer_is_refused(page: Page) -> None:
    """An isolated page, as that of the tests, gets none; it looks like this."""

    async def opaque():
        from types import SimpleNamespace

        from llamaweb.files.blob_source import response_source

        response_source(SimpleNamespace(url="", type="opaque", ok=False, bodyUsed=False, body=None))

    with pytest.raises(ModelFileError, match=r"is opaque .*mode 'no-cors'.*; give its URL"):
        page.run(opaque)
