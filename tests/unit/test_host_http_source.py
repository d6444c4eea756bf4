"""Reading a model's header from an address: only ranges, and a sentence for every server that does not play along."""

from __future__ import annotations

import asyncio
import gzip
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

import llamaweb
from llamaweb.errors import ModelFileError
from llamaweb.host import http_source, inward
from llamaweb.host.http_source import HTTPSource, open_address

DATA = bytes(range(250))
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def read(answer: Answer, use: Callable[[HTTPSource], Awaitable[Any]], host: str = "127.0.0.1") -> Any:
    """What `use` gives for a source whose server, named `host`, answers with `answer`."""

    async def body() -> Any:
        app = web.Application()
        app.router.add_get("/my model.gguf", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with open_address(f"http://{host}:{runner.addresses[0][1]}/my%20model.gguf") as source:
                return await use(source)
        finally:
            await runner.cleanup()

    return asyncio.run(body())


async def ranged(request: web.Request) -> web.Response:
    part = DATA[request.http_range]
    start = request.http_range.start
    headers = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(DATA)}"}
    return web.Response(status=206, body=part, headers=headers)


def test_ranges_are_read_and_the_size_and_name_are_known() -> None:
    async def use(source: HTTPSource) -> tuple[str, int, bytes]:
        return source.name, await source.size(), await source.read(100, 20)

    assert read(ranged, use) == ("my model.gguf", 250, DATA[100:120])


def test_more_than_there_is_means_cut_off() -> None:
    with pytest.raises(ModelFileError, match="is cut off: bytes 240 to 260 are needed, 10 came"):
        read(ranged, lambda source: source.read(240, 20))


def test_a_server_without_ranges_is_read_from_the_start_and_no_further_than_needed() -> None:
    sent = 0

    async def whole(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.content_length = 64 << 20
        await response.prepare(request)
        for _ in range(64):
            await response.write(DATA.ljust(1 << 20, b"."))
            sent += 1 << 20
        return response

    async def use(source: HTTPSource) -> tuple[int, bytes, bytes]:
        return await source.size(), await source.read(100, 20), await source.read(3, 2)

    assert read(whole, use) == (64 << 20, DATA[100:120], DATA[3:5])
    assert sent < 32 << 20


def test_a_server_that_compresses_whatever_is_asked_for_is_named() -> None:
    async def compressed(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=gzip.compress(DATA), headers={"Content-Encoding": "gzip"})

    with pytest.raises(ModelFileError, match=r"sends it compressed \(gzip\) and without ranges; download the file"):
        read(compressed, lambda source: source.read(0, 10))


def test_a_server_that_tells_no_size_is_named() -> None:
    async def unsized(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(DATA)
        return response

    with pytest.raises(ModelFileError, match="does not tell the file's size"):
        read(unsized, lambda source: source.size())


def test_a_wrong_address_is_one_sentence() -> None:
    async def missing(request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    with pytest.raises(ModelFileError, match="answers 404"):
        read(missing, lambda source: source.size())


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("", "leads from address to address without end"),
        ("ftp://x/y", "leads to an address of another kind"),
        *((f"http://{place}/y?token=hunter2", "leads to what is no address") for place in ("a..b", "b" * 64, "[::1")),
        *((f"http://{place}/y?token=hunter2", "leads to what is no address") for place in ("h:99999", "h:abc")),
    ],
)
def test_an_address_that_leads_nowhere_says_so(location: str, reason: str) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location or str(request.url)})

    with pytest.raises(ModelFileError, match=rf"cannot be reached \(it {reason}\); check the address\.$"):
        read(elsewhere, lambda source: source.size())


def test_an_answer_that_breaks_off_says_so() -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=206, headers={"Content-Range": "bytes 0-99/1000"})
        response.content_length = 100
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport
        request.transport.close()
        return response

    with pytest.raises(ModelFileError, match=r"cannot be reached \(its answer breaks off\); check the address\.$"):
        read(half, lambda source: source.read(0, 100))


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    async def body() -> None:
        async with open_address("http://127.0.0.1:9/m.gguf") as source:
            await source.size()

    with pytest.raises(ModelFileError, match=r"cannot be reached \(Connection refused\); check the address\.$"):
        asyncio.run(body())


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        *((place, "its server's name is none that a server can have") for place in ("a..b", "b" * 64, "a\u2100b")),
        *((place, "its port is no number from 0 to 65535") for place in ("h:99999", "h:abc", "h:-1")),
        *((place, "the brackets in its server's name hold no IPv6 address") for place in ("[::1", "::1]", "[h]")),
        *((place, "its server's name has a backslash, white space or a") for place in ("1.2.3.4\\@h", "a b", "a\x00b")),
        *((place, "it names no server") for place in ("", ":80", "me:me@")),
    ],
)
def test_what_is_wrong_with_an_address_is_told_in_plain_words(place: str, fault: str) -> None:
    with pytest.raises(ModelFileError) as error:
        http_source.check_address(f"http://{place}/x")
    told = str(error.value)
    assert f" is not an address ({fault}" in told and told.endswith("check it.") and "rror" not in told


