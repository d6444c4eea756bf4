"""The hub's addresses and the choice of a model's file by a pattern."""

from __future__ import annotations

import pytest

from llamaweb.errors import ModelFileError
from llamaweb.model.hub import HubFile, Repository, choose, files

REPO = Repository("owner/name-GGUF")
SHARDS = [HubFile(f"q8/m-{n:05}-of-00003.gguf") for n in (1, 2, 3)]
FILES = [HubFile("README.md"), HubFile("m-q4_0.gguf", "ab"), HubFile("m-q4_1.gguf"), *SHARDS, HubFile("[q4].gguf")]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("m-q4_0.gguf", "m-q4_0.gguf"),
        ("*q4_0.gguf", "m-q4_0.gguf"),
        ("q8/*", SHARDS[0].path),
        ("*00001-of*", SHARDS[0].path),
        ("*.md", "README.md"),
        ("[q4].gguf", "[q4].gguf"),
    ],
)
def test_a_pattern_chooses_one_file_or_one_set_of_shards(pattern: str, path: str) -> None:
    assert choose(REPO, FILES, pattern).path == path


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (
            "*q4*",
            r"3 files of owner/name-GGUF fit '\*q4\*': m-q4_0\.gguf, m-q4_1\.gguf, \[q4\]\.gguf; choose one model",
        ),
        ("*.gguf", r"6 files of owner/name-GGUF fit"),
        ("*Q4_0.gguf", r"No file of owner/name-GGUF fits '\*Q4_0\.gguf'; it has m-q4_0\.gguf, m-q4_1\.gguf, q8/m-0"),
    ],
)
def test_a_pattern_for_none_or_several_is_told_with_names(pattern: str, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        choose(REPO, FILES, pattern)


def test_a_long_list_is_cut() -> None:
    many = [HubFile(f"{n}.gguf") for n in range(50)]
    with pytest.raises(ModelFileError, match=r"19\.gguf and 30 more; choose"):
        choose(REPO, many, "*")


def test_addresses_are_the_hubs() -> None:
    repository = Repository("owner/name", "refs/pr/1")
    assert repository.listing_url == "https://huggingface.co/api/models/owner/name/revision/refs%2Fpr%2F1?blobs=true"
    assert repository.url("a b/c.gguf") == "https://huggingface.co/owner/name/resolve/refs%2Fpr%2F1/a%20b/c.gguf"
    assert Repository("o/n", endpoint="http://x/").url("y") == "http://x/o/n/resolve/main/y"


@pytest.mark.parametrize("name", ["", "a b", "a/b/c", "../x", "a/..%2f", "/a"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ModelFileError, match="is no repository's name"):
        Repository(name)


@pytest.mark.parametrize("odd", ["\ud800", "a\nb", "\x1b[31m"])
def test_a_revision_or_an_endpoint_that_no_address_has_is_refused(odd: str) -> None:
    for repository in ({"revision": odd}, {"endpoint": f"https://{odd}"}):
        with pytest.raises(ModelFileError, match=r"is part of no address") as caught:
            Repository("owner/name", **repository)
        assert str(caught.value).isprintable()


def test_checksums_come_from_the_listing_and_another_answer_is_refused() -> None:
    listing = {"siblings": [{"rfilename": "a.gguf", "lfs": {"sha256": "aB"}}, {"rfilename": "b", "lfs": None}]}
    assert files(REPO, listing) == [HubFile("a.gguf", "ab"), HubFile("b")]
    for answer in (
        [],
        {"error": "x"},
        {"siblings": [{}]},
        {"siblings": ["x"]},
        {"siblings": [{"rfilename": "a", "lfs": {"sha256": 5}}]},
        None,
    ):
        with pytest.raises(ModelFileError, match="does not list files as the Hugging Face hub does"):
            files(REPO, answer)
