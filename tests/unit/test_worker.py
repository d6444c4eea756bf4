"""The Python end of the page's worker: every command ends in a result or an error event."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from typing import Any

import pytest

from llamaweb.errors import ContextError
from llamaweb.page import worker


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for llamaweb.page.commands; tests set its `handle`."""
    module = types.ModuleType("llamaweb.page.commands")
    monkeypatch.setitem(sys.modules, "llamaweb.page.commands", module)
    return module


def events(params: dict[str, Any], cancel: bool = False, command: str = "run") -> list[dict[str, Any]]:
    posted: list[str] = []

    async def body() -> None:
        worker.start(7, command, json.dumps(params), posted.append)
        await asyncio.sleep(0.01)
        if cancel:
            worker.cancel(7)
        await asyncio.sleep(0.01)
        assert not worker._tasks

    asyncio.run(body())
    messages = [json.loads(text) for text in posted]
    assert {message["id"] for message in messages} == {7}
    return [message["event"] for message in messages]


def test_events_come_in_order_with_their_number(page: types.ModuleType) -> None:
    async def handle(command: str, params: dict, emit: Any, file: Any) -> None:
        emit({"event": "text", "text": "é"})
        emit({"event": "result", "command": command, **params})

    page.handle = handle  # type: ignore[attr-defined]
    assert events({"seed": 1}) == [
        {"event": "text", "text": "é"},
        {"event": "result", "command": "run", "seed": 1},
    ]


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ContextError("Too long."), {"event": "error", "type": "ContextError", "message": "Too long."}),
        (ValueError("odd"), {"event": "error", "type": "ValueError", "message": "odd"}),
        (MemoryError(), {"event": "error", "type": "MemoryError", "message": "MemoryError()"}),
    ],
)
def test_an_exception_becomes_an_error_event(page: types.ModuleType, error: Exception, event: dict) -> None:
    async def handle(*args: Any) -> None:
        raise error

    page.handle = handle  # type: ignore[attr-defined]
    assert events({}) == [event]


@pytest.mark.parametrize("command", ["load", "chat"])
def test_the_chat_page_is_told_of_its_own_settings(page: types.ModuleType, command: str) -> None:
    async def handle(*args: Any) -> None:
        raise ContextError("Too long; load the model with a larger n_ctx.")

    page.handle = handle  # type: ignore[attr-defined]
    (event,) = events({}, command=command)
    assert event["message"] == "Too long; load the model with a larger context length in the settings."


def test_a_cancelled_command_says_so(page: types.ModuleType) -> None:
    async def handle(*args: Any) -> None:
        await asyncio.sleep(60)

    page.handle = handle  # type: ignore[attr-defined]
    assert events({}, cancel=True) == [{"event": "error", "type": "Cancelled", "message": "Stopped."}]


def test_a_command_that_is_cancelled_before_it_begins_says_so_too(page: types.ModuleType) -> None:
    posted: list[str] = []

    async def body() -> None:
        worker.start(7, "run", "{}", posted.append)
        worker.cancel(7)
        await asyncio.sleep(0.01)

    asyncio.run(body())
    assert [json.loads(text) for text in posted] == [
        {"id": 7, "event": {"event": "error", "type": "Cancelled", "message": "Stopped."}}
    ]
