"""The local server: ranges, isolation, and whom it lets in."""

from __future__ import annotations

import asyncio
import errno
import io
import resource
import socket
import time
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from llamaweb.errors import HostError
from llamaweb.host import server as server_module
from llamaweb.host.login import COOKIE, Login
from llamaweb.host.page_wheel import page_wheel
from llamaweb.host.server import Server, Site, messages, serving
from llamaweb.host.strangers import allowed_files

# Also of this machine, or of what begins or ends as it; no address of ours has them.
OTHER_NAMES = ("127.1", "2130706433", "0.0.0.0", "[::1]", "127.0.0.2", "a.localhost", "localhost.", "localhost.a")

Visit = Callable[[Server, aiohttp.ClientSession], Awaitable[None]]


@pytest.fixture
def visit(tmp_path: Path) -> Callable[[Visit], None]:
    """Runs a visit, with the login, to a server whose model holds the bytes 0 to 199."""
    distribution = tmp_path / "pyodide"
    distribution.mkdir()
    (distribution / "pyodide.mjs").write_text("export {}")
    (distribution / "pyodide.asm.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "pyodide-secret").mkdir()
    (tmp_path / "pyodide-secret" / "secret").write_text("secret")
    model = tmp_path / "a model.gguf"
    model.write_bytes(bytes(range(200)))

    def run(visitor: Visit) -> None:
        async def body() -> None:
            site = Site(distribution, {model.name: model}, default=model.name)
            async with serving(site) as server, browser() as session:
                await session.get(server.address)
                await visitor(server, session)

        asyncio.run(body())

    return run


def browser() -> aiohttp.ClientSession:
    """Which keeps a server's cookies, as a browser does."""
    return aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))


def cookie(server: Server) -> str:
    return f"Cookie: {COOKIE}={server.login.secret}"


def test_a_model_is_served_in_ranges(visit: Callable[[Visit], None]) -> None:
    async def ranges(server: Server, session: aiohttp.ClientSession) -> None:
        headers = {"Range": "bytes=10-19"}
        async with session.get(server.model_url("a model.gguf"), headers=headers) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == "bytes 10-19/200"
            assert await response.read() == bytes(range(10, 20))

    visit(ranges)


def test_pages_are_cross_origin_isolated_and_scripts_have_their_types(visit: Callable[[Visit], None]) -> None:
    async def types(server: Server, session: aiohttp.ClientSession) -> None:
        expected = {
            "bridge.html": "text/html",
            "worker.js": "text/javascript",
            "pyodide/pyodide.mjs": "text/javascript",
            "pyodide/pyodide.asm.wasm": "application/wasm",
            "config.json": "application/json",
        }
        for path, kind in expected.items():
            async with session.get(f"{server.url}/{path}") as response:
                assert (response.status, response.content_type) == (200, kind), path
                assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"

    visit(types)


def test_every_answer_has_the_headers_of_an_isolated_page_and_each_kind_of_file_its_type(tmp_path: Path) -> None:
    for name in ("a.json", "a.js", "a.wasm", "a.mjs", "a.html", "a b.gguf"):
        (tmp_path / name).write_text(name)
    text, octets = "text/javascript", "application/octet-stream"
    kinds = {
        "a.json": "application/json",
        "a.js": text,
        "a.mjs": text,
        "a.wasm": "application/wasm",
        "a.html": "text/html",
    }
    wheel = page_wheel()

    async def body() -> None:
        site = Site(tmp_path, {"a b": tmp_path / "a b.gguf"}, {"a/b": b"data"}, {"peer": tmp_path})
        async with serving(site) as server, browser() as session:
            await session.get(server.address)
            config = {"pyodide": "pyodide/", "wheel": wheel.file_name, "model": None}
            assert await (await session.get(f"{server.url}/config.json")).json() == config
            for url, kind, data in (
                *(
                    (f"{server.url}/{at}/{n}", kind, n.encode())
                    for at in ("pyodide", "folder/peer")
                    for n, kind in kinds.items()
                ),
                (server.model_url("a b"), octets, b"a b.gguf"),
                (f"{server.url}/file/a%2Fb", octets, b"data"),
                (f"{server.url}/{wheel.file_name}", "application/zip", wheel.data),
            ):
                async with session.get(URL(url, encoded=True)) as response:
                    assert (response.status, response.content_type) == (200, kind), url
                    assert await response.read() == data
                    for header, value in {
                        "Cross-Origin-Opener-Policy": "same-origin",
                        "Cross-Origin-Embedder-Policy": "require-corp",
                        "Cross-Origin-Resource-Policy": "same-origin",
                        "Cache-Control": "no-cache",
                    }.items():
                        assert response.headers[header] == value, (url, header)
            for path in (
                "file/other",
                "file/",
                "folder/other/a.html",
                "folder/peer/",
                "folder/peer/none",
                "folder/peer",
            ):
                async with session.get(f"{server.url}/{path}") as response:
                    assert response.status == 404, path

    asyncio.run(body())


