"""What is given as a model, or told of it, is checked before anything is fetched."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.errors import ModelFileError
from tests.no_page import no_page


@pytest.fixture
def files() -> Iterator[Any]:
    """Modules of llamaweb.files by name."""
    with no_page():
        yield lambda name: importlib.import_module(f"llamaweb.files.{name}")


@pytest.mark.parametrize("sha256", ["abc", "g" * 64, "sha256:" + "0" * 64])
def test_a_checksum_that_is_none_is_refused_before_the_download(files: Any, sha256: str) -> None:
    with pytest.raises(ModelFileError, match=r"is no SHA-256; give its 64 digits"):
        files("sources").open_source("https://example.org/model.gguf", sha256=sha256)


@pytest.mark.parametrize(
    "models",
    [
        ["https://example.org/a-00001-of-00002.gguf", SimpleNamespace(name="a-00002-of-00002.gguf")],
        [b"GGUF", b"GGUF"],
    ],
)
def test_a_list_of_things_that_are_no_files_of_one_model_is_refused(files: Any, models: list) -> None:
    with pytest.raises(ModelFileError, match=r"all addresses, or all files of the page"):
        files("sources").open_source(models)


def test_an_address_that_is_empty_is_refused(files: Any) -> None:
    with pytest.raises(ModelFileError, match="address of the model is empty; give a URL"):
        files("sources").open_source(" ")


@pytest.mark.parametrize(
    "models",
    [
        ["https://example.org/a.gguf?part=1", "https://example.net/a.gguf"],
        [SimpleNamespace(name=f"{name}.gguf", arrayBuffer=None) for name in "aba"],
    ],
)
def test_two_files_of_one_name_are_refused(files: Any, models: list) -> None:
    with pytest.raises(ModelFileError, match=r"Two of the files are named a\.gguf; give each file of one model once\."):
        files("sources").open_source(models)


def test_a_digest_that_is_none_is_not_believed(files: Any) -> None:
    sha256 = files("url_source")._sha256
    digest = base64.b64encode(bytes(range(32))).decode()
    assert sha256(f"sha-512=:AAAA:, sha-256=:{digest}:", None) == bytes(range(32)).hex()
    for damaged in ("A", "AAAA", digest[:-1], digest[4:], digest + "="):
        assert sha256(f"sha-256=:{damaged}:", None) is None
