"""Answers of servers, made in the page without one: what they say of a file, its length, and when to come again."""

from __future__ import annotations

import hashlib
import re
import struct
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import gguf
import numpy as np
import pytest
from browser_page import Page

# A header of more than is read of it at once, and one tensor.
FIRST, TEXT, TENSOR = 1 << 20, 1_300_000, 400_000
KEY = struct.pack("<Q1sIQ", 1, b"k", gguf.GGUFValueType.STRING, TEXT) + b"x" * TEXT
INFO = struct.pack("<Q1sIQIQ", 1, b"t", 1, TENSOR, gguf.GGMLQuantizationType.I8, 0)
HEAD = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + KEY + INFO
HEAD = HEAD.ljust(-(-len(HEAD) // 32) * 32, b"\0")
MODEL = HEAD + np.random.RandomState(5).bytes(TENSOR - 1) + b"!"
SIZE = len(MODEL)
SHA256 = hashlib.sha256(MODEL).hexdigest()
URL = "https://example.org/model.gguf"

# `answers` are what one request after the other gets, the last of them again and again: `status` and `headers` in place
# of a ranged server's own (nothing takes one away), `whole` knows no ranges, `long` sends more than is asked for, and
# `after` ends it after so many bytes (-1: there is no network), or with `stall` lets nothing more come. Pauses of a
# second or more take none, and are noted.
SERVER = """
(data, answers) => {
  const patience = 45_678; // the test's own
  const { fetch, setTimeout } = globalThis;
  const asked = [];
  const pauses = [];
  const signals = []; // of the requests
  globalThis.setTimeout = (call, ms, ...more) => {
    if (ms < 1000 || ms === patience) return setTimeout(call, ms, ...more);
    pauses.push(ms);
    return setTimeout(call, 0, ...more);
  };
  globalThis.fetch = async (url, options) => {
    const { Range: range } = options.headers;
    const how = answers[Math.min(asked.length, answers.length - 1)];
    asked.push(range?.replace("bytes=", "") ?? "all");
    signals.push(options.signal);
    if (how.after === -1) throw new TypeError("no network");
    const [first, last] = range && !how.whole ? range.match(/\\\\d+/g).map(Number) : [0, data.length - 1];
    const body = data.slice(first, how.long ? data.length : last + 1);
    const headers = new Headers({ ETag: '"1"', "Content-Length": body.length });
    if (range && !how.whole) headers.set("Content-Range", `bytes ${first}-${first + body.length - 1}/${data.length}`);
    for (const [name, value] of Object.entries(how.headers ?? {})) {
      if (value == null) headers.delete(name);
      else headers.set(name, value);
    }
    const status = how.status ?? (range && !how.whole ? 206 : 200);
    const sent = body.slice(0, how.after ?? body.length);
    const stalled = (stream) => {
      stream.enqueue(sent);
      options.signal.addEventListener("abort", () => stream.error(options.signal.reason));
    };
    return new Response(how.stall ? new ReadableStream({ start: stalled }) : sent, { status, headers });
  };
  const end = () => Object.assign(globalThis, { fetch, setTimeout });
  return { asked, pauses, signals, end };
}
""".replace("\\\\", "\\")


async def read(script, url, answers, changes=(), patience=None, cached=None):
    """The digest of the model as a load reads it, or the error; what was asked for, pauses, and what the cache has.
    changes: bytes by their place. cached: keywords of a CachedSource."""
    import builtins
    import hashlib

    from pyodide.code import run_js
    from pyodide.ffi import JsException, to_js

    from llamaweb import cache
    from llamaweb.errors import LlamaWebError
    from llamaweb.files.blob_source import read_error
    from llamaweb.files.cached_source import CachedSource
    from llamaweb.files.url_source import Patience, UrlSource
    from llamaweb.javascript import js_object
    from llamaweb.model.shards import read_model

    fast = {"delay": 20, "stall": 45_678, "range": 300_000, "parallel": 1, "first": 100_000, "attempts": 4}
    data = to_js(builtins.served)
    for at, value in changes:
        data[at] = value
    server = run_js(script)(data, js_object(answers))
    source = UrlSource(url, patience=Patience(**{**fast, **(patience or {})}))
    if cached is not None:
        source = CachedSource(source, **cached)
    try:
        try:
            await read_model(source)
            digest, reader = hashlib.sha256(), await source.stream(0)
            while not (piece := await reader.read()).done:
                digest.update(piece.value.to_bytes())
            found = digest.hexdigest()
        except JsException as error:
            found = str(read_error(error, source.name))
        except LlamaWebError as error:
            found = str(error)
        finally:
            await source.close()
        models = [(model.stored, model.verified) for model in await cache.list()]
        return {"found": found, "asked": list(server.asked), "pauses": list(server.pauses), "models": models}
    finally:
        server.end()


@pytest.fixture(scope="module", autouse=True)
def served(page: Page) -> None:
    """The model goes into the page once."""
    page.run("import builtins\nbuiltins.served = data", data=MODEL)


@pytest.fixture(autouse=True)
def empty(page: Page, served: None) -> Iterator[None]:
    page.run("from llamaweb import cache\nawait cache.clear()")
    yield


def answered(page: Page, *answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return page.run(read, script=SERVER, url=URL, answers=list(answers), **more)


def in_seconds(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


AFTER: dict[str, tuple[str, tuple[float, float] | None]] = {
    "seconds": ("30", (30_000, 30_000)),
    "a date": (in_seconds(900), None),  # made when it is used
    "more than is waited for": ("7200", (60_000, 60_000)),
    "a date that is further": (in_seconds(86_400), (60_000, 60_000)),
    "a date that is over": (in_seconds(-86_400), ()),
    "no time": ("soon", ()),
    "less than nothing": ("-30", ()),
    "digits and more": ("30 s", ()),
}


@pytest.mark.parametrize("how", AFTER)
def test_a_server_is_asked_again_when_it_says_but_within_a_minute(page: Page, how: str) -> None:
    after, told = AFTER[how]
    least, most = told or (0, 0)
    if told is None:
        after, least, most = in_seconds(40), 30_000, 40_000
    busy = {"status": 429, "headers": {"Retry-After": after}}
    found = answered(page, busy, {})
    assert found["found"] == SHA256
    assert len(found["pauses"]) == bool(most) and all(least <= pause <= most for pause in found["pauses"])


def test_pauses_double_and_none_is_shorter_for_what_a_server_says(page: Page) -> None:
    busy = {"status": 503, "headers": {"Retry-After": "3"}}
    found = answered(page, {"status": 500}, busy, {"status": 500}, busy, {}, patience={"delay": 1000, "attempts": 9})
    assert found["found"] == SHA256 and found["pauses"] == [1000, 3000, 4000, 8000]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_that_may_know_better_in_a_while_is_asked_again(page: Page, status: int) -> None:
    assert answered(page, {}, {"status": status}, {})["found"] == SHA256


def version(etag: str | None = None, modified: str | None = None, size: int | None = None) -> dict[str, Any]:
    """An answer that tells so much of its version; size: another one, 0: none."""
    headers: dict[str, str | None] = {"ETag": etag, "Last-Modified": modified}
    if size is not None:
        headers["Content-Range"] = None
    return {"headers": headers}


ONE, TWO = '"1"', '"2"'
MONDAY, TUESDAY = "Mon, 23 Nov 2026 08:00:00 GMT", "Tue, 24 Nov 2026 08:00:00 GMT"
VERSIONS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "none later": ([version(ONE, MONDAY), version()], True),
    "nor a size": ([version(ONE, MONDAY), version(size=0)], True),
    "none at first": ([version(), version(ONE)], True),
    "none at times": ([version(ONE), version(), version(ONE), version(), version(ONE)], True),
    "one is enough": ([version(ONE, MONDAY), version(ONE, TUESDAY)], True),
    "another later": ([version(ONE), version(), version(TWO)], False),
    "another than the first that was told": ([version(), version(ONE), version(TWO)], False),
    "another time than the first that was told": ([version(), version(None, MONDAY), version(None, TUESDAY)], False),
    "a time in place of an ETag": ([version(ONE, MONDAY), version(None, MONDAY)], True),
    "another time in place of an ETag": ([version(ONE, MONDAY), version(None, TUESDAY)], False),
    "the same, weak": ([version(ONE), version("W/" + ONE)], True),
}


@pytest.mark.parametrize("how", VERSIONS)
def test_a_version_is_compared_with_the_first_that_was_told_whatever_answers_lack_it(page: Page, how: str) -> None:
    answers, same = VERSIONS[how]
    found = answered(page, *answers)["found"]
    assert found == (SHA256 if same else "model.gguf changed on the server while loading; load it again.")


LENGTHS: dict[str, dict[str, Any]] = {
    "compressed": {"headers": {"Content-Encoding": "gzip", "Content-Length": "1234"}},
    "compressed, in more": {"headers": {"Content-Encoding": "br", "Content-Length": str(2 * SIZE)}},
    "none": {"headers": {"Content-Length": None}},
    "no number": {"headers": {"Content-Length": "1e3"}},
    "of too many digits": {"headers": {"Content-Length": "1" * 16}},
    "right": {},
}


@pytest.mark.parametrize("how", LENGTHS)
def test_the_length_of_a_compressed_answer_is_not_the_files(page: Page, how: str) -> None:
    found = answered(page, {"whole": True, **LENGTHS[how]})
    assert found["found"] == SHA256 and len(found["asked"]) == 1


def test_of_a_range_no_more_is_taken_than_was_asked_for(page: Page) -> None:
    found = answered(page, {"long": True})
    assert found["found"] == SHA256


TRUNCATED: dict[str, tuple[dict[str, Any], str, int]] = {
    "at once": ({"after": 0}, r"after 4 attempts \(it ended \d+ bytes early\); check the address and the network", 5),
    "soon": ({"after": 1000}, r"after 4 attempts \(it ended \d+ bytes early\); check the address and the network", 5),
    "but late": ({"after": 70_000}, "", 100),
    "without ranges": ({"after": 500_000, "whole": True}, r"after 4 attempts \(it ended \d+ bytes early\)", 5),
    "without a length": (
        {"after": 500_000, "whole": True, "headers": {"Content-Length": None}},
        "model.gguf is damaged: the length of 'k' is 1300000, but",
        1,
    ),
}


@pytest.mark.parametrize("how", TRUNCATED)
def test_a_server_that_always_truncates_is_given_up_where_that_brings_nothing(page: Page, how: str) -> None:
    answer, sentence, most = TRUNCATED[how]
    found = answered(page, answer)
    assert re.search(sentence or SHA256, found["found"]) and len(found["asked"]) <= most


def test_of_a_server_that_knows_no_ranges_and_tells_a_length_no_less_is_taken(page: Page) -> None:
    found = answered(page, {"status": 501}, {"whole": True, "after": SIZE - 100_000}, {"whole": True})
    assert found["found"] == SHA256 and found["asked"] == ["0-99999", "all", "all"]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "answers",
    [[{}, {"stall": True, "after": 1000}], [{"whole": True, "stall": True, "after": 60_000}]],
    ids=["ranges", "no ranges"],
)
def test_a_reader_that_is_cancelled_ends_its_requests_and_makes_no_more(
    page: Page, answers: list[dict[str, Any]], cached: bool
) -> None:
    async def cancelled(script, url, answers, cached):
        import asyncio
        import builtins

        from pyodide.code import run_js
        from pyodide.ffi import to_js

        from llamaweb.files.cached_source import CachedSource
        from llamaweb.files.url_source import Patience, UrlSource
        from llamaweb.javascript import js_object

        server = run_js(script)(to_js(builtins.served), js_object(answers))
        source = UrlSource(url, patience=Patience(delay=20, stall=45_678, range=300_000, first=50_000))
        source = CachedSource(source) if cached else source
        try:
            await source.read(0, 10_000)
            reader = await source.stream(10_000)
            await reader.read()
            before = len(server.asked)
            reader.cancel()
            await asyncio.sleep(0.1)
            ended = [bool(signal.aborted) for signal in server.signals]
            return ended[1 if len(answers) > 1 else 0 :], len(server.asked) - before  # without the header's own
        finally:
            await source.close()
            server.end()

    ended, more = page.run(cancelled, script=SERVER, url=URL, answers=answers, cached=cached)
    assert ended == [True] * (3 if len(answers) > 1 else 1) and more == 0


def test_a_source_that_is_closed_in_a_pause_waits_no_longer(page: Page) -> None:
    async def closed(script, url):
        import asyncio
        import builtins

        from pyodide.code import run_js
        from pyodide.ffi import to_js

        from llamaweb.errors import ModelFileError
        from llamaweb.files.url_source import Patience, UrlSource
        from llamaweb.javascript import js_object

        server = run_js(script)(to_js(builtins.served), js_object([{"status": 503}]))
        source = UrlSource(url, patience=Patience(delay=45_678))
        waiting = asyncio.ensure_future(source.told())
        try:
            await asyncio.sleep(0.05)
            await source.close()
            await asyncio.wait_for(waiting, 10)
        except ModelFileError:
            return len(server.asked)
        finally:
            server.end()

    assert page.run(closed, script=SERVER, url=URL) == 1


BROKEN = [{}] * 5 + [{"after": -1}]  # in the header's second megabyte


def test_a_download_that_is_broken_off_inside_the_header_goes_on_from_there(page: Page) -> None:
    found = answered(page, *BROKEN, cached={})
    assert "cannot be read after 4 attempts (no network)" in found["found"] and found["models"] == [(FIRST, False)]
    found = answered(page, {}, cached={})
    assert found["found"] == SHA256 and found["models"] == [(SIZE, False)]
    assert found["asked"][:2] == ["0-99999", f"{FIRST}-{FIRST + 299_999}"]
    assert all(int(asked.split("-")[0]) >= FIRST for asked in found["asked"][1:])


async def keep(url, n):
    """Keeps the model's first `n` bytes, as a page does that was closed then."""
    import builtins

    from pyodide.ffi import to_js

    from llamaweb.files import model_cache

    await model_cache.put(model_cache.CachedModel(url, "model.gguf", len(builtins.served), '"1"'))
    writer = await model_cache.writer(url, True)
    writer.append(to_js(builtins.served[:n]))
    await writer.close()


@pytest.mark.parametrize("kept", [1, 1000, FIRST - 1, FIRST, FIRST + 12_345, len(HEAD) + 1, SIZE - 1])
def test_a_download_goes_on_from_its_last_byte_wherever_that_is(page: Page, kept: int) -> None:
    page.run(keep, url=URL, n=kept)
    found = answered(page, {}, cached={})
    assert found["found"] == SHA256 and found["models"] == [(SIZE, False)]
    assert all(int(asked.split("-")[0]) >= kept for asked in found["asked"][1:])
    assert answered(page, {"after": -1}, cached={})["found"] == SHA256  # what was kept is that, too


AT = HEAD.index(INFO)
BAD = {
    "damaged": (AT + 9, "is damaged: the tensor 't' has 255 dimensions"),
    "unknown": (AT + len(INFO) - 12, "has the unknown type 255"),
}


@pytest.mark.parametrize("how", BAD)
@pytest.mark.parametrize("half", [True, False])
def test_a_file_with_a_bad_header_is_not_gone_on_with_for_ever(page: Page, how: str, half: bool) -> None:
    """`half`: what is kept of it is no more than its first megabyte, which is sound."""
    at, sentence = BAD[how]
    bad = [(at, 255)]
    if half:
        assert answered(page, *BROKEN, changes=bad, cached={})["models"] == [(FIRST, False)]
    found = answered(page, {}, changes=bad, cached={})
    assert sentence in found["found"] and found["models"] == []
    assert answered(page, {}, cached={})["found"] == SHA256


def test_the_digest_is_that_of_the_whole_file_where_a_download_goes_on(page: Page) -> None:
    known = {"checksums": {URL: SHA256}}
    other = MODEL[:1000] + b"y" + MODEL[1001:]  # in what is kept
    for changes, good in (([], True), ([(1000, ord("y"))], False)):
        assert answered(page, *BROKEN, changes=changes, cached=known)["models"] == [(FIRST, False)]
        found = answered(page, {}, cached=known)
        if good:
            assert found["found"] == SHA256 and found["models"] == [(SIZE, True)]
            page.run("from llamaweb import cache\nawait cache.clear()")
        else:
            sentence = (
                f"model.gguf is damaged: its SHA-256 is {hashlib.sha256(other).hexdigest()}, not {SHA256}; load it"
            )
            assert found["found"].startswith(sentence) and found["models"] == []
    found = answered(page, {}, cached=known)
    assert found["found"] == SHA256 and found["models"] == [(SIZE, True)]


@pytest.mark.parametrize("sha256", [SHA256, SHA256.upper()], ids=["small", "capital"])
def test_a_checksum_may_be_in_capitals(page: Page, sha256: str) -> None:
    linked = {"headers": {"X-Linked-ETag": f'"{sha256}"'}}
    assert answered(page, linked, cached={})["models"] == [(SIZE, True)]
    page.run("from llamaweb import cache\nawait cache.clear()")
    assert "is damaged: its SHA-256 is" in answered(page, linked, changes=[(SIZE - 1, 0)], cached={})["found"]
    given = """
        from llamaweb.files.sources import open_source
        return open_source(url, sha256=sha256)._sha256
    """
    assert page.run(given, url=URL, sha256=sha256) == SHA256
