"""What Python in a page may reach: our origin, and the model's where the command line was given an address."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llamaweb.host.bridge import open_page
from llamaweb.host.browser import BROWSERS, BrowserChoice
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.server import Site
from tests.pages.stand_in import use_wheel

# Every way out of a worker that browsers have; each asks for a path of its own name.
PROBE = """
import asyncio
from pyodide.code import run_js
from pyodide.ffi import JsException
from pyodide.http import pyfetch

WAYS = '''(there) => {
  const asked = (path) => `${there}/${path}`;
  const within = (text) => new Promise((resolve) => {
    const script = `(async () => { ${text} })().finally(() => postMessage(0))`;
    const worker = new Worker(URL.createObjectURL(new Blob([script])));
    worker.onmessage = worker.onerror = resolve;
  });
  const ends = (thing) => new Promise((resolve) => { thing.onopen = thing.onload = thing.onerror = resolve; });
  return [
    () => fetch(asked("fetch")),
    () => fetch(asked("blind"), { mode: "no-cors" }),
    () => { const get = new XMLHttpRequest(); get.open("GET", asked("xhr")); get.send(); return ends(get); },
    () => ends(new EventSource(asked("events"))),
    () => ends(new WebSocket(asked("socket").replace("http", "ws"))),
    () => import(asked("import")),
    () => import("data:text/javascript,fetch('" + asked("data") + "')"),
    () => within(`importScripts("${asked("scripts")}")`),
    () => within(`await fetch("${asked("nested")}")`),
    () => within(`await import("${asked("nested-import")}")`),
  ];
}'''

async def handle(command, params, emit, file=None):
    refused = 0
    for way in run_js(WAYS)(params["there"]):
        try:
            await asyncio.wait_for(way(), 5)
        except (JsException, asyncio.TimeoutError):
            refused += 1
    try:
        await pyfetch(params["there"] + "/python")
    except Exception:
        refused += 1
    emit({"event": "result", "refused": refused})
"""


PATIENCE = 120  # seconds; all ways together may take 50


class Other(ThreadingHTTPServer):
    """A server of another origin that gives everybody everything, and notes what it is asked for."""

    def __init__(self, model: bytes = b"") -> None:
        self.asked: list[str] = []
        self.leads_to = ""  # where it sends those who ask
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path[1:])
                self.send_response(302 if outer.leads_to else 200)
                if outer.leads_to:
                    self.send_header("Location", outer.leads_to)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Cross-Origin-Resource-Policy", "cross-origin")
                self.send_header("Content-Type", "text/javascript")
                self.send_header("Content-Length", str(0 if outer.leads_to else len(model)))
                self.end_headers()
                if not outer.leads_to:
                    self.wfile.write(model)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        super().__exit__(*error)


@pytest.fixture
def other() -> Iterator[Other]:
    with Other() as other:
        yield other


@pytest.mark.parametrize("kind", BROWSERS)
def test_python_in_the_page_reaches_no_other_origin_but_the_models_and_runs_nothing_of_that(
    kind: str, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", PROBE)

    async def probed(*reach: str) -> tuple[int, set[str]]:
        async with open_page(Site(ensure_distribution(), reach=reach), BrowserChoice(kind=kind)) as page:
            other.asked.clear()
            async with asyncio.timeout(PATIENCE):
                found = await page.call("probe", {"there": other.origin}, lambda event: None)
            return found["refused"], set(other.asked)

    def asked(*reach: str) -> tuple[int, set[str]]:
        try:
            return asyncio.run(probed(*reach))
        except TimeoutError:  # in long runs Firefox was seen twice to begin with the ways, and never to end
            return asyncio.run(probed(*reach))

    assert asked()[1] == set()
    refused, reached = asked(other.origin)
    assert {"fetch", "blind", "xhr", "events", "nested", "python"} <= reached  # so each of these is a way out
    assert not reached & {"import", "data", "scripts", "nested-import"} and refused > 0


@pytest.mark.parametrize("kind", BROWSERS)
def test_the_bridges_page_reaches_no_other_origin(kind: str, other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    use_wheel(monkeypatch, "llamaweb/page/commands.py", PROBE)
    ways = f"""() => Promise.allSettled([
      fetch("{other.origin}/fetch"),
      import("{other.origin}/import"),
      new Promise((resolve) => {{
        const image = new Image();
        image.onload = image.onerror = resolve;
        image.src = "{other.origin}/image";
      }}),
    ]).then((all) => all.length)"""

    async def body() -> None:
        async with open_page(Site(ensure_distribution(), reach=(other.origin,)), BrowserChoice(kind=kind)) as page:
            assert await asyncio.to_thread(page._browser.tab.run, ways) == 3

    asyncio.run(body())
    assert other.asked == []


def test_a_model_at_an_address_is_run_from_where_that_leads_to(tiny_model: Path) -> None:
    with Other(tiny_model.read_bytes()) as there, Other() as named:
        named.leads_to = f"{there.origin}/elsewhere.gguf"
        options = ["-p", "the king", "--max-tokens", "2", "--temperature", "0", "--json"]
        command = [sys.executable, "-m", "llamaweb", "run", f"{named.origin}/model.gguf", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 1 <= len(json.loads(done.stdout)["tokens"]) <= 2