def test_names_are_quoted_in_addresses() -> None:
    server = Server(8000, Login("secret"))
    begin = f"http://127.0.0.1:8000{server.login.folder}"
    assert (server.origin, server.url, server.port) == ("http://127.0.0.1:8000", begin, 8000)
    assert server.address == "http://127.0.0.1:8000/?token=secret"
    assert server.bridge_address == f"{begin}/bridge.html?token=secret"
    assert server.model_url("a b?.gguf") == f"{begin}/model/a%20b%3F.gguf"
    assert server.file_url("a b#.txt") == f"{begin}/file/a%20b%23.txt"


def test_the_configuration_names_a_wheel_that_holds_the_package_and_its_wgsl(visit: Callable[[Visit], None]) -> None:
    async def wheel(server: Server, session: aiohttp.ClientSession) -> None:
        config = await (await session.get(f"{server.url}/config.json")).json()
        assert config["model"] == {"name": "a model.gguf", "url": "model/a%20model.gguf"}
        data = await (await session.get(f"{server.url}/{config['wheel']}")).read()
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
        assert {"llamaweb/__init__.py", "llamaweb/page/worker.py"} <= set(names)
        assert any(name.startswith("llamaweb/wgsl/") and name.endswith(".wgsl") for name in names)
        assert not any(name.startswith("llamaweb/host/") for name in names)

    visit(wheel)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/model/other.gguf",
        "/model/..%2Fsecret",
        "/pyodide/..%2Fsecret",
        "/pyodide/../secret",
        "/pyodide/..%2Fpyodide-secret%2Fsecret",
        "/pyodide/pyodide.mjs/..%2F..%2Fpyodide-secret%2Fsecret",
        "/pyodide-secret/secret",
        "/pyodide/",
        "/%00",
        "/pyodide/%ff%fe%00",
        pytest.param("/" + 3000 * "a", id="long"),
    ],
)
def test_what_is_not_the_sites_is_not_found(visit: Callable[[Visit], None], path: str) -> None:
    async def missing(server: Server, session: aiohttp.ClientSession) -> None:
        async with session.get(URL(server.url + path, encoded=True)) as response:
            assert response.status == 404

    visit(missing)


