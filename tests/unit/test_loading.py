"""A load that does not come to its end gives back all it has taken: GPU memory, files and locks."""

from __future__ import annotations

import asyncio
import importlib
import types
from collections.abc import Iterator
from typing import Any, Self

import pytest

from llamaweb.errors import ModelChangedError, ModelFileError
from llamaweb.model.source import BytesSource
from tests.no_page import no_page
from tests.splits import split
from tests.tiny import TinyLlama, tiny_llama

MODEL = tiny_llama(TinyLlama(n_vocab=320))
SHARDS = split(MODEL, 3, "tiny")
FIRST = "tiny-00001-of-00003.gguf"


class FakeGPU:
    """Device and executor in one, which takes memory as it is made."""

    made: list[FakeGPU]

    def __init__(self, *_: Any) -> None:
        self.device = self.profile = self
        self.software = True  # so that nothing is measured
        self.open = True
        FakeGPU.made.append(self)

    async def allocate(self) -> None: ...

    async def compile(self, phases: Any, done: Any) -> None: ...

    async def prepare(self, phases: Any) -> None: ...

    def close(self) -> None:
        self.open = False


class FakeRepacking:
    """Compiles nothing."""

    def __init__(self, *_: Any) -> None: ...

    def close(self) -> None: ...


class Shard(BytesSource):
    """A file of the split model that says whether it is open; `closes` is awaited when it is closed."""

    opened: list[Shard]
    closes: Any = None

    def __init__(self, name: str) -> None:
        super().__init__(SHARDS[name], name)
        self.open = True
        Shard.opened.append(self)

    def sibling(self, name: str) -> Self:
        if name not in SHARDS:
            raise ModelFileError("it is not there.")
        return type(self)(name)

    async def close(self) -> None:
        self.open = False
        if Shard.closes:
            await Shard.closes()


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """llamaweb.loading with a GPU that does nothing."""
    with no_page():
        module = importlib.import_module("llamaweb.loading")

    async def opens() -> FakeGPU:
        return FakeGPU()

    async def uploads(*_: Any) -> None: ...

    async def none_kept(*_: Any) -> dict:
        return {}

    replaced = {"Device": types.SimpleNamespace(open=opens), "Executor": FakeGPU, "upload": uploads}
    replaced |= {"Pipelines": lambda _: None, "Repacking": FakeRepacking}
    replaced |= {"now_ms": lambda: 0.0, "worth_tuning": lambda *_: False, "kept_choices": none_kept}
    replaced |= {"Planner": lambda *_, **__: types.SimpleNamespace(plan=lambda _: types.SimpleNamespace(tables=()))}
    for name, value in replaced.items():
        monkeypatch.setattr(module, name, value)
    FakeGPU.made, Shard.opened, Shard.closes = [], [], None
    yield module


def load(loading: Any, before: Any = None) -> Any:
    return asyncio.run(loading.load(Shard(FIRST), loading.LoadOptions(), before))


def left() -> list[Any]:
    return [each for each in (*FakeGPU.made, *Shard.opened) if each.open]


def test_a_load_that_ends_well_closes_every_file_and_keeps_the_gpu(loading: Any) -> None:
    load(loading)
    assert len(Shard.opened) == 3 and left() == FakeGPU.made


def test_when_a_shard_cannot_be_read_the_others_are_closed(loading: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHARDS, "tiny-00003-of-00003.gguf", b"nothing")
    with pytest.raises(ModelFileError, match=r"tiny-00003-of-00003\.gguf cannot be read"):
        load(loading)
    assert len(Shard.opened) == 3 and not left()


def test_a_file_that_does_not_close_well_keeps_no_gpu_memory_and_no_other_file(loading: Any) -> None:
    async def fails() -> None:
        raise OSError("the disk is full")

    Shard.closes = staticmethod(fails)
    with pytest.raises(OSError, match="the disk is full"):
        load(loading)
    assert len(FakeGPU.made) == 2 and not left()


def test_a_model_that_is_loaded_again_is_taken_only_if_its_header_is_the_same(
    loading: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(loading).file
    assert load(loading, before).file.same_as(before)
    FakeGPU.made.clear()
    monkeypatch.setattr(f"{__name__}.SHARDS", split(tiny_llama(TinyLlama(n_vocab=321)), 3, "tiny"))
    with pytest.raises(ModelChangedError, match=r"another model than the one that was loaded.*; load it anew"):
        load(loading, before)
    assert not left()


def test_a_load_that_is_cancelled_while_it_closes_its_files_keeps_nothing(loading: Any) -> None:
    async def cancelled() -> None:
        closing = asyncio.Event()

        async def waits() -> None:
            closing.set()
            await asyncio.sleep(0.01)

        Shard.closes = staticmethod(waits)
        task = asyncio.ensure_future(loading.load(Shard(FIRST), loading.LoadOptions()))
        await closing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert len(FakeGPU.made) == 2 and not left()
