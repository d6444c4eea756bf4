"""How the host side tells what it is doing: one callable, so that nothing here knows about terminals."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Called when something long goes on; `total` 0 means that its end is not known."""

    def __call__(self, label: str, done: int = 0, total: int = 0, unit: str = "") -> None: ...


def silent(label: str, done: int = 0, total: int = 0, unit: str = "") -> None:
    """A Report for nobody."""
