"""The page itself: what every other test in this folder stands on."""

from __future__ import annotations

import numpy as np
import pytest
from browser_page import Page
from pytest_pyodide import run_in_pyodide

from llamaweb.errors import ContextError


def test_numpy_arrays_travel_into_the_page_and_back(page: Page) -> None:
    def double(x):
        return x * 2

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(page.run(double, x=x), x * 2)


def test_text_runs_as_the_body_of_an_async_function(page: Page) -> None:
    assert page.run("import asyncio\nawait asyncio.sleep(0)\nreturn a + 1", a=1) == 2


def test_an_exception_of_the_page_is_raised_here_with_its_traceback(page: Page) -> None:
    async def fail():
        from llamaweb.errors import ContextError

        raise ContextError("too long")

    with pytest.raises(ContextError, match="too long") as caught:
        page.run(fail)
    assert "in fail" in caught.value.__notes__[0]


def test_webgpu_gives_an_adapter_in_the_worker(page: Page) -> None:
    async def limits():
        from js import navigator

        adapter = await navigator.gpu.requestAdapter()
        return adapter.limits.maxComputeInvocationsPerWorkgroup

    assert page.run(limits) >= 256


def test_the_page_server_answers_ranges(page: Page, tmp_path) -> None:
    path = tmp_path / "some bytes.bin"
    path.write_bytes(bytes(range(200)))

    async def fetch(url):
        from pyodide.http import pyfetch

        response = await pyfetch(url, headers={"Range": "bytes=10-19"})
        return response.status, await response.bytes()

    assert page.run(fetch, url=page.file_url(path)) == (206, bytes(range(10, 20)))


@run_in_pyodide
def test_pytest_pyodides_own_decorator_runs_in_the_same_page(selenium):
    import numpy

    import llamaweb

    assert llamaweb.__doc__ and numpy.arange(3).sum() == 3
