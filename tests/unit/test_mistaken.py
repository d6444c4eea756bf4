"""What people give in place of a GGUF file is told for what it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llamaweb.errors import ModelFileError
from llamaweb.host.cli import main
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from tests.tiny import tiny_llama

MISTAKEN = {
    "it is empty": b"",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "as a web page does": b"\n <!DOCTYPE html><html>",
    "as a web page": b"<html lang=en>",
    "an answer in XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a safetensors file": b'\x80\x09\0\0\0\0\0\0{"__metadata__":{"format":"pt"}}',
    "as JSON": b'{"error": "Invalid credentials"}',
    "a ZIP archive": b"PK\x03\x04archive/data.pkl",
    "gzip has compressed": b"\x1f\x8b\x08\0\0",
    "a Python pickle": b"\x80\x02ctorch._utils\n",
    "the GGML format of before GGUF": b"tjgg\x03\0\0\0",
    "a GGUF file of the other byte order": b"FUGG\0\0\0\x03",
    "not completed": bytes(64),
    "give a GGUF model": b"MZ\x90\0",
}


@pytest.mark.parametrize("told", MISTAKEN)
def test_what_is_no_model_is_named(told: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        asyncio.run(read_header(BytesSource(MISTAKEN[told], "m.gguf")))
    sentence = str(caught.value)
    assert sentence.startswith("m.gguf is not a GGUF file: it ") and told in sentence
    assert sentence.endswith(".") and "\n" not in sentence and "; " in sentence


def test_the_command_line_names_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(MISTAKEN["as a web page"])
    assert main(["inspect", str(path)]) == 1
    assert "as a web page does; check the address" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["m.gguf.part", "m.gguf.part1of2", "m.gguf-split-a", "m.gguf.crdownload", "m.gguf.001"]
)
def test_a_piece_of_a_file_is_told_by_its_name(name: str) -> None:
    for data in (tiny_llama()[:-1000], b"\x12\x34\x56\x78more of it"):
        with pytest.raises(ModelFileError, match="by its name it is a piece, or an unfinished download"):
            asyncio.run(read_header(BytesSource(data, name)))


def test_a_file_that_is_cut_off_is_fetched_again() -> None:
    with pytest.raises(ModelFileError, match=r"m\.gguf is cut off: .*; fetch it again\."):
        asyncio.run(read_header(BytesSource(tiny_llama()[:-1000], "m.gguf")))
