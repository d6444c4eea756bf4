"""Small bridges between Python and JavaScript."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from functools import cache
from pathlib import Path
from typing import Any

import js
from pyodide.code import run_js
from pyodide.ffi import can_run_sync, run_sync, to_js

from llamaweb.errors import LlamaWebError


def js_object(value: Any) -> Any:
    """Dicts and lists as JavaScript objects and arrays."""
    return to_js(value, dict_converter=js.Object.fromEntries)


@cache
def js_file(name: str) -> Any:
    """The value of a JavaScript file of this folder: one expression."""
    return run_js((Path(__file__).parent / name).read_text())


def wasm_heap_bytes() -> int:
    """Size of Pyodide's WebAssembly memory."""
    import pyodide_js

    return int(pyodide_js._module.HEAP8.length)


async def empty_heap_bytes() -> int:
    """Size of the memory of a Pyodide that has run nothing; one is made for it."""
    import pyodide_js

    return int(await js_file("empty_heap.js")(pyodide_js._api.config.indexURL))


def user_agent() -> str:
    return str(js.navigator.userAgent)


def now_ms() -> float:
    return float(js.performance.now())


def wait(awaitable: Awaitable[Any]) -> Any:
    """Blocks Python until the awaitable is done, while the page goes on (JavaScript Promise Integration)."""
    if not can_run_sync():
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise LlamaWebError(
            "Blocking calls are not possible here: this browser, or the way Python was entered, lacks JavaScript "
            "Promise Integration; use llamaweb.Llama with await."
        )
    return run_sync(awaitable)
