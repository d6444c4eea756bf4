"""The Python end of demo/worker.js: every command is a task that posts its events and can be cancelled."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from typing import Any

from llamaweb.errors import LlamaWebError
from llamaweb.secrets import in_sentence

_OF_THE_CHAT_PAGE = (
    "webgpu",
    "load",
    "chat",
)  # commands whose errors are told in its words; the command line finds its own
CANCELLED = {"event": "error", "type": "Cancelled", "message": "Stopped."}

_tasks: dict[int, asyncio.Task[None]] = {}


def start(number: int, command: str, params: str, post: Callable[[str], Any], file: Any = None) -> None:
    """Begin `command` of `page.commands`; `params` and what `post` gets are JSON, `{"id": number, "event": {...}}`.

    The last event is a result or an error; whatever Python raises becomes an error event.
    """
    task = asyncio.ensure_future(_run(number, command, json.loads(params), post, file))
    _tasks[number] = task

    def ended(task: asyncio.Task[None]) -> None:
        _tasks.pop(number, None)
        if task.cancelled():  # before its first step, so that it could not answer
            post(json.dumps({"id": number, "event": CANCELLED}))

    task.add_done_callback(ended)


def cancel(number: int) -> None:
    """Stop a command: it answers with an error event of the type Cancelled, or an answer under way with the result so
    far. Nothing if it has ended already."""
    if task := _tasks.get(number):
        task.cancel()


async def _run(number: int, command: str, params: dict[str, Any], post: Callable[[str], Any], file: Any) -> None:
    def emit(event: dict[str, Any]) -> None:
        post(json.dumps({"id": number, "event": event}))

    def fail(kind: str, message: str) -> None:
        emit({"event": "error", "type": kind, "message": message})

    try:
        from llamaweb.page.commands import handle

        await handle(command, params, emit, file)
    except asyncio.CancelledError:
        emit(CANCELLED)
    except LlamaWebError as error:
        fail(type(error).__name__, error.said("page") if command in _OF_THE_CHAT_PAGE else str(error))
    except Exception as error:
        traceback.print_exc()
        fail(type(error).__name__, in_sentence(str(error) or repr(error)))
