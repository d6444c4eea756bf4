"""What is said before a browser starts, or gigabytes are written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.host import bridge, commands, distribution, foretell, models
from llamaweb.host.cli import main
from llamaweb.host.output import Output
from tests.models import smollm2_path
from tests.tiny import tiny_llama


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder that holds the default model and nothing else."""
    model = smollm2_path()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "llamaweb" / "models"
    folder.mkdir(parents=True)
    (folder / model.name).symlink_to(model)
    return folder


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a browser was started, or made ready")

    monkeypatch.setattr(bridge, "open_page", fail)
    monkeypatch.setattr(distribution, "ensure_distribution", fail)


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["tokenize", "--file", __file__], ["run", "-p", "x", "--context", "9999"]]
)
def test_what_needs_the_header_of_a_random_model_alone_writes_no_weights(
    arguments: list[str], cache: Path, no_browser: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *more = arguments
    done = main([command, "synthetic:llama-3.1-8b:Q4_K", *more, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [path.name for path in cache.rglob("*.gguf")] == [smollm2_path().name]
    if command == "run":
        assert done == 1 and "8192" in told["error"]["message"]
    else:
        assert done == 0
    if command == "inspect":
        assert told["memory"]["weights"] > 4_500_000_000 and told["metadata"]["llama.block_count"] == 32


def test_the_header_of_a_random_model_tells_what_the_written_file_does(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for _ in range(2):
        assert main(["inspect", "synthetic:tiny", "--plan", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
        models.resolve("synthetic:tiny")
    assert found[0] == found[1]


class Ended(Exception):
    """In place of what would come next."""


@pytest.mark.parametrize(("model", "told"), [("synthetic:llama-3.1-8b:Q4_K", True), ("synthetic:smollm2-135m", False)])
@pytest.mark.parametrize("command", ["run", "bench", "serve"])
def test_more_than_500_mb_are_told_before_they_are_written(
    model: str,
    told: bool,
    command: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []

    def write(*_: object) -> None:
        said.append(capsys.readouterr().err)
        raise Ended

    monkeypatch.setattr(models, "_synthetic", write)
    assert main([command, model]) == 1
    line = f"4,788.8 MB are written first, into {cache}/synthetic-"
    assert (line in said[0]) == told
    assert not told or "`llamaweb cache --clear synthetic-llama-3.1-8b-Q4_K.gguf` removes them" in said[0]


@pytest.mark.parametrize(("size", "told"), [(499_999_999, False), (500_000_000, True)])
def test_more_than_500_mb_from_an_address_are_told_once_before_they_are_fetched(
    size: int, told: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import asyncio

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    async def call(command: str, params: dict[str, Any], take: Any) -> dict[str, Any]:
        for done in (0, 1, size):
            take({"event": "progress", "phase": "weights", "done": done, "total": size, "unit": "B"})
        return {}

    page: Any = SimpleNamespace(call=call, server=SimpleNamespace(url="http://127.0.0.1:1"))
    for model in ("https://example.org/m.gguf", "http://127.0.0.1:1/model/m.gguf"):
        asyncio.run(commands._call(page, "run", {"model": model}, Output()))
        expected = told and "example" in model
        assert capsys.readouterr().err.count("are fetched from https://example.org/m.gguf, and not kept") == expected


def test_a_file_is_described_before_a_browser_starts(
    tmp_path: Path, no_browser: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama())
    assert main(["run", str(path), "-p", "x", "--context", "64"]) == 1  # the browser is what is not there
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("tiny.gguf: llama, weights of ") and "a context of 64 tokens about " in first


@pytest.mark.parametrize("command", ["run", "bench", "tune", "perplexity"])
@pytest.mark.parametrize(
    ("found", "instead", "sentence"),
    [
        (b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", "mamba"),
        (b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gpt7", "gpt7"),
    ],
    ids=["architecture", "tokenizer"],
)
def test_what_is_not_supported_is_told_before_a_browser_starts(
    command: str,
    found: bytes,
    instead: bytes,
    sentence: str,
    tmp_path: Path,
    no_browser: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny_llama().replace(found, instead, 1))
    more = ["--file", __file__] if command == "perplexity" else []
    assert main([command, str(path), *more, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UnsupportedError" and sentence in error["message"]


@pytest.mark.parametrize(
    ("more", "kind"), [(["--context", "9999"], "ContextError"), (["--budget", "1k"], "MemoryBudgetError")]
)
def test_what_no_device_can_give_is_told_before_a_browser_starts(
    more: list[str], kind: str, tmp_path: Path, no_browser: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama())
    assert main(["run", str(path), "-p", "x", *more, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == kind


def test_gpu_on_a_machine_without_one_says_at_once_that_the_software_adapter_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foretell, "_DEV", tmp_path)
    assert foretell.takes_gpu(False, Output()) is False and capsys.readouterr().err == ""
    assert foretell.takes_gpu(True, Output()) is False
    assert "This machine has no GPU" in (told := capsys.readouterr().err) and "software adapter" in told
    for node in ("dri/renderD128", "nvidia0", "dxg"):
        folder = tmp_path / node.replace("/", "-")
        (folder / node).parent.mkdir(parents=True)
        (folder / node).touch()
        monkeypatch.setattr(foretell, "_DEV", folder)
        assert foretell.takes_gpu(True, Output()) is True and capsys.readouterr().err == ""


@pytest.mark.parametrize("output", ["no/such/folder/r.json", ".", os.devnull + "/r.json", "/proc/r.json", "/dev/full"])
def test_results_that_cannot_be_written_are_refused_before_the_measuring(
    output: str, tmp_path: Path, no_browser: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").write_bytes(tiny_llama())
    for kind in ([], ["--loading"], ["--fusions"]):
        assert main(["bench", "tiny.gguf", "--output", output, *kind]) == 1
        told = capsys.readouterr().err
        assert output in told and told.endswith("with --output.\n") and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_an_address_that_is_fetched_from_is_told_without_what_lets_somebody_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    foretell.say_fetching("https://example.org/m.gguf?token=hunter2", 10**9, Output())
    told = capsys.readouterr().err
    assert "https://example.org/m.gguf?token=~" in told and "hunter" not in told
