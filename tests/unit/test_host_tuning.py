"""What tuning found goes from one browser of the command line to the next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.host import commands, kept, tuning
from llamaweb.host.output import Output

KEPT = {"kernels": "1234", "devices": {"a GPU": {"mul_mat_vec q4_0 64x64 store": {"workgroup": 64}}}}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(kept, "cache_root", lambda: folder)
    return folder


def test_it_is_kept_until_there_is_something_newer(cache: Path) -> None:
    assert tuning.load() is None
    tuning.save(KEPT)
    tuning.save({**KEPT, "kernels": "5678"})
    assert tuning.load() == {**KEPT, "kernels": "5678"}
    assert [path.name for path in cache.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize("text", ["", "{", "\0"])
def test_a_damaged_file_is_as_if_it_were_not_there(cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / "tuning.json").write_text(text)
    assert tuning.load() is None


def test_a_cache_that_cannot_be_written_stops_nothing(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    tuning.save(KEPT)
    assert tuning.load() is None


def test_every_browser_is_told_what_was_found_before_it_and_tells_what_it_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = []

    async def call(command: str, params: dict[str, Any], on_event: Any) -> dict[str, Any]:
        told.append(params)
        on_event({"event": "tuning", "kept": KEPT if len(told) == 1 else None})
        on_event({"event": "text", "text": "a piece"})
        return {"done": True}

    page: Any = SimpleNamespace(call=call, server=SimpleNamespace(url="http://127.0.0.1:1"))
    for _ in range(3):
        assert asyncio.run(commands._call(page, "run", {"model": "m"}, Output())) == {"done": True}
    assert [params["tuning"] for params in told] == [None, KEPT, KEPT]
    assert capsys.readouterr().out == 3 * "a piece"
