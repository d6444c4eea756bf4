"""Small JSON files in the browser's own storage (the origin's private file system), where there is one."""

from __future__ import annotations

import json
from typing import Any

import js
from pyodide.ffi import JsException

from llamaweb.javascript import js_object


async def load_json(name: str) -> Any:
    """What was saved under `name`; None if there is nothing, no storage, or it is damaged."""
    try:
        folder = await js.navigator.storage.getDirectory()
        file = await (await folder.getFileHandle(name)).getFile()
        return json.loads(await file.text())
    except (JsException, AttributeError, ValueError):
        return None


async def save_json(name: str, value: Any) -> None:
    """Keeps `value` for later pages; without storage, nothing happens."""
    try:
        folder = await js.navigator.storage.getDirectory()
        writable = await (await folder.getFileHandle(name, js_object({"create": True}))).createWritable()
        await writable.write(json.dumps(value))
        await writable.close()
    except (JsException, AttributeError):
        return
