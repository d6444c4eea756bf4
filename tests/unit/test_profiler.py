"""The profiler takes no memory on the GPU but while it measures."""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace

import pytest

from llamaweb.errors import ContextError, LlamaWebError
from tests.no_page import no_page


def test_a_profile_that_the_context_does_not_hold_makes_no_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    executor = SimpleNamespace(device=None, plan=SimpleNamespace(n_ctx=64, n_ubatch=32))
    with no_page():
        module = importlib.import_module("llamaweb.gpu.profiler")
        monkeypatch.setattr(module, "Timer", made.append)
        with pytest.raises(ContextError, match="do not fit the context of 64"):
            asyncio.run(module.Profiler(executor, 1).profile(32, 8, 60))
    assert made == []


@pytest.mark.parametrize("sizes", [(-1, 8, 0, 1), (32, -8, 0, 1), (32, 8, -1, 1), (32, 8, 0, 0)])
def test_a_profile_of_less_than_nothing_is_refused(sizes: tuple[int, int, int, int]) -> None:
    *counts, repetitions = sizes
    executor = SimpleNamespace(device=None, plan=SimpleNamespace(n_ctx=64, n_ubatch=32))
    with no_page():
        module = importlib.import_module("llamaweb.gpu.profiler")
        with pytest.raises(LlamaWebError, match="at least one repetition"):
            asyncio.run(module.Profiler(executor, repetitions).profile(*counts))
