"""Whose pages may show the chat page in a frame."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from llamaweb.host.browser import BrowserChoice
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.server import Site, serving
from tests import driver as drivers
from tests.pages.chat_page import until


@contextmanager
def framing() -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    """A server whose page shows the address that is put into the list."""
    shown: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<!doctype html><iframe src='{shown[0]}'></iframe>".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server, shown
        server.shutdown()


def in_frame(driver: Chrome, page: str, script: str) -> object:
    driver.get(page)
    driver.switch_to.frame(driver.find_element(By.TAG_NAME, "iframe"))
    return until(lambda: driver.execute_script(script), 20)


def test_only_pages_that_were_allowed_show_ours_of_another_site_too(choice: BrowserChoice) -> None:
    async def body() -> None:
        with framing() as (server, shown):
            port = server.server_port
            allowed = (f"http://127.0.0.1:{port}", f"http://localhost:{port}")
            driver = await asyncio.to_thread(drivers.start, BrowserChoice(choice.path))
            try:
                for frames in (allowed, ()):
                    async with serving(Site(ensure_distribution(), frames=frames)) as ours:
                        shown[:] = [ours.address]
                        for origin in allowed:
                            # What is refused is a page of the browser's own in its place.
                            told = "return location.protocol === 'chrome-error:' ? 'refused' : document.title"
                            found = await asyncio.to_thread(in_frame, driver, origin, told)
                            assert found == ("LlamaWeb" if frames else "refused"), (origin, frames)
            finally:
                await asyncio.to_thread(drivers.stop, driver)

    asyncio.run(body())
