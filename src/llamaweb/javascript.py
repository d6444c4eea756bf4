"""The FFI's small helpers: what `gpu` and `files` share of JavaScript. Import it inside Pyodide alone."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import js
from pyodide.code import run_js
from pyodide.ffi import JsException, can_run_sync, run_sync, to_js

from llamaweb.errors import LlamaWebError


def js_object(value: Any) -> Any:
    """Dicts and lists as JavaScript objects and arrays."""
    return to_js(value, dict_converter=js.Object.fromEntries)


@cache
def js_file(name: str) -> Any:
    """The value of a JavaScript file of the package, named from its top: one expression."""
    return run_js((Path(__file__).parent / name).read_text())


async def take(promise: Awaitable[Any], give_back: Callable[[Any], Any]) -> Any:
    """The promise's value, which is something to be given back; where the wait for it is cancelled, it is given back
    as soon as it is there."""

    async def value() -> Any:
        return await promise

    def late(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and not task.exception() and task.result() is not None:
            give_back(task.result())

    task = asyncio.ensure_future(value())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(late)
        raise


async def measured(what: str, promise: Awaitable[Any]) -> Any:
    """The promise's value, which is a measurement of `what`."""
    try:
        return await promise
    except JsException as error:
        raise LlamaWebError(f"{what} could not be measured ({error}); reload the page and try again.") from None


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
