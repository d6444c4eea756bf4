"""Plain `pytest` runs everything: pytest-pyodide's command line flags get their values here."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Generator

import pytest

HANGS = 600  # seconds after which a test does


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llamaweb")
    group.addoption("--gpu", action="store_true", help="run the browser tests on this machine's GPU")
    group.addoption("--chrome", default=None, help="the browser's executable")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.runtime = "chrome"
    if "mutmut" in sys.modules:  # which makes three calls of one
        sys.setrecursionlimit(3 * sys.getrecursionlimit())


def pytest_collection_finish() -> None:
    """What was imported lasts as long as the tests do: looking through it for garbage took a seventh of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs, as one with a browser may, fails where it does, if nobody looks on."""

    def hangs(*_: object) -> None:
        raise TimeoutError(f"The test hangs: {HANGS} seconds have passed.")

    watched = hasattr(item.config, "workerinput") and hasattr(signal, "SIGALRM")
    before = signal.signal(signal.SIGALRM, hangs) if watched else None
    if watched:
        signal.alarm(HANGS)
    try:
        return (yield)
    finally:
        if watched:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
