"""The package as a page gets it, with something else in the place of one of its modules."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llamaweb.host import server
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.page_wheel import page_wheel
from llamaweb.host.server import Site, serving


def use_wheel(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Serve the package with one module replaced."""
    wheel = page_wheel()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, source if entry == name else old.read(entry))
    monkeypatch.setattr(server, "page_wheel", lambda: dataclasses.replace(wheel, data=buffer.getvalue()))


@contextmanager
def chat_site(model: Path, source: str) -> Iterator[str]:
    """The address of a server of the chat page, in whose package `source` stands for page.commands; `model` is its
    default, which need not be one."""
    loop, told, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found = []
    model.write_bytes(b"GGUF")

    async def serve() -> None:
        async with serving(Site(ensure_distribution(), {model.name: model}, default=model.name)) as server:
            found.append(server.address)
            told.set()
            await end.wait()

    with pytest.MonkeyPatch.context() as patch:
        use_wheel(patch, "llamaweb/page/commands.py", source)
        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        assert told.wait(60)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
