"""One browser for all tests of a file: Pyodide in a worker, llamaweb unpacked, WebGPU there.

A tab may take 4 GB, and what hundreds of kernel tests leave to the garbage collector is more than that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser_page import Page, PageServer, Runner
from kernel_bench import Bench
from one_device import keep_device
from pytest_pyodide.config import get_global_config
from pytest_pyodide.hook import pytest_wrapper
from pytest_pyodide.server import spawn_web_server
from unreliable_server import UnreliableServer, unreliable_server

from llamaweb.host.browser import BrowserChoice
from llamaweb.host.chrome import flags
from llamaweb.host.distribution import ensure_distribution

# `run_in_pyodide` looks into the distribution while tests are collected. This file is read before pytest-pyodide is
# configured or after, depending on the command line; so its option and its result are both set.
DISTRIBUTION = pytest_wrapper.pyodide_dist_dir = ensure_distribution(tests=True)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.dist_dir = DISTRIBUTION


@pytest.fixture(scope="session")
def browser_choice(request: pytest.FixtureRequest) -> BrowserChoice:
    return BrowserChoice(request.config.getoption("--chrome"), request.config.getoption("--gpu"))


@pytest.fixture(scope="session")
def web_server_main() -> Iterator[tuple[str, int, object]]:
    """pytest-pyodide's server over our distribution, with what WebGPU and ranged reads need besides."""
    with spawn_web_server(DISTRIBUTION, handler_cls=PageServer) as server:
        yield server


@pytest.fixture(scope="module")
def page(web_server_main: tuple[str, int, object], browser_choice: BrowserChoice) -> Iterator[Page]:
    """The page of a file's tests; `page.run(function, **args)` runs Python in it. See browser_page.Page."""
    get_global_config().set_flags("chrome", flags(browser_choice))
    host, port, log = web_server_main
    runner = Runner(browser_choice, server_port=port, server_hostname=host, server_log=log)
    try:
        yield Page(runner)
    finally:
        runner.quit()


@pytest.fixture
def empty_cache(page: Page) -> None:
    """Nothing is kept in the browser's storage yet."""
    page.run("from llamaweb import cache\nawait cache.clear()")


@pytest.fixture(scope="module")
def one_device(page: Page) -> None:
    """All models of a file's tests are on one device."""
    keep_device(page)


@pytest.fixture(scope="module")
def selenium_module_scope(page: Page) -> Runner:
    """pytest-pyodide's own fixtures and `@run_in_pyodide` use the same browser."""
    return page.runner


@pytest.fixture(scope="module")
def server() -> Iterator[UnreliableServer]:
    """A server of another origin, for files and faults."""
    with unreliable_server() as server:
        yield server


@pytest.fixture(scope="module")
def bench(page: Page) -> Bench:
    """Runs single kernels in the page, on one device."""
    return Bench(page)
