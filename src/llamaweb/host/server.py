"""The local web server: the demo pages, Pyodide, the package's wheel, the model, and the command line's bridge."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import WSMsgType, web
from aiohttp.http import HttpProcessingError

from llamaweb.assets import asset_dir
from llamaweb.errors import HostError
from llamaweb.host.login import Login
from llamaweb.host.page_wheel import page_wheel
from llamaweb.host.policy import page_policy, peer_policy, script_policy
from llamaweb.host.strangers import Connections, allowed_files

HOST = "127.0.0.1"
# Cross-origin isolation; no-cache has the browser ask again, and a 304 answer costs nothing.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}
_OURS = (HOST, "localhost")
# A connection that asks for nothing, or never ends what it asks, is dropped.
_IDLE_SECONDS = 8.0
# What is no HTTP is answered with a 400; that it came is nobody's concern.
_LOG = logging.getLogger(__name__)
_LOG.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


@dataclass(frozen=True)
class Site:
    """What is served. `models`, `files` and `folders` map the names in addresses to files, bytes and folders;
    `default` is the page's model. `reach`: the other origins that Python in the page may reach, `frames`: those whose
    pages may show ours."""

    distribution: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    default: str | None = None
    reach: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()


Bridge = Callable[[web.WebSocketResponse], Awaitable[None]]


class Server:
    """A running server. `url` is where its pages are, for a browser that has opened `address` or `bridge_address`:
    these hold the secret, and are for nobody's eyes but a person's."""

    connections: Connections

    def __init__(self, port: int, login: Login) -> None:
        self.port = port
        self.login = login

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}{self.login.folder}"

    @property
    def hosts(self) -> set[str]:
        """What a browser names as the host of our addresses."""
        return {f"{name}:{self.port}" for name in _OURS} | (set(_OURS) if self.port == 80 else set())

    @property
    def address(self) -> str:
        return f"{self.origin}/?token={self.login.secret}"

    @property
    def bridge_address(self) -> str:
        return f"{self.url}/bridge.html?token={self.login.secret}"

    def model_url(self, name: str) -> str:
        return f"{self.url}/model/{quote(name)}"

    def file_url(self, name: str) -> str:
        return f"{self.url}/file/{quote(name)}"


@asynccontextmanager
async def serving(
    site: Site, port: int = 0, bridge: Bridge | None = None, login: Login | None = None
) -> AsyncIterator[Server]:
    """Serve `site` on `port` (0: a free one) of this machine only; HostError if the port is in use. login: one of its
    own if None."""
    server = Server(port, login or Login())
    server.login.framed = bool(site.frames)
    runner = web.AppRunner(
        _app(site, server, bridge),
        access_log=None,
        logger=_LOG,
        shutdown_timeout=1.0,
        keepalive_timeout=_IDLE_SECONDS,
        lingering_time=1.0,
    )
    await runner.setup()
    assert runner.server is not None
    server.connections = Connections(runner.server, allowed_files() // 2)
    try:
        try:
            listening = await asyncio.get_running_loop().create_server(server.connections, HOST, port)
        except OSError as error:
            raise HostError(_port_sentence(port, error)) from error
        server.port = listening.sockets[0].getsockname()[1]
        try:
            yield server
        finally:
            listening.close()
    finally:
        await runner.cleanup()


def _port_sentence(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use; stop what listens there, or choose another with --port."
    return f"Port {port} cannot be opened ({error.strerror or error}); choose another with --port."


def _app(site: Site, server: Server, bridge: Bridge | None) -> web.Application:
    wheel = page_wheel()
    default = {"name": site.default, "url": f"model/{quote(site.default)}"} if site.default else None
    config = {"pyodide": "pyodide/", "wheel": wheel.file_name, "model": default}

    async def settings(request: web.Request) -> web.Response:
        return web.json_response(config)

    async def the_wheel(request: web.Request) -> web.Response:
        return web.Response(body=wheel.data, content_type="application/zip")

    async def pyodide(request: web.Request) -> web.FileResponse:
        return _file(site.distribution, request.match_info["path"])

    async def demo(request: web.Request) -> web.FileResponse:
        return _file(asset_dir("demo"), request.match_info["path"] or "index.html")

    async def model(request: web.Request) -> web.FileResponse:
        name = request.match_info["name"]
        if name not in site.models:
            raise web.HTTPNotFound
        return _Served(site.models[name], headers={"Content-Type": "application/octet-stream"})

    async def file(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in site.files:
            raise web.HTTPNotFound
        return web.Response(body=site.files[name], content_type="application/octet-stream")

    async def folder(request: web.Request) -> web.FileResponse:
        name = request.match_info["name"]
        if name not in site.folders:
            raise web.HTTPNotFound
        return _file(site.folders[name], request.match_info["path"])

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        # A page of ours opens it, and nothing else: the cookie is sent with what other pages of this machine ask, too.
        if bridge is None or request.headers.get("Origin") != server.origin:
            raise web.HTTPForbidden
        socket = web.WebSocketResponse(max_msg_size=0, heartbeat=30)
        await socket.prepare(request)
        await bridge(socket)
        return socket

    async def isolate(request: web.Request, response: web.StreamResponse) -> None:
        if request.path.startswith(f"{server.login.folder}/folder/"):
            policy = peer_policy()
        elif response.content_type == "text/javascript":
            policy = script_policy(f"http://{request.host}", site.reach)
        else:
            policy = page_policy(site.frames)
        response.headers.update(HEADERS | {"Content-Security-Policy": policy})

    @web.middleware
    async def only_us(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        # A foreign name that resolves to this machine (DNS rebinding) would let its pages read the model and the files.
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in server.hosts or not request.raw_path.startswith("/"):
            raise web.HTTPForbidden
        server.login.check(request)
        server.connections.know(request)
        return await handler(request)

    app = web.Application(middlewares=[only_us])
    for path, handler in (
        ("config.json", settings),
        (wheel.file_name, the_wheel),
        ("pyodide/{path:.+}", pyodide),
        ("model/{name}", model),
        ("file/{name}", file),
        ("folder/{name}/{path:.+}", folder),
        ("bridge", websocket),
        ("{path:.*}", demo),
    ):
        app.router.add_get(f"{server.login.folder}/{path}", handler)
    app.on_response_prepare.append(isolate)
    return app


class _Served(web.FileResponse):
    """The file itself: aiohttp would take a compressed one that lies beside it for the same."""

    def _make_response(self, request: Any, accept_encoding: str) -> Any:
        return super()._make_response(request, "")


def _file(folder: Path, name: str) -> web.FileResponse:
    try:
        path = (folder / name).resolve()
        found = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have: too long, or with a NUL
        found = False
    if not found:
        raise web.HTTPNotFound
    kind = _TYPES.get(path.suffix)
    return _Served(path, headers={"Content-Type": kind} if kind else None)


async def messages(socket: web.WebSocketResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON messages of a bridge until it closes."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            yield json.loads(message.data)