@pytest.mark.parametrize(
    "place", ["h", "h:80", "me:me@h", "[::1]:80", "[fe80::1%251]", "xn--bcher-kva.de", "bücher.de", "1.2"]
)
def test_a_server_is_named_in_many_ways(place: str) -> None:
    assert http_source.check_address(f"http://{place}/x") == f"http://{place}/x"


def every(kind: type) -> list[type]:
    return [kind, *(each for sub in kind.__subclasses__() for each in every(sub))]


@pytest.mark.parametrize(
    "kind", [*every(aiohttp.ClientError), OSError, ConnectionResetError, TimeoutError, ssl.SSLError]
)
def test_no_reason_is_in_the_words_of_a_library(kind: type[Exception]) -> None:
    error = kind.__new__(kind, 7, "Connect call failed ('hunter2', 1)")
    told = http_source._reason(error)
    assert told and not re.search(r"hunter|\(|rror|failed", told)


def test_a_sentence_about_an_address_repeats_no_secret_of_it() -> None:
    async def body(url: str) -> None:
        async with open_address(url) as source:
            await source.size()

    for address in ("http://me:hunter2@127.0.0.1:9/m.gguf?token=hunter3&v=1", "http://?token=hunter4"):
        with pytest.raises(ModelFileError) as error:
            asyncio.run(body(address))
        assert "hunter" not in str(error.value) and address[:7] in str(error.value)


async def endless(response: web.StreamResponse, request: web.Request, piece: bytes, pause: float = 0) -> Any:
    await response.prepare(request)
    for _ in range(500):
        await response.write(piece)
        await asyncio.sleep(pause)
    return response


def test_of_a_range_that_never_ends_no_more_is_read_than_was_asked_for() -> None:
    sent = 0

    async def more(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=206, headers={"Content-Range": "bytes 0-99/1000"})
        await response.prepare(request)
        for _ in range(256):
            await response.write(DATA.ljust(1 << 20, b"."))
            sent += 1
        return response

    assert read(more, lambda source: source.read(0, 100)) == DATA[:100]
    assert sent < 32


@pytest.mark.parametrize("status", (200, 206))
def test_a_server_that_drips_is_given_up_with_its_rate(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_source, "SLOW_SECONDS", 0.3)

    async def drips(request: web.Request) -> web.StreamResponse:
        told = {"Content-Range": "bytes 0-99/100"} if status == 206 else {"Content-Length": "100"}
        return await endless(web.StreamResponse(status=status, headers=told), request, b"x", 0.1)

    with pytest.raises(ModelFileError, match=r"sends \d+ bytes? a second, too slowly to be read"):
        read(drips, lambda source: source.read(0, 100))


