"""The page as the command line sees it: a headless browser that runs commands of `llamaweb.page.commands`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from llamaweb import errors
from llamaweb.errors import HostError, LlamaWebError
from llamaweb.host import chrome, firefox
from llamaweb.host.browser import Browser, BrowserChoice, PageError
from llamaweb.host.report import Report, silent
from llamaweb.host.server import Server, Site, messages, serving

Event = dict[str, Any]
# Chromium and Pyodide come up in seconds; a machine under load gets more.
START_SECONDS = 180


class PageSession:
    """A page that is ready; `server` tells the addresses under which it sees the files that were given."""

    def __init__(
        self, server: Server, browser: Browser, socket: web.WebSocketResponse, inbox: asyncio.Queue[Event | None]
    ) -> None:
        self.server = server
        self._browser = browser
        self._socket = socket
        self._inbox = inbox
        self._ids = itertools.count(1)

    async def call(self, command: str, params: dict[str, Any], on_event: Callable[[Event], None]) -> Event:
        """Run one command; progress and text go to `on_event`, the result is returned, an error is raised."""
        number = next(self._ids)
        # JavaScript reads no Infinity and no NaN.
        order = {"id": number, "command": command, "params": params}
        await self._socket.send_json(order, dumps=partial(json.dumps, allow_nan=False))
        while (message := await self._inbox.get()) is not None:
            event = message["event"]
            # An error without an id is the worker's own: nothing more will come.
            if event["event"] == "error" and message.get("id", number) == number:
                raise error_of(event)
            if message.get("id") != number:
                continue
            if event["event"] == "result":
                return {key: value for key, value in event.items() if key != "event"}
            on_event(event)
        raise PageError("The browser's page ended unexpectedly, perhaps out of memory; try again or a smaller model.")

    async def in_new_tab(self, path: str, function: str, argument: Any) -> Any:
        """Open another page of the server in the same browser, and return what its async `function` gives for
        `argument` (JSON); PageError if it fails."""
        return await asyncio.to_thread(self._browser.in_new_tab, f"{self.server.url}/{path}", function, argument)


def error_of(event: Event) -> LlamaWebError:
    """The page's error event as the exception that it was."""
    if event.get("type") == "PythonEnded":
        return PageError(f"{event['message'].rstrip('.')}; try again, or a smaller model.")
    kind = getattr(errors, str(event.get("type")), None)
    if isinstance(kind, type) and issubclass(kind, LlamaWebError):
        return kind(event["message"])
    return PageError(f"{event['message']} ({event.get('type')} in the page; please report it).")


@asynccontextmanager
async def open_page(site: Site, choice: BrowserChoice, report: Report = silent) -> AsyncIterator[PageSession]:
    """Serve `site`, open it in a headless browser, and close both at the end, whatever happens."""
    inbox: asyncio.Queue[Event | None] = asyncio.Queue()
    connected: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()

    async def bridge(socket: web.WebSocketResponse) -> None:
        if connected.done():
            return
        connected.set_result(socket)
        async for message in messages(socket):
            inbox.put_nowait(message)
        inbox.put_nowait(None)

    async with serving(site, bridge=bridge) as server:
        report("Starting the browser")
        async with _started(choice) as started:
            try:
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.to_thread(started.get, server.bridge_address)
                    socket = await connected
                    await _ready(inbox, report)
            except TimeoutError as error:
                raise HostError(
                    f"The page was not ready after {START_SECONDS} seconds; the machine may be overloaded, try again."
                ) from error
            yield PageSession(server, started, socket, inbox)


async def _ready(inbox: asyncio.Queue[Event | None], report: Report) -> None:
    report("Starting Python in the browser")
    while (message := await inbox.get()) is not None:
        event = message["event"]
        if event["event"] == "error":
            raise error_of(event)
        if event["event"] == "ready":
            return
    raise PageError("The browser ended while it started; try again, or another browser with --browser or --chrome.")


@asynccontextmanager
async def _started(choice: BrowserChoice) -> AsyncIterator[Browser]:
    start = asyncio.create_task(asyncio.to_thread(_start, choice))
    try:
        started = await asyncio.shield(start)
    except asyncio.CancelledError:
        # Interrupted while it starts: it will have started, and must end.
        with contextlib.suppress(HostError):
            (await start).quit()
        raise
    try:
        yield started
    finally:
        await asyncio.shield(asyncio.to_thread(started.quit))


def _start(choice: BrowserChoice) -> Browser:
    return firefox.Firefox(choice) if choice.kind == "firefox" else chrome.Chromium(choice)
