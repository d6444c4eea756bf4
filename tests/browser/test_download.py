"""Models read from servers that drop, truncate, stall, change the file, know no ranges, refuse or fail."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import time
from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import pytest
from browser_page import Page
from unreliable_server import Fault, Served, UnreliableServer

from llamaweb.errors import DownloadError

SIZE = 3_000_001
# A file of one tensor, since of what names no length as much is read as a model's own header tells.
TENSOR = struct.pack("<Q1sIQIQ", 1, b"t", 1, SIZE - 64, gguf.GGMLQuantizationType.I8, 0)
HEAD = (struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + TENSOR).ljust(64, b"\0")
DATA = HEAD + np.random.RandomState(3).bytes(SIZE - 64)
ETAG = {"ETag": '"one"'}


async def read(url, offset=100_000, patience=None, header=50_000):
    """Digest of what comes from `offset` on, after a read of the header; size, most bytes held, told sha256."""
    import hashlib

    from pyodide.ffi import JsException

    from llamaweb.files.blob_source import read_error
    from llamaweb.files.url_source import Patience, UrlSource

    fast = {"delay": 20, "stall": 1000, "range": 300_000, "parallel": 3, "first": 200_000}
    source = UrlSource(url, patience=Patience(**{**fast, **(patience or {})}))
    try:
        start = await source.read(0, header) if header else b""
        reader = await source.stream(offset)
        digest = hashlib.sha256(start)
        while True:
            try:
                chunk = await reader.read()
            except JsException as error:
                raise read_error(error, source.name) from None
            if chunk.done:
                break
            digest.update(chunk.value.to_bytes())
        reader.cancel()
        told = await source.told()
        return digest.hexdigest(), told.size, source.download.peak(), told.sha256
    finally:
        await source.close()


NO_BUFFERS = """
globalThis.getReader = ReadableStream.prototype.getReader;
ReadableStream.prototype.getReader = function (options) {
  if (options) throw new TypeError("not a stream of bytes");
  return getReader.call(this);
};
"""
WHOLE = hashlib.sha256(DATA[:50_000] + DATA[100_000:]).hexdigest()

PLAYS_ALONG: dict[str, dict[str, Any]] = {
    "ranges": {},
    "no ranges": {"ranges": False},
    "no ranges and no length": {"ranges": False, "length": False},
    "a connection that drops": {"faults": [Fault(after=10), Fault(after=150_000), Fault(after=1), Fault(after=0)]},
    "no ranges and a connection that drops": {
        "ranges": False,
        "faults": [Fault(after=120_000), Fault(after=1_500_000)],
    },
    "no length and a connection that drops": {
        "ranges": False,
        "length": False,
        "faults": [Fault(after=120_000), Fault(after=1_500_000)],
    },
    "a flood behind the file's end": {
        "ranges": False,
        "length": False,
        "always": Fault(after=SIZE, then="flood"),
    },
    "an ETag that is weak at times": {
        "faults": [Fault(when=lambda _: None), Fault(when=lambda file: file.headers.update(ETag='W/"one"'))]
    },
    "answers that end early": {"faults": [Fault(after=100_000, then="end"), Fault(after=9, then="end")]},
    "a stall": {"faults": [Fault(after=5, then="stall"), Fault(after=9, then="stall")]},
    "silence about the size": {
        "faults": [Fault(206, {"Content-Range": "bytes 0-9/*"}), Fault(when=lambda _: None), Fault(then="stall")]
    },
    "a failing server": {"faults": [Fault(500), Fault(503), Fault(), Fault(502)]},
    "a busy server": {"faults": [replace(Fault(429), headers={"Retry-After": "1"})]},
}


@pytest.mark.parametrize("how", PLAYS_ALONG)
def test_every_byte_comes_in_order_in_spite_of(page: Page, server: UnreliableServer, how: str) -> None:
    keys = {"headers": dict(ETAG), **PLAYS_ALONG[how]}
    faults = keys.pop("faults", [])
    file = f"{how}/model.gguf"  # a folder of its own: a late request of the test before must not take a fault of this
    url = server.url(file, DATA, *faults, **keys)
    found, size, peak, _ = page.run(read, url=url)
    assert (found, size) == (WHOLE, SIZE)
    assert server.files[file].faults == []
    if keys.get("ranges", True):
        assert peak <= 3 * 300_000 + 200_000
        assert not any(re.search("-$", request) for request in server.files[file].requests)


@pytest.mark.parametrize("ranges", [True, False])
def test_every_byte_comes_where_readers_do_not_take_buffers(page: Page, server: UnreliableServer, ranges: bool) -> None:
    page.run("from pyodide.code import run_js\nrun_js(script)", script=NO_BUFFERS)
    try:
        found, _, _, _ = page.run(read, url=server.url("plain.gguf", DATA, Fault(after=150_000), ranges=ranges))
    finally:
        page.run("from pyodide.code import run_js\nrun_js('ReadableStream.prototype.getReader = getReader')")
    assert found == WHOLE


def test_a_range_goes_on_from_its_last_byte(page: Page, server: UnreliableServer) -> None:
    url = server.url("model.gguf", DATA[:500_000], Fault(after=0, when=lambda _: None), Fault(after=70_000))
    page.run(read, url=url, patience={"parallel": 1})
    assert server.files["model.gguf"].requests == [
        "GET bytes=0-199999",
        "GET bytes=100000-399999",
        "GET bytes=170000-399999",
        "GET bytes=400000-499999",
    ]


def test_breaks_that_little_comes_between_are_paused_after_and_more_makes_up_for_them(
    page: Page, server: UnreliableServer
) -> None:
    def drips(after: int) -> tuple[str, float, int]:
        name, begin = f"drips{after}.gguf", time.monotonic()
        url = server.url(name, DATA[:900_000], always=Fault(after=after), headers=ETAG)
        try:
            page.run(read, url=url, patience={"attempts": 4, "delay": 100, "parallel": 1}, offset=0, header=0)
            said = ""
        except DownloadError as error:
            said = str(error)
        return said, time.monotonic() - begin, len(server.files[name].requests)

    said, seconds, requests = drips(1000)
    assert "cannot be read after 4 attempts" in said
    assert requests == 4 and seconds >= 0.7  # 100, 200 and 400 ms
    said, seconds, requests = drips(30_000)
    assert said == ""
    # A break may take bytes with it that were on their way, on a busy machine.
    assert 30 <= requests <= 40 and seconds >= 2.7  # 100 and 200 ms after two of three breaks


def test_of_a_flood_no_more_is_read_than_the_file_and_what_the_connection_holds(
    page: Page, server: UnreliableServer
) -> None:
    for name, start in (("model", DATA), ("no model", b"<!DOCTYPE html>")):
        url = server.url(name, start, ranges=False, length=False, always=Fault(after=SIZE, then="flood"))
        size = page.run(read, url=url, offset=0, header=4)[1]
        assert size == SIZE if name == "model" else size < 1 << 20
        assert server.files[name].flooded < 64 << 20


def test_a_file_without_ranges_is_asked_for_once(page: Page, server: UnreliableServer) -> None:
    url = server.url("model.gguf", DATA, ranges=False)
    page.run(read, url=url)
    assert len(server.files["model.gguf"].requests) == 1


def test_ranges_are_asked_for_without_a_preflight(page: Page, server: UnreliableServer) -> None:
    url = server.url("model.gguf", DATA, headers=ETAG)
    page.run(read, url=url)
    assert all(request.startswith("GET") for request in server.files["model.gguf"].requests)


def test_retry_after_is_waited_for(page: Page, server: UnreliableServer) -> None:
    async def seconds(url):
        import time

        from llamaweb.files.url_source import Patience, UrlSource

        begin = time.perf_counter()
        source = UrlSource(url, patience=Patience(delay=10))
        await source.read(0, 10)
        await source.close()
        return time.perf_counter() - begin

    url = server.url("model.gguf", DATA, Fault(429, {"Retry-After": "2"}))
    assert 2 <= page.run(seconds, url=url) < 60


def changes(data: bytes = DATA, **headers: str) -> Fault:
    def change(file: Served) -> None:
        file.data, file.headers = data, headers

    return Fault(when=change)


NOTHING = Fault(when=lambda _: None)
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "another ETag": ({"headers": ETAG, "faults": [NOTHING, changes(ETag='"two"')]}, "changed on the server while"),
    "another time": (
        {
            "headers": {"Last-Modified": "Wed, 25 Nov 2026 08:00:00 GMT"},
            "faults": [NOTHING, changes(**{"Last-Modified": "Wed, 25 Nov 2026 08:00:01 GMT"})],
        },
        "changed on the server while loading; load it again",
    ),
    "another size": ({"faults": [NOTHING, changes(DATA + b"x")]}, "changed on the server while loading"),
    "a shorter file": ({"faults": [NOTHING, changes(DATA[:60_000])]}, "changed on the server while loading"),
    "another ETag without ranges": (
        {"headers": ETAG, "ranges": False, "faults": [Fault(after=500_000), changes(ETag='"two"')]},
        "changed on the server while loading",
    ),
    "401": ({"always": Fault(401)}, r"answered 401 Unauthorized; it is private or needs a token"),
    "403": ({"always": Fault(403)}, r"answered 403 Forbidden; it is private or needs a token"),
    "404": ({"always": Fault(404)}, r"/model\.gguf answered 404 Not Found; check the address\."),
    "403 in the middle": ({"faults": [NOTHING], "always": Fault(403)}, "answered 403 Forbidden"),
    "an empty file": ({"always": Fault(416)}, "is empty; check the address"),
    "416 in the middle": ({"faults": [NOTHING], "always": Fault(416)}, "changed on the server while loading"),
    "500 for ever": ({"always": Fault(500)}, r"after 3 attempts \(it answered 500 Internal Server Error\)"),
    "429 for ever": ({"always": Fault(429)}, r"after 3 attempts \(it answered 429 Too Many Requests\)"),
    "silence for ever": (
        {"faults": [NOTHING], "always": Fault(then="stall")},
        r"after 3 attempts \(it was silent for 0\.3 seconds\); check the address and the network",
    ),
    "silence without a length": (
        {"ranges": False, "length": False, "always": Fault(after=9, then="stall")},
        r"cannot be read after 3 attempts \(it was silent for 0\.3 seconds\); check the address and the network",
    ),
    "no end for ever": (
        {"ranges": False, "length": False, "always": Fault(after=500_000)},
        r"cannot be read after 3 attempts \(.+\); check the address and the network",
    ),
    "silence about the size": (
        {"faults": [Fault(206, {"Content-Range": "bytes 0-9/*"}), Fault(when=lambda _: time.sleep(2))]},
        r"cannot be read after 3 attempts \(it was silent for 0\.3 seconds\); check the address and the network",
    ),
    "drops for ever": ({"faults": [NOTHING], "always": Fault()}, r"cannot be read after 3 attempts \(.+\); check"),
    "drips for ever": (
        {"faults": [NOTHING], "always": Fault(after=1)},
        r"cannot be read after 3 attempts \(.+\); check the address and the network",
    ),
    "a byte now and then": (
        {"faults": [NOTHING], "always": Fault(after=9, then="drip")},
        r"after 3 attempts \(it sent [0-9]+ bytes? a second\); check the address and the network",
    ),
    "a byte now and then behind much": (
        {"faults": [NOTHING], "always": Fault(after=30_000, then="drip")},
        r"after 3 attempts \(it sent [0-9]+ bytes? a second\); check the address and the network",
    ),
    "a byte now and then without a length": (
        {"ranges": False, "length": False, "always": Fault(after=9, then="drip")},
        r"after 3 attempts \(it sent [0-9]+ bytes? a second\); check the address and the network",
    ),
    "a range of more digits than a size has": (
        {"always": Fault(206, {"Content-Range": f"bytes 0-9/{'9' * 400}"})},
        r"answers ranges wrongly \(bytes 0-9/9{70}\); use another one",
    ),
    "wrong ranges": (
        {"faults": [NOTHING], "always": Fault(206, {"Content-Range": f"bytes 0-9/{SIZE}"})},
        r"answers ranges wrongly \(bytes 0-9/3000001\); use another one",
    ),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_one_sentence_says_what_is_wrong(page: Page, server: UnreliableServer, how: str) -> None:
    keys, sentence = REFUSALS[how]
    keys = dict(keys)
    # A folder of its own: a late request of the test before must not take a fault of this one.
    url = server.url(f"{how}/model.gguf", DATA, *keys.pop("faults", []), **keys)
    stall = 300 if how.startswith(("silence", "a byte")) else 10_000
    with pytest.raises(DownloadError, match=sentence) as caught:
        page.run(read, url=url, patience={"attempts": 3, "stall": stall})
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("how", ["nobody answers", "a refusal that is hidden", "an answer that is hidden"])
def test_what_a_browser_does_not_tell_of_an_address_is_told_soon_as_what_it_may_be(
    page: Page, server: UnreliableServer, how: str
) -> None:
    url = server.url("hidden.gguf", DATA, always=Fault(403) if "refusal" in how else None, cors=False)
    if how == "nobody answers":
        url = "http://127.0.0.1:9/hidden.gguf"
    may_be = r"there is no network, or its server refuses the file \(401, 403\) or pages of other sites \(CORS\), which"
    advice = r"check the address and the network, or download the file and give that\.$"
    with pytest.raises(
        DownloadError, match=rf"/hidden\.gguf cannot be read after 2 attempts \(.+\): {may_be} .+; {advice}"
    ):
        page.run(read, url=url)


DIGEST = hashlib.sha256(DATA)
TOLD = {
    "Repr-Digest": f"sha-256=:{base64.b64encode(DIGEST.digest()).decode()}:",
    "X-Linked-ETag": f'"{DIGEST.hexdigest()}"',
}


@pytest.mark.parametrize("name", TOLD)
def test_the_checksum_that_a_server_tells_is_known(page: Page, server: UnreliableServer, name: str) -> None:
    url = server.url("model.gguf", DATA, headers={name: TOLD[name]})
    assert page.run(read, url=url)[3] == DIGEST.hexdigest()


def test_an_etag_that_looks_like_a_checksum_is_none(page: Page, server: UnreliableServer) -> None:
    url = server.url("model.gguf", DATA, headers={"ETag": f'"{DIGEST.hexdigest()}"'})
    assert page.run(read, url=url)[3] is None
