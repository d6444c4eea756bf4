"""What is told of the place of a model, whatever was given for it: no secret of it, and else what was given."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from llamaweb.errors import ModelFileError
from llamaweb.host.cli import main
from llamaweb.host.terminal import Logged
from llamaweb.model.hub import Repository
from llamaweb.model.source import file_name, lasting_url, signature
from llamaweb.secrets import in_sentence, without_secrets

# Not one of these is an address that can be asked, and most are none that a parser takes.
PLACES = (
    "http://h:99999/x?token=hunter2",
    "http://me:hunter2@h:abc/x",
    "HTTP://127.0.0.1:1\\@evil/x?token=hunter2",
    "http://me:hunter2@[::1/x",
    "ftp://me:hunter2@h/x?token=hunter3",
    "s3://b/x?X-Amz-Signature=hunter2",
    "http:/127.0.0.1/x?token=hunter2",
    "http:/me:hunter2@h/x",
    "https:x?token=hunter2",
    "http:me:hunter2@h/x",
    "http:\\\\hunter2@h/x",
    "me:hunter2@h/x y?token=hunter3",
    "a:hunter2@h/x",
    "//hunter2@h/x",
    "http://me:hun/hunter2@a:b/x",
    "http://me:p?hunter2#hunter3@a:b/x",
    "http://a..b/x?url=http://me:hunter2@h/",
    "http://a..b/x?url=http%3A%2F%2Fhunter2%40h%2F",
    "http://a..b/x?url=http%253A%252F%252Fh%252F%253Ftoken%253Dhunter2",
    "http://a..b/https://me:hunter2@h/x",
    "http://a..b/x;token=hunter2/y",
    "http://a..b/x?a=1?token=hunter2#token=hunter3",
    "x.gguf?token=hunter2",
)


@pytest.mark.parametrize("place", PLACES)
def test_the_command_line_tells_no_secret_of_what_it_cannot_take(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAWEB_DEBUG", "1")
    for arguments in (["inspect", place], ["inspect", "--device", place], ["inspect", "x", place]):
        assert main([*arguments, "--json"]) == 1
        told = capsys.readouterr()
        assert "hunter" not in told.out + told.err
        assert "~" in json.loads(told.out)["error"]["message"] and "rror" not in told.err


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_kept_of_a_secret_and_no_place_is_too_odd_to_be_told(place: str) -> None:
    told = without_secrets(place)
    assert "hunter" not in told + lasting_url(place) + file_name(place) + signature(place)
    assert without_secrets(told) == told != without_secrets(place.replace("hunter2", "other"))


def test_an_error_that_quotes_an_address_has_its_secrets_hidden() -> None:
    quoted = "Cannot fetch 'http://me:hunter2@h/x?token=hunter3' (or http://h/?key=hunter4)."
    for told in (in_sentence(quoted), str(ModelFileError(quoted))):
        assert "hunter" not in told and told.startswith("Cannot fetch 'http://~") and told.endswith(").")
    with pytest.raises(ModelFileError) as error:
        Repository("https://me:hunter2andmuchmorethanfitsintoasentence@h/x")
    assert "hunter" not in str(error.value)


def test_what_a_library_logs_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    Logged().emit(logging.LogRecord("x", logging.WARNING, "", 1, "asked http://h/?token=%s", ("hunter2",), None))
    assert capsys.readouterr().err.startswith("asked http://h/?token=~")


@pytest.mark.parametrize(
    "place",
    [
        *("C:\\me@home\\x.gguf", "/srv/me@home/x.gguf", "a@v1?.gguf", "synthetic:llama-3.2-1b:Q4_0", "50%25.gguf"),
        *("https://h:80/@me/a@1.0/x.gguf?v=1&tokens=5", "http://[fe80::1]:80/a@b", "http://127.0.0.1:1/a@b", ""),
    ],
)
def test_what_has_no_secret_is_told_as_it_is(place: str) -> None:
    assert without_secrets(place) == place == in_sentence(place)


def test_a_name_of_a_file_that_is_no_address_is_found_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a?token=hunter2").write_bytes(b"no model")
    assert main(["inspect", str(tmp_path / "a?token=hunter2")]) == 1
    assert "a?token=~" in (told := capsys.readouterr().err) and "is not a GGUF file" in told
