"""Plain `pytest` runs everything: pytest-pyodide's command line flags get their values here."""

from __future__ import annotations

import gc

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llamaweb")
    group.addoption("--gpu", action="store_true", help="run the browser tests on this machine's GPU")
    group.addoption("--chrome", default=None, help="the browser's executable")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.runtime = "chrome"


def pytest_collection_finish() -> None:
    """What was imported lasts as long as the tests do: looking through it for garbage took a seventh of their time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
