"""The package as a page gets it, with something else in the place of one of its modules."""

from __future__ import annotations

import dataclasses
import io
import zipfile

import pytest

from llamaweb.host import server
from llamaweb.host.page_wheel import page_wheel


def use_wheel(monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Serve the package with one module replaced."""
    wheel = page_wheel()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel.data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, source if entry == name else old.read(entry))
    monkeypatch.setattr(server, "page_wheel", lambda: dataclasses.replace(wheel, data=buffer.getvalue()))
