"""Models in several files: found by name, put together, and a sentence for a file that is missing or foreign."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from aiohttp import web
from gguf import GGUFValueType

from llamaweb.errors import DownloadError, ModelFileError, UnsupportedError
from llamaweb.host.cli import main
from llamaweb.model import shards
from llamaweb.model.gguf_file import read_header
from llamaweb.model.shards import MAX_REST, first_shard, read_model, shard_names
from llamaweb.model.source import BytesSource, FileSource
from tests.splits import split
from tests.tiny import TinyLlama, tiny_llama

MODEL = tiny_llama(TinyLlama(n_vocab=320))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in split(MODEL, 3, "tiny").items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def read(path: Path):
    return asyncio.run(read_model(FileSource(path)))


@pytest.mark.parametrize("given", [1, 2, 3])
def test_the_whole_model_is_read_from_any_of_its_files(folder: Path, given: int) -> None:
    header, sources = read(folder / f"tiny-0000{given}-of-00003.gguf")
    whole = asyncio.run(read_header(BytesSource(MODEL)))
    assert [source.name for source in sources] == shard_names("tiny-00001-of-00003.gguf")
    assert header.architecture == "llama"
    assert header.tensors.keys() == whole.tensors.keys()
    assert {info.shard for info in header.tensors.values()} == {0, 1, 2}
    assert header.size == sum(path.stat().st_size for path in folder.iterdir())
    for name, info in header.tensors.items():
        data = asyncio.run(sources[info.shard].read(info.offset, info.nbytes))
        expected = whole.tensors[name]
        assert data == MODEL[expected.offset : expected.offset + expected.nbytes]


def test_each_file_is_told_before_it_is_read(folder: Path) -> None:
    told: list[FileSource] = []
    source = FileSource(folder / "tiny-00002-of-00003.gguf")
    _, sources = asyncio.run(read_model(source, opened=told.append))
    assert sources == [told[0], source, told[1]]


def test_a_file_alone_is_one_source() -> None:
    source = BytesSource(MODEL)
    header, sources = asyncio.run(read_model(source))
    assert sources == [source] and {info.shard for info in header.tensors.values()} == {0}


def test_a_file_most_of_which_is_no_part_of_a_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL)
    for rest, limit in ((MAX_REST, MAX_REST), (len(MODEL), 0)):
        monkeypatch.setattr(shards, "MAX_REST", limit)
        os.truncate(path, len(MODEL) + rest)
        assert read(path)[0].size == len(MODEL) + rest
        os.truncate(path, len(MODEL) + rest + 1)
        with pytest.raises(
            ModelFileError, match=r"^model\.gguf has .* MB, of which its header tells 0\.\d MB: most of it"
        ):
            read(path)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "tiny-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"one of 3 files, and tiny-00002-of-00003\.gguf cannot be read: There is"):
        read(folder / "tiny-00001-of-00003.gguf")


def test_a_file_of_another_place_in_the_row_is_named(folder: Path) -> None:
    (folder / "tiny-00002-of-00003.gguf").write_bytes((folder / "tiny-00003-of-00003.gguf").read_bytes())
    with pytest.raises(ModelFileError, match=r"tiny-00002-of-00003\.gguf is not of this model: it says it is part 3"):
        read(folder / "tiny-00001-of-00003.gguf")


def test_a_file_of_another_model_is_named(folder: Path) -> None:
    other = split(tiny_llama(TinyLlama(n_layer=3)), 3, "tiny")
    (folder / "tiny-00003-of-00003.gguf").write_bytes(other["tiny-00003-of-00003.gguf"])
    with pytest.raises(ModelFileError, match=r"tiny-00003-of-00003\.gguf is not of this model.*, not part 3 of"):
        read(folder / "tiny-00001-of-00003.gguf")


def test_a_whole_model_among_the_files_is_named(folder: Path) -> None:
    (folder / "tiny-00003-of-00003.gguf").write_bytes(MODEL)
    sentence = r"tiny-00003-of-00003\.gguf is not of this model: it says it is a whole model, not part 3 of 3 with \d+;"
    with pytest.raises(ModelFileError, match=sentence):
        read(folder / "tiny-00001-of-00003.gguf")


def test_a_tensor_that_is_in_two_files_is_named_with_both(folder: Path) -> None:
    other = split(MODEL, 3, "tiny", take=lambda index, count: 2 - index * 3 // count)
    (folder / "tiny-00003-of-00003.gguf").write_bytes(other["tiny-00003-of-00003.gguf"])
    with pytest.raises(ModelFileError, match=r"in tiny-00001-of-00003\.gguf and in tiny-00003-of-00003\.gguf"):
        read(folder / "tiny-00001-of-00003.gguf")


def altered(folder: Path, key: bytes, at: int, change: int) -> None:
    """Adds to a byte behind a key of all files: its type is in the first four, its value in those after."""
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        data[data.index(key) + len(key) + at] += change
        path.write_bytes(data)


@pytest.mark.parametrize("change", [1, -1])
def test_files_that_have_not_as_many_tensors_as_they_tell_are_refused(folder: Path, change: int) -> None:
    altered(folder, b"split.tensors.count", 4, change)
    with pytest.raises(
        ModelFileError, match=r"The 3 files of tiny-00001-of-00003\.gguf have \d+ tensors in all, not the"
    ):
        read(folder / "tiny-00001-of-00003.gguf")


def test_a_count_that_is_no_whole_number_is_refused(folder: Path) -> None:
    altered(folder, b"split.tensors.count", 0, GGUFValueType.FLOAT32 - GGUFValueType.INT32)
    with pytest.raises(ModelFileError, match=r"is damaged: split\.tensors\.count is .*, not a number; fetch it again"):
        read(folder / "tiny-00001-of-00003.gguf")


def test_a_file_that_was_renamed_is_told_its_name(folder: Path) -> None:
    (folder / "tiny-00001-of-00003.gguf").rename(folder / "model.gguf")
    with pytest.raises(ModelFileError, match=r"model\.gguf is part 1 of 3 of a model; name .*-00001-of-00003\.gguf"):
        read(folder / "model.gguf")
    first = folder / "tiny-00001-of-00003.gguf"
    first.write_bytes((folder / "tiny-00002-of-00003.gguf").read_bytes())
    with pytest.raises(ModelFileError, match=r"tiny-00001-of-00003\.gguf is part 2 of 3 of a model; name .*-00002-of-"):
        read(first)


@pytest.mark.parametrize(
    ("damage", "error", "sound"),
    [
        (b"GGUF\x09", UnsupportedError("version 9"), False),
        (b"no model", ModelFileError("another thing"), False),
        (b"", DownloadError("broken off"), True),
        (b"", None, True),
    ],
)
def test_a_file_is_given_up_where_its_header_is_wrong_and_not_where_it_did_not_come(
    damage: bytes, error: Exception | None, sound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = BytesSource(damage + MODEL[len(damage) :])

    async def fails() -> int:
        raise DownloadError("broken off")

    if isinstance(error, DownloadError):
        monkeypatch.setattr(source, "size", fails)
    with pytest.raises(type(error)) if error else nullcontext():
        asyncio.run(read_model(source))
    assert source.sound == sound


def test_names_of_files_that_belong_together() -> None:
    assert shard_names("a-00002-of-00002.gguf") == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    assert shard_names("a.gguf") == ["a.gguf"]
    assert shard_names("a-00000-of-00002.gguf") == ["a-00000-of-00002.gguf"]
    assert shard_names("a-00003-of-00002.gguf") == ["a-00003-of-00002.gguf"]
    assert first_shard(["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"]) == "a-00001-of-00002.gguf"
    with pytest.raises(ModelFileError, match=r"b\.gguf and a\.gguf are not parts of one model"):
        first_shard(["b.gguf", "a.gguf"])


@pytest.mark.parametrize("address", [False, True])
def test_a_split_model_is_inspected_and_tokenized_as_one(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], address: bool
) -> None:
    whole = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    whole.write_bytes(MODEL)

    def facts(model: str) -> tuple[object, list[int]]:
        assert main(["inspect", model, "--json"]) == 0
        inspected = json.loads(capsys.readouterr().out)
        assert main(["tokenize", model, "--file", __file__, "--json"]) == 0
        return inspected["memory"], json.loads(capsys.readouterr().out)["ids"]

    expected = facts(str(whole))
    if not address:
        assert facts(str(folder / "tiny-00001-of-00003.gguf")) == expected
        return
    with served(folder) as url:
        assert facts(f"{url}/tiny-00002-of-00003.gguf") == expected


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's files from a server with ranges."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_static("/", folder)
    runner = web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
