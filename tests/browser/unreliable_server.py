"""A server of another origin that misbehaves on demand, for tests of downloads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "ETag, Content-Range, Content-Length, Retry-After, Repr-Digest, X-Linked-ETag",
    "Cache-Control": "max-age=3600",
}


@dataclass(frozen=True)
class Fault:
    """What happens to one answer. status: it is this instead, with `headers`; after: so many bytes of the body come,
    and then the connection is `drop`ped, the body `end`s as if whole, nothing more comes (`stall`), a byte now and then
    (`drip`), or zeros without an end (`flood`)."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    then: str = "drop"
    when: Callable[[Served], None] | None = None  # done to the file before it is answered


@dataclass
class Served:
    """A file as it is served, the faults of its next answers, and what was asked for."""

    data: bytes
    headers: dict[str, str]
    ranges: bool = True
    length: bool = True
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None  # of every answer after those
    pace: float = 0.0  # seconds before each 64 KiB
    cors: bool = True  # whether pages of other origins are told what it answers
    requests: list[str] = field(default_factory=list)
    flooded: int = 0  # bytes behind the file's end


class UnreliableServer:
    """`url(name, data, …)` serves a file; `files[name]` is how."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.base = ""

    def url(self, name: str, data: bytes, *faults: Fault, headers: dict[str, str] | None = None, **how: Any) -> str:
        self.files[name] = Served(data, headers or {}, faults=list(faults), **how)
        return f"{self.base}/{name}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ConnectionResetError:  # the page wants no more
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        file = self.files.get(request.match_info["name"])
        if file is None:
            return web.Response(status=404, headers=CORS)
        wanted = request.headers.get("Range", "")
        file.requests.append(f"{request.method} {wanted}".strip())
        fault = file.faults.pop(0) if file.faults else file.always
        if fault and fault.when:
            fault.when(file)
        if fault and fault.status:
            return web.Response(status=fault.status, headers=(CORS if file.cors else {}) | fault.headers)
        size = len(file.data)
        first, last, status = 0, size - 1, 200
        headers = (CORS if file.cors else {}) | file.headers
        if wanted and file.ranges:
            begin, end = wanted.removeprefix("bytes=").split("-")
            first, last, status = int(begin), min(int(end), last), 206
            if first >= size:
                return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        response = web.StreamResponse(status=status, headers=headers)
        breaks = fault is not None and fault.status == 0 and fault.when is None
        if file.length and not (breaks and fault and fault.then == "end"):
            response.content_length = last - first + 1
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        body = file.data[first : last + 1]
        if breaks and fault:
            await response.write(body[: fault.after])
            if fault.then == "stall":
                await asyncio.sleep(3600)
            while fault.then == "drip":
                await asyncio.sleep(0.05)
                await response.write(b"x")
            while fault.then == "flood":
                await response.write(bytes(1 << 20))
                file.flooded += 1 << 20
            if fault.then == "drop" and request.transport:
                await asyncio.sleep(0.05)  # so that what was written is not lost with the connection
                request.transport.close()
            return response
        for at in range(0, len(body), 1 << 16):
            await asyncio.sleep(file.pace)
            await response.write(body[at : at + (1 << 16)])
        return response


@contextmanager
def unreliable_server() -> Iterator[UnreliableServer]:
    server = UnreliableServer()
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{name:.*}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