@pytest.mark.parametrize("status", (100, 102, 103))
def test_a_server_that_says_for_ever_that_its_answer_is_coming_is_given_up_as_a_silent_one(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async def comes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while True:
                    writer.write(b"HTTP/1.1 %d Later\r\n\r\n" % status)
                    await writer.drain()
                    await asyncio.sleep(0)

        async with await asyncio.start_server(comes, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with open_address(f"http://127.0.0.1:{port}/m.gguf") as source:
                await source.size()

    monkeypatch.setattr(http_source, "ANSWER_SECONDS", 0.2)
    with pytest.raises(ModelFileError, match=r"cannot be reached \(it does not answer\); check the address\.$"):
        asyncio.run(body())


def test_a_server_is_given_up_after_as_long_a_silence_as_in_the_page() -> None:
    page = Path(llamaweb.__file__).with_name("files") / "url_source.py"  # which no other Python imports
    assert f"stall: int = {http_source.ANSWER_SECONDS}_000\n" in page.read_text()
    seen = []

    async def body() -> None:
        async with open_address("http://127.0.0.1:9/m.gguf") as source:
            seen.append(source._session.timeout.sock_read)

    asyncio.run(body())
    assert seen == [http_source.ANSWER_SECONDS]


@pytest.mark.parametrize("size", ("9" * 400, "9" * 5000, "-1", "\u0663", "x", ""))
def test_a_size_that_is_none_is_a_sentence(size: str) -> None:
    async def huge(request: web.Request) -> web.Response:
        return web.Response(status=206, body=b"x", headers={"Content-Range": f"bytes 0-0/{size}"})

    with pytest.raises(ModelFileError, match="does not tell the file's size"):
        read(huge, lambda source: source.size())


INWARD = (
    *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1"),
    *("::1", "::", "fe80::1%1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b::127.0.0.1", "64:ff9b:1::7f00:1", "64:ff9b:1:7f00:0:100::"),
    *("::ffff:0:7f00:1", "::ffff:0:a00:1", "::7f00:1", "::10.0.0.1", "fec0::1", "feff::1", "fc00::1", "ff0e::1"),
    *("2002:a00:1::1", "2002:c0a8:101::8.8.8.8", "2002:808:808::5efe:7f00:1", "2606:4700::5efe:10.0.0.1"),
    "2606:4700::200:5efe:192.168.1.1",
    # Teredo: of a server here, and of a client here, whose bits are turned round.
    *("2001:0:7f00:1::f7f7:f7f7", "2001:0:808:808::80ff:fffe"),
    *("100::1", "2001:db8::1", "4000::1", "1::1"),
)


PUBLIC = (
    *("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "::ffff:0:808:808"),
    *("2001:0:808:808::f7f7:f7f7", "2606:4700::5efe:8.8.8.8", "2a00:1450:4001::200e"),
)


@pytest.mark.parametrize("address", INWARD)
def test_an_address_of_this_machine_or_a_private_network_is_known(address: str) -> None:
    assert not inward.is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_known(address: str) -> None:
    assert inward.is_public(address)


@pytest.mark.parametrize("host", ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"))
@pytest.mark.parametrize("public", (True, False))
def test_a_public_server_leads_to_no_private_one(host: str, public: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What plays the public server is at 127.0.0.1 and taken for one by its name."""
    reached = []

    async def leads(request: web.Request) -> web.Response:
        if request.query_string:
            reached.append(request.query_string)
            return await ranged(request)
        return web.Response(
            status=302, headers={"Location": f"http://{host}:{request.url.port}/my%20model.gguf?inside"}
        )

    real = inward.Resolver.public
    monkeypatch.setattr(inward.Resolver, "public", lambda self, url: real(self, url) if url.query_string else public)
    if public:
        with pytest.raises(ModelFileError, match=r"leads to .*, an address of this machine or of a private network"):
            read(leads, lambda source: source.size())
        assert not reached
    elif host in ("127.0.0.1", "localhost"):
        assert read(leads, lambda source: source.size()) == 250 and reached


def test_a_name_with_one_address_inside_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(*_: Any) -> list[dict[str, str]]:
        return [{"host": "8.8.8.8"}, {"host": "127.0.0.1"}]

    async def ask() -> None:
        resolver, url = inward.Resolver(), URL("http://model.example/")
        assert resolver.public(url)  # as far as is known
        assert len(await resolver.resolve("model.example")) == 2 and not resolver.public(url)
        resolver.outward = True
        with pytest.raises(ModelFileError, match=r"leads to model\.example, an address of this machine"):
            await resolver.resolve("model.example")

    monkeypatch.setattr(inward.ThreadedResolver, "resolve", both)
    asyncio.run(ask())


def test_each_read_begins_at_the_address_that_was_given_wherever_the_one_before_was_led(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def leads(request: web.Request) -> web.Response:
        if request.query_string:
            return await ranged(request)
        there = f"http://127.0.0.1:{request.url.port}/my%20model.gguf?outside"
        response = web.Response(status=302, headers={"Location": there})
        response.force_close()  # so that its name is looked up each time
        return response

    async def twice(source: HTTPSource) -> bytes:
        return await source.read(0, 10) + await source.read(10, 10)

    monkeypatch.setattr(inward.Resolver, "public", lambda *_: True)
    assert read(leads, twice, "localhost") == DATA[:20]
