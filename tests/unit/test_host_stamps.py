"""What lies in the cache folder is used only if it is what was put there, and only its user gets in."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from llamaweb.errors import HostError
from llamaweb.host import distribution, fetch, kept, models, stamps

PINS = {"core.wasm": hashlib.sha256(b"core").hexdigest()}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with kept.keeping() as root:
        return root


@pytest.fixture
def folder(root: Path) -> Path:
    """As it was put there and sealed: a pinned file and one that was made here."""
    folder = root / "pyodide-1"
    (folder / "made").mkdir(parents=True)
    (folder / "core.wasm").write_bytes(b"core")
    (folder / "made" / "lock.json").write_bytes(b"{}")
    stamps.seal(folder)
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose bytes were read for their digest."""
    files: list[str] = []

    def sha256_of(path: Path) -> str:
        files.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(stamps, "sha256_of", sha256_of)
    return files


def test_what_has_not_changed_is_whole_and_not_read_again(folder: Path, read: list[str]) -> None:
    assert stamps.whole(folder, PINS) and read == []
    os.utime(folder / "core.wasm", ns=(1, 1))  # as a copy of the folder has
    assert stamps.whole(folder, PINS) and read == ["core.wasm"]
    assert stamps.whole(folder, PINS) and read == ["core.wasm"]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "core.wasm").write_bytes(b"evil"),
        lambda folder: (folder / "made" / "lock.json").write_bytes(b"[]"),
        lambda folder: (folder / "made" / "lock.json").unlink(),
        lambda folder: (folder / "core.wasm").unlink(),
        lambda folder: (folder / "more.js").write_bytes(b""),
        lambda folder: [file.unlink() for file in folder.rglob("*") if file.is_file()],
    ],
)
def test_what_was_changed_added_or_removed_is_not_whole(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert not stamps.whole(folder, PINS)
    assert not stamps.whole(folder, PINS)


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"core.wasm": 1}', None])
def test_without_its_stamp_only_what_is_all_pinned_is_whole(folder: Path, damage: str | None) -> None:
    stamp = kept.cache_root() / kept.STAMPS / "pyodide-1.json"
    stamp.unlink() if damage is None else stamp.write_text(damage)
    assert not stamps.whole(folder, PINS)
    lock = hashlib.sha256(b"{}").hexdigest()
    assert stamps.whole(folder, PINS | {"made/lock.json": lock})
    assert not stamps.whole(folder / "nothing", {})


def test_a_stamp_does_not_make_right_what_is_pinned_otherwise(folder: Path) -> None:
    (folder / "core.wasm").write_bytes(b"evil")
    stamps.seal(folder)
    assert not stamps.whole(folder, PINS)


def test_a_distribution_that_was_changed_is_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def assemble(stage: Path, *args: object) -> None:
        made.append(stage)
        (stage / "pyodide.mjs").write_bytes(b"pyodide")

    pyodide = {"version": "1.0", "npm_sha256": "", "files": {"pyodide.mjs": hashlib.sha256(b"pyodide").hexdigest()}}
    monkeypatch.setitem(distribution._PINS["pyodide"], "0.29", pyodide)
    monkeypatch.setattr(distribution, "_assemble", assemble)
    told: list[str] = []
    folder = distribution.ensure_distribution()
    assert distribution.ensure_distribution(lambda label, *_: told.append(label)) == folder
    assert len(made) == 1 and told == []
    (folder / "pyodide.mjs").write_bytes(b"not Pyodide")
    assert distribution.ensure_distribution(lambda label, *_: told.append(label)) == folder
    assert (folder / "pyodide.mjs").read_bytes() == b"pyodide" and len(made) == 2
    assert told == ["Pyodide in the cache is not what was put there; it is made anew"]


def test_a_model_that_was_changed_is_fetched_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def packaged(path: Path, *args: object) -> None:
        path.write_bytes(b"GGUF whole")
        stamps.seal(path)

    digest = hashlib.sha256(b"GGUF whole").hexdigest()
    monkeypatch.setitem(models.PACKAGED, "tiny", models.Packaged("tiny.gguf", digest, ()))
    monkeypatch.setattr(models, "_packaged", packaged)
    path = models.resolve("tiny")
    assert isinstance(path, Path)
    path.write_bytes(b"GGUF cut")
    assert models.resolve("tiny") == path and path.read_bytes() == b"GGUF whole"


def test_stamps_are_neither_listed_nor_taken_for_unfinished_files(folder: Path) -> None:
    assert [each.name for each in kept.kept()] == ["pyodide-1"]
    kept.remove(["pyodide-1"])
    assert not folder.exists() and not kept.kept()


def test_only_its_user_gets_into_the_cache_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.chmod(0o777)
    with kept.keeping():
        assert stat.S_IMODE(root.stat().st_mode) == 0o700

    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "no")

    root.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", refuse)
    with kept.keeping():  # others can read it, and change nothing
        pass
    os.chmod(root, 0o777)
    with pytest.raises(HostError, match=r"^Other users may write in the cache folder .+; run `chmod 700"):
        kept.keeping().__enter__()


@pytest.mark.parametrize(("mode", "believed"), [(0o755, True), (0o775, False), (0o702, False)])
def test_a_stamp_that_others_could_write_is_not_believed(root: Path, folder: Path, mode: int, believed: bool) -> None:
    core, stamp = folder / "core.wasm", root / kept.STAMPS / "pyodide-1.json"
    core.write_bytes(b"evil")
    seen = json.loads(stamp.read_text())
    stamp.write_text(json.dumps(seen | {core.name: [4, core.stat().st_mtime_ns, PINS[core.name]]}))
    root.chmod(mode)
    with kept.keeping():
        assert stamps.whole(folder, PINS) == believed


def test_a_cache_folder_of_another_user_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = root.stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result((*seen[:4], 4321, *seen[5:])))
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    with pytest.raises(HostError, match=r"^The cache folder .+ is another user's; set XDG_CACHE_HOME"):
        kept._close(root)


@pytest.mark.parametrize("printed", ["{outside}", "../outside.tgz", "package-1.0.tgz", ""])
def test_no_path_that_npm_prints_is_looked_at_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    outside = tmp_path / "outside.tgz"
    outside.write_bytes(b"precious")
    content = [b"another"]

    def npm(command: list[str], failure: str, cwd: Path) -> str:
        for number, each in enumerate(content):
            (cwd / f"package-1.{number}.tgz").write_bytes(each)
        return printed.format(outside=outside)

    monkeypatch.setattr(fetch, "find_npm", lambda: "npm")
    monkeypatch.setattr(fetch, "_call", npm)
    with pytest.raises(HostError, match="not the pinned"):
        fetch.npm_pack("package@1.0", "0" * 64, tmp_path)
    assert outside.read_bytes() == b"precious"
    assert fetch.npm_pack("package@1.0", hashlib.sha256(b"another").hexdigest(), tmp_path).read_bytes() == b"another"
    for content[:] in ([], [b"a", b"b"]):
        with pytest.raises(HostError, match=f"npm fetched {len(content)} files for package@1.0 in place of one"):
            fetch.npm_pack("package@1.0", "0" * 64, tmp_path)
