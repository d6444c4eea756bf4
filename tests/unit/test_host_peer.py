"""The peer of a bench, where it cannot be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from llamaweb.errors import HostError
from llamaweb.host import fetch, kept
from llamaweb.host.cli import main


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(package: str, *_: object) -> NoReturn:
        raise HostError(f"npm cannot fetch {package}: exit code 1")

    monkeypatch.setattr(fetch, "npm_pack", fail)
    monkeypatch.setattr(kept, "cache_root", lambda: tmp_path / "cache")


def test_a_peer_that_cannot_be_fetched_is_one_sentence_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    assert main(["bench", str(model), "--peer", "wllama"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "npm cannot fetch @wllama/wllama@" in told and told.endswith("check the network, or leave out --peer.")
    assert not list((tmp_path / "cache").iterdir())  # and nothing of it is left


def test_a_model_that_is_not_there_is_told_before_a_peer_is_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "no-such.gguf", "--peer", "wllama"]) == 1
    assert "no file no-such.gguf" in capsys.readouterr().err
