"""Modules that talk to a page, imported without one: for what they do by themselves."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class JsException(Exception):
    """In place of Pyodide's."""


class JsProxy:
    """In place of Pyodide's."""


@contextmanager
def no_page(**js: Any) -> Iterator[None]:
    """Stand-ins for Pyodide's modules while it lasts, `js` being what is in the page; what was imported with them is
    forgotten again."""
    bridges = dict.fromkeys(("can_run_sync", "create_proxy", "run_sync", "to_js"))
    modules = {
        "js": js,
        "pyodide": {},
        "pyodide.code": {"run_js": None},
        "pyodide.ffi": {**bridges, "JsException": JsException, "JsProxy": JsProxy},
    }
    before = set(sys.modules)
    for name, parts in modules.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(parts)
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name in modules or name.startswith("llamaweb."):
                del sys.modules[name]