async def raw(server: Server, *lines: str) -> str:
    """The first line of the answer to a request as it stands here, with the login."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write("\r\n".join([*lines, cookie(server), "Connection: close", "", ""]).encode())
    answer = await reader.readline()
    writer.close()
    return answer.decode()


def test_another_sites_name_for_this_machine_is_refused_however_it_is_written(visit: Callable[[Visit], None]) -> None:
    async def rebound(server: Server, session: aiohttp.ClientSession) -> None:
        port, path = server.port, f"{server.login.folder}/model/a%20model.gguf"
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
            assert " 200 " in await raw(server, f"GET {path} HTTP/1.1", f"Host: {host}"), host
        ours, theirs = f"Host: 127.0.0.1:{port}", "Host: attacker.example"
        for lines in (
            [f"GET {path} HTTP/1.1", theirs],
            [f"GET {path} HTTP/1.1", f"{theirs}:{port}"],
            [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"],
            [f"GET {path} HTTP/1.1", "Host: localhost"],
            [f"GET {path} HTTP/1.1", "Host: "],
            *([f"GET {path} HTTP/1.1", f"Host: {name}:{port}"] for name in OTHER_NAMES),
            [f"GET {path} HTTP/1.1", f"Host: localhost:{port + 1}"],
            [f"GET {path} HTTP/1.1", f"Host: localhost:{port}:{port}"],
            [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1.attacker.example:{port}"],
            [f"GET {path} HTTP/1.1", f"Host: attacker.example@127.0.0.1:{port}"],
            [f"GET {path} HTTP/1.1", ours, theirs],
            [f"GET {path} HTTP/1.1", theirs, ours],
            [f"GET {path} HTTP/1.0"],
            [f"GET http://attacker.example{path} HTTP/1.1", ours],
            [f"GET http://127.0.0.1:{port}{path} HTTP/1.1", theirs],
        ):
            status = (await raw(server, *lines)).split()[1]
            assert status in ("400", "403"), lines

    visit(rebound)


def test_the_port_that_browsers_leave_out_of_an_address_need_not_be_named() -> None:
    assert Server(80, Login()).hosts == {"127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"}


def test_every_answer_has_a_policy_and_tells_nobody_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "pyodide.mjs").touch()
    (tmp_path / "peer.html").touch()
    (tmp_path / "peer.js").touch()
    theirs, frame = "https://models.example", "http://127.0.0.1:8888"
    pages = ("", "bridge.html", "index.html", "config.json", "style.css", "file/text", "nothing")
    scripts = ("worker.js", "chat.js", "pyodide/pyodide.mjs")

    async def body(frames: tuple[str, ...]) -> None:
        site = Site(tmp_path, files={"text": b""}, folders={"peer": tmp_path}, reach=(theirs,), frames=frames)
        async with serving(site) as server, browser() as session:

            async def policy(path: str) -> dict[str, str]:
                async with session.get(f"{server.url}/{path}") as response:
                    assert response.headers["Referrer-Policy"] == "no-referrer"
                    assert response.headers["X-Content-Type-Options"] == "nosniff"
                    found = response.headers["Content-Security-Policy"]
                return {part.split()[0]: part.split(maxsplit=1)[1] for part in found.split("; ")}

            shown = " ".join(frames) or "'none'"
            assert (await policy(""))["frame-ancestors"] == shown  # of who is refused
            await session.get(server.address)
            for path in pages:
                found = await policy(path)
                assert found["frame-ancestors"] == shown and found["default-src"] == "'self'", path
                assert not {"script-src", "connect-src", "worker-src"} & set(found) and "img-src" in found
            for path in scripts:
                found = await policy(path)
                assert found["default-src"] == found["frame-ancestors"] == "'none'", path
                assert found["connect-src"] == f"{server.origin} {theirs}"
                assert found["script-src"] == "'self' 'unsafe-eval'"
            for path in ("folder/peer/peer.html", "folder/peer/peer.js"):
                found = await policy(path)
                assert found["frame-ancestors"] == "'none'" and theirs not in str(found) and "*" not in str(found)
                assert "inline" not in str(found)

    asyncio.run(body(()))
    asyncio.run(body((frame, theirs)))


def test_a_compressed_file_beside_one_is_not_served_in_its_place(
    visit: Callable[[Visit], None], tmp_path: Path
) -> None:
    for name in ("a model.gguf", "pyodide/pyodide.mjs"):
        for ending in (".gz", ".br"):
            (tmp_path / f"{name}{ending}").write_bytes(b"another")

    async def compressed(server: Server, session: aiohttp.ClientSession) -> None:
        for url, data in (
            (server.model_url("a model.gguf"), bytes(range(200))),
            (f"{server.url}/pyodide/pyodide.mjs", b"export {}"),
        ):
            async with session.get(url, headers={"Accept-Encoding": "gzip, br"}) as response:
                assert await response.read() == data and "Content-Encoding" not in response.headers

    visit(compressed)


def test_the_bridge_is_only_for_a_page_of_ours_in_a_browser_with_the_login(tmp_path: Path) -> None:
    async def body() -> None:
        heard: list[Any] = []

        async def bridge(socket: aiohttp.web.WebSocketResponse) -> None:
            await socket.send_str("welcome")
            heard.extend([message async for message in messages(socket)])

        async with serving(Site(tmp_path), bridge=bridge) as server, aiohttp.ClientSession() as session:
            url, origin, secret = f"{server.url}/bridge", server.origin, server.login.secret
            ours = {"Cookie": f"{COOKIE}={secret}"}
            for query, headers in (
                ("", {"Origin": origin}),
                ("", {"Origin": origin, "Cookie": f"{COOKIE}="}),
                ("", {"Origin": origin, "Cookie": f"{COOKIE}={secret[:-1]}"}),
                ("?token=guess", {"Origin": origin}),
                ("?token=gu%C3%A9ss", {"Origin": origin}),
                ("", ours),
                ("", ours | {"Origin": "http://attacker.example"}),
                ("", ours | {"Origin": "null"}),
                ("", ours | {"Origin": f"http://127.0.0.1:{server.port + 1}"}),
                ("", ours | {"Origin": f"http://localhost:{server.port}"}),
            ):
                with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                    await session.ws_connect(url + query, headers=headers)
            async with session.ws_connect(url, headers=ours | {"Origin": origin}) as websocket:
                assert await websocket.receive_str() == "welcome"
                await websocket.send_str('{"said": 1}')
                await websocket.send_bytes(b"no message")
                await websocket.send_str('{"said": "%s"}' % ("x" * (5 << 20)))  # as long as it is
            assert [str(message)[:12] for message in heard] == ["{'said': 1}", "{'said': 'xx"]

    asyncio.run(body())


def test_half_open_connections_are_dropped_within_10_s_and_others_answered_meanwhile(
    visit: Callable[[Visit], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 3 < server_module._IDLE_SECONDS < 10
    monkeypatch.setattr(server_module, "_IDLE_SECONDS", 1.0)

    async def flood(server: Server, session: aiohttp.ClientSession) -> None:
        begin = time.monotonic()
        opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(1500)]
        for number, (_, writer) in enumerate(opened):
            if number % 2:
                writer.write(b"GET / HTTP/1.1\r\nHost: ")
        async with session.get(server.model_url("a model.gguf")) as response:
            assert response.status == 200
        async with asyncio.timeout(60):
            for reader, writer in opened:
                assert await reader.read() == b""
                writer.close()
        assert time.monotonic() - begin > 0.9

    visit(flood)


def test_strangers_make_room_for_each_other_and_for_nobody_who_has_the_login(
    visit: Callable[[Visit], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamaweb.host.server.allowed_files", lambda: 20)

    async def flood(server: Server, session: aiohttp.ClientSession) -> None:
        known = await asyncio.open_connection("127.0.0.1", server.port)
        head = [f"GET {server.login.folder}/config.json HTTP/1.1", f"Host: 127.0.0.1:{server.port}", cookie(server)]

        async def answered() -> bytes:
            known[1].write("\r\n".join([*head, "", ""]).encode())
            answer = await known[0].readuntil(b"\r\n\r\n")
            await known[0].readuntil(b"}}")
            return answer.split()[1]

        assert await answered() == b"200"
        strangers = []
        for _ in range(30):
            strangers.append(await asyncio.open_connection("127.0.0.1", server.port))
            await asyncio.sleep(0.001)
        assert await answered() == b"200"
        waits = [asyncio.create_task(reader.read()) for reader, _ in strangers]
        await asyncio.sleep(0.05)
        assert [wait.done() for wait in waits] == [True] * 20 + [False] * 10
        for wait, (_, writer) in zip(waits, strangers, strict=True):
            wait.cancel()
            writer.close()
        known[1].close()

    visit(flood)


@pytest.mark.parametrize(
    ("limits", "allowed", "asked"),
    [
        ((1024, 1 << 20), 8192, [(8192, 1 << 20)]),
        ((1024, 4096), 4096, [(4096, 4096)]),
        ((256, resource.RLIM_INFINITY), 8192, [(8192, resource.RLIM_INFINITY)]),
        ((1 << 19, 1 << 20), 8192, []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 8192, []),
        ((1024, 1024), 1024, []),
    ],
)
def test_as_many_files_as_may_be_and_no_more_than_are_needed_are_asked_for(
    limits: tuple[int, int], allowed: int, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, both: told.append(both))
    assert (allowed_files(), told) == (allowed, asked)

    def refuse(what: int, both: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allowed_files() == (256 if asked else allowed)


def test_what_is_no_http_or_too_long_is_4xx_without_a_word_on_the_terminal(
    visit: Callable[[Visit], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def odd(server: Server, session: aiohttp.ClientSession) -> None:
        host = f"Host: 127.0.0.1:{server.port}"
        for lines in (
            [f"GET /{'a' * 20000} HTTP/1.1", host],
            ["GET / HTTP/1.1", host, f"X: {'a' * 20000}"],
            ["GET / HTTP/1.1", host, *(f"X{n}: 1" for n in range(500))],
            ["GET /%00 HTTP/1.1", host],
            ["GET / HTTP/9.9", host],
            ["\x00\x01\x02 / HTTP/1.1", host],
            ["GET / HTTP/1.1", host, "no header"],
        ):
            assert (await raw(server, *lines)).split()[1].startswith("4"), lines[0][:20]

    visit(odd)
    assert caplog.records == []  # of which warnings and worse are shown there


def test_only_this_machine_reaches_it(visit: Callable[[Visit], None]) -> None:
    async def bound(server: Server, session: aiohttp.ClientSession) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other, pytest.raises(OSError):
            other.settimeout(2)
            other.connect(("127.0.0.2", server.port))  # it is bound to 127.0.0.1 alone, not to all addresses

    visit(bound)


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    async def body(port: int) -> None:
        async with serving(Site(tmp_path), port):
            raise AssertionError("it served on a port in use")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"Port {port} is in use; .*--port"):
            asyncio.run(body(port))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.EADDRINUSE, "in use"),
            "Port 80 is in use; stop what listens there, or choose another with --port.",
        ),
        (
            PermissionError(errno.EACCES, "not allowed"),
            "Port 80 cannot be opened (not allowed); choose another with --port.",
        ),
        (OSError("odd"), "Port 80 cannot be opened (odd); choose another with --port."),
    ],
)
def test_a_port_that_cannot_be_opened_is_one_sentence(
    error: OSError, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async def refuse(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(asyncio.get_running_loop(), "create_server", refuse)
        with pytest.raises(HostError) as caught:
            async with serving(Site(tmp_path), 80):
                raise AssertionError("it served")
        assert str(caught.value) == sentence

    asyncio.run(body())
