"""What is said of files that do not belong together, of ranges and of names, sentence by sentence."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from llamaweb.errors import ModelFileError
from llamaweb.model import shards
from llamaweb.model.hub import HubFile, Repository, choose
from llamaweb.model.shards import MAX_SHARDS, read_model, shard_names
from llamaweb.model.source import BytesSource, FileSource


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def part(no: Any, count: Any, total: Any, *tensors: str) -> bytes:
    """A file that says so of itself, with vectors of 8 numbers; None says nothing, a text is no number."""
    told = {"split.no": no, "split.count": count, "split.tensors.count": total}
    keys = [
        text(key) + (struct.pack("<I", 8) + text(value) if isinstance(value, str) else struct.pack("<II", 4, value))
        for key, value in told.items()
        if value is not None
    ]
    table = b"".join(text(name) + struct.pack("<IQIQ", 1, 8, 0, 32 * at) for at, name in enumerate(tensors))
    file = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + table
    return file + bytes(-len(file) % 32 + 32 * len(tensors))


def read(folder: Path, *files: bytes, given: int = 1, **how: Any) -> Any:
    names = shard_names(f"m-00001-of-{len(files):05}.gguf")
    for name, data in zip(names, files, strict=True):
        (folder / name).write_bytes(data)
    return asyncio.run(read_model(FileSource(folder / names[given - 1]), **how))


ONE, TWO = part(0, 2, 2, "a"), part(1, 2, 2, "b")
M1, M2 = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((ONE, part(0, 2, 2, "b")), f"{M2} is not of this model: it says it is part 1 of 2 with 2 tensors in all, not "
         "part 2 of 2 with 2; fetch it again."),
        ((ONE, part(1, 3, 9, "b")), f"{M2} is not of this model: it says it is part 2 of 3 with 9 tensors in all, not "
         "part 2 of 2 with 2; fetch it again."),
        ((ONE, part(1, 2, 0, "b")), f"{M2} is not of this model: it says it is part 2 of 2 with 0 tensors in all, not "
         "part 2 of 2 with 2; fetch it again."),
        ((ONE, part(None, None, None, "b")), f"{M2} is not of this model: it says it is a whole model, not part 2 of 2 "
         "with 2; fetch it again."),
        ((ONE, part(1, 1, 2, "b")), f"{M2} is not of this model: it says it is a whole model, not part 2 of 2 with 2; "
         "fetch it again."),
        ((ONE, part(1, 2, 2, "a")), f"The tensor 'a' is in {M1} and in {M2}, which are not of one model; fetch them "
         "again."),
        ((part(0, 2, 3, "a"), part(1, 2, 3, "b")), f"The 2 files of {M1} have 2 tensors in all, not the 3 that they "
         "tell; fetch them again."),
        ((part(0, "x", 2, "a"), TWO), f"{M1} is damaged: split.count is 'x', not a number; fetch it again."),
        ((part("x", 2, 2, "a"), TWO), f"{M1} is damaged: split.no is 'x', not a number; fetch it again."),
        ((ONE, part(1, 2, "x", "b")), f"{M2} is damaged: split.tensors.count is 'x', not a number; fetch it again."),
        ((ONE, b"x"), f"{M1} is one of 2 files, and {M2} cannot be read: {M2} is not a GGUF file: it starts with b'x'; "
         "give a GGUF model."),
        ((part(1, 2, 2, "a"), TWO), f"{M1} is part 2 of 2 of a model; name its files …-00002-of-00002.gguf again."),
    ],
)  # fmt: skip
def test_files_that_are_not_of_one_model_are_named(tmp_path: Path, files: tuple[bytes, bytes], sentence: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read(tmp_path, *files)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("given", [1, 2])
def test_each_other_file_is_told_before_it_is_read_and_the_given_one_as_it_goes(tmp_path: Path, given: int) -> None:
    opened: list[str] = []
    progress: list[int] = []
    header, sources = read(
        tmp_path, ONE, TWO, given=given, progress=progress.append, opened=lambda source: opened.append(source.name)
    )
    assert opened == [(M2, M1)[given - 1]] and progress == [len((ONE, TWO)[given - 1])]
    assert [source.name for source in sources] == [M1, M2]
    assert [(info.name, info.shard) for info in header.tensors.values()] == [("a", 0), ("b", 1)]
    first, second = (part(None, 2, 2, name) for name in "ab")
    with pytest.raises(ModelFileError, match="it says it is part 0 of 2"):  # nothing told is the first one's, if given
        read(tmp_path, first, second)


def test_what_is_damaged_is_marked_so(tmp_path: Path) -> None:
    sound, damaged = BytesSource(part(None, None, None, "a")), BytesSource(ONE[:40])
    asyncio.run(read_model(sound))
    with pytest.raises(ModelFileError):
        asyncio.run(read_model(damaged))
    assert (sound.sound, damaged.sound) == (True, False)


def test_what_lies_behind_the_tensors_is_told_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_REST", 300_000)
    data = part(None, None, None, "a")
    asyncio.run(read_model(BytesSource(data + bytes(300_000), "m.gguf")))
    with pytest.raises(ModelFileError) as caught:
        asyncio.run(read_model(BytesSource(data + bytes(300_001), "m.gguf")))
    assert str(caught.value) == (
        "m.gguf has 0.3 MB, of which its header tells 0.0 MB: most of it is no part of a model; fetch it again."
    )


def test_names_of_shards_at_their_edges() -> None:
    most = f"m-{MAX_SHARDS:05}-of-{MAX_SHARDS:05}.gguf"
    assert len(shard_names(most)) == MAX_SHARDS and shard_names(most)[-1] == most
    for alone in ("m-00000-of-00002.gguf", f"m-00001-of-{MAX_SHARDS + 1:05}.gguf", "m-00001-of-00000.gguf"):
        assert shard_names(alone) == [alone]


def test_a_range_that_a_file_does_not_have_is_told_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"abcd")
    for source in (BytesSource(b"abcd", "m.gguf"), FileSource(tmp_path / "m.gguf")):
        assert asyncio.run(source.read(1, 3)) == b"bcd" and asyncio.run(source.read(4, 0)) == b""
        for offset, length in ((2, 3), (-1, 2), (2, -1)):
            with pytest.raises(ModelFileError) as caught:
                asyncio.run(source.read(offset, length))
            told = f"bytes {offset} to {offset + length} are needed, the file has 4; fetch it again."
            assert str(caught.value) == f"m.gguf is cut off: {told}"
    assert BytesSource(b"").name == "bytes"
    with pytest.raises(ModelFileError) as caught:
        BytesSource(b"").sibling("m")
    assert str(caught.value) == "it is not in memory; give the path or the address of the model's first file."


def test_the_choice_among_the_hubs_files_is_told_in_whole_sentences() -> None:
    repository, two = Repository("o/n"), [HubFile("a.gguf"), HubFile("b.gguf")]
    for found, pattern, sentence in (
        ([HubFile("a.md")], "*.gguf", "No file of o/n fits '*.gguf'; it has no GGUF files."),
        (two, "c*", "No file of o/n fits 'c*'; it has a.gguf, b.gguf."),
        (two, "*", "2 files of o/n fit '*': a.gguf, b.gguf; choose one model by its name."),
        ([HubFile(f"{n:02}.gguf") for n in range(20)], "x", f"it has {', '.join(f'{n:02}.gguf' for n in range(20))}."),
    ):
        with pytest.raises(ModelFileError) as caught:
            choose(repository, found, pattern)
        assert str(caught.value).endswith(sentence)
    parts = [HubFile(M2), HubFile(M1)]
    assert choose(repository, parts, "*").path == M1
    for bad, told in ((("a b",), "'a b' is no repository's name"), (("o/n", "a\nb"), "'a\\nb' is part of no address")):
        with pytest.raises(ModelFileError) as caught:
            Repository(*bad)
        assert str(caught.value).startswith(told)
