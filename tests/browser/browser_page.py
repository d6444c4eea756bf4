"""The page that the browser tests share: its server, its runner, and how Python gets into it and back."""

from __future__ import annotations

import base64
import inspect
import pickle
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pytest_pyodide.runner import BrowserWorkerChromeRunner
from pytest_pyodide.server import DefaultHandler

from llamaweb.host.browser import SCRIPT_SECONDS, BrowserChoice
from llamaweb.host.page_wheel import page_wheel
from tests.driver import start

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}

_IN_SCRIPTS = 1 << 16  # bytes of arguments

# What runs in the page for one `Page.run`: exceptions go back as themselves where this side knows them too.
CALL = """
from js import fetch as __fetch  # as it is before a test takes its place

async def __call(source, name, payload):
    import base64, inspect, pickle, traceback
    try:
        scope = {"__name__": "test"}
        exec(compile(source, name, "exec"), scope)
        if payload.startswith("http"):
            buffer = await (await __fetch(payload)).arrayBuffer()
            data = buffer.to_bytes()
            buffer.transfer(0)
        else:
            data = base64.b64decode(payload)
        result = scope[name](**pickle.loads(data))
        if inspect.isawaitable(result):
            result = await result
        answer = (True, result, "")
        return base64.b64encode(pickle.dumps(answer)).decode()
    except BaseException as error:
        trace = traceback.format_exc()
        try:
            known = type(error).__module__.split(".")[0] in ("builtins", "llamaweb")
            pickle.loads(data := pickle.dumps((False, error if known else None, trace)))
        except Exception:
            data = pickle.dumps((False, None, trace))
        return base64.b64encode(data).decode()
"""


class PageServer(DefaultHandler):
    """Besides the distribution: `/file/PATH` gives any file of this machine, with Range, to the test browser only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, extra_headers=ISOLATION, **kwargs)

    def do_GET(self) -> None:
        if not self.path.startswith("/file/"):
            return super().do_GET()
        path = Path(unquote(self.path.removeprefix("/file")))
        if not path.is_file():
            return self.send_error(404)
        size = path.stat().st_size
        first, last, status = 0, size - 1, 200
        if wanted := self.headers.get("Range"):
            begin, end = wanted.removeprefix("bytes=").split("-")
            first, last, status = int(begin), min(int(end or last), last), 206
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left and (chunk := file.read(min(left, 1 << 20))):
                self.wfile.write(chunk)
                left -= len(chunk)


class Runner(BrowserWorkerChromeRunner):
    """pytest-pyodide's runner, with Pyodide in a worker as in the product, and our way of starting the browser."""

    script_timeout = SCRIPT_SECONDS

    def __init__(self, choice: BrowserChoice, **kwargs: Any) -> None:
        self._choice = choice
        super().__init__(**kwargs)

    def get_driver(self, jspi: bool = False) -> Any:
        return start(self._choice)


class PageError(AssertionError):
    """Python in the page raised something that could not travel; the message is the page's traceback."""


def file_url(base: str, path: Path | str) -> str:
    """Where the server at `base` gives a file of this machine."""
    return f"{base}/file{quote(str(Path(path).resolve()))}"


class Page:
    """Python in a real browser."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.url = runner.base_url
        runner.load_package(["numpy", "gguf", "jinja2", "micropip"])
        wheel = base64.b64encode(page_wheel().data).decode()
        runner.run_js(
            f"""
            const bytes = Uint8Array.from(atob({wheel!r}), c => c.charCodeAt(0));
            pyodide.unpackArchive(bytes, "wheel");
            pyodide.runPython({CALL!r});
            """
        )

    def file_url(self, path: Path | str) -> str:
        """An address from which the page can fetch a file of this machine, ranges included."""
        return file_url(self.url, path)

    def run(self, code: str | Callable[..., Any], **args: Any) -> Any:
        """What `code` returns in the page.

        `code` is a function (async or not) that stands by itself: its source is sent, so it imports what it needs
        inside; or the text of a function body. Arguments and the result travel by pickle (numpy arrays may). An
        exception of the page is raised here, with the page's traceback as a note.
        """
        if isinstance(code, str):
            name = "body"
            source = f"async def body({', '.join(args)}):\n{textwrap.indent(textwrap.dedent(code), '    ')}"
        else:
            name, source = code.__name__, textwrap.dedent(inspect.getsource(code))
            source = source[min(i for i in (source.find("async def "), source.find("def ")) if i >= 0) :]
        with self._sent(pickle.dumps(args)) as payload:
            good, value, trace = pickle.loads(base64.b64decode(self._ask(source, name, payload)))
        if good:
            return value
        if value is None:
            raise PageError(trace)
        value.add_note(trace)
        raise value

    @contextmanager
    def _sent(self, args: bytes) -> Iterator[str]:
        """How arguments get into the page: large ones by the server, since of a script's text the browser keeps copies
        for long, until a tab has no memory left."""
        with tempfile.NamedTemporaryFile() as file:
            if len(args) > _IN_SCRIPTS:
                file.write(args)
                file.flush()
                yield self.file_url(file.name)
            else:
                yield base64.b64encode(args).decode()

    def _ask(self, source: str, name: str, payload: str) -> str:
        call = f"return await pyodide.globals.get('__call')({source!r}, {name!r}, {payload!r});"
        return self.runner.run_js(call, pyodide_checks=False)
