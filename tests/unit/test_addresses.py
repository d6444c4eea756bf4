"""Addresses of files: what of them lasts from one visit to the next."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from llamaweb.errors import ModelFileError
from llamaweb.model.source import check_range, file_name, lasting_url, sibling_url, signature

BASE = "https://example.org/a%20b.gguf"


@pytest.mark.parametrize(
    ("query", "lasting"),
    [
        ("", ""),
        ("#part", ""),
        ("?download=true&x=%2F", "?download=true&x=%2F"),
        ("?v=2&X-Amz-Algorithm=A&X-Amz-Signature=ab&versionId=3", "?v=2&versionId=3"),
        ("?x-goog-date=1&x-goog-signature=ab", ""),
        ("?Expires=1&Signature=ab&Key-Pair-Id=K&Policy=p&response-content-type=b", "?response-content-type=b"),
        ("?AWSAccessKeyId=K&Expires=1&Signature=ab%3D", ""),
        ("?sv=2024&sr=b&st=1&se=2&sp=r&sig=ab%3D&snapshot=1", "?snapshot=1"),
        ("?expires=1&policy=p&st=1", "?expires=1&policy=p&st=1"),  # there is no signature
    ],
)
def test_what_signs_an_address_for_a_while_is_no_part_of_it(query: str, lasting: str) -> None:
    assert lasting_url(BASE + query) == BASE + lasting


def test_a_signature_is_told_from_another_one_and_cannot_be_read() -> None:
    one, same, other = (f"{BASE}?v=1&sig={sig}&se={se}" for sig, se in (("secret", 1), ("secret", 1), ("secret", 2)))
    assert signature(one) == signature(same + "#part") != signature(other)
    assert signature(one) == signature(one.replace("v=1", "v=2")) and "secret" not in signature(one)
    for unsigned in ("", "?v=1", "?token=secret", "?expires=1&policy=p"):
        assert signature(BASE + unsigned) == ""


def test_a_sibling_has_the_address_of_its_like() -> None:
    url = "https://example.org/x/a%2Fb%20c-1.gguf?y=%2F"
    assert file_name(url) == "a/b c-1.gguf"
    assert sibling_url(url, "a/b c-2.gguf") == url.replace("-1", "-2")


def test_a_file_has_a_name_whatever_its_address_ends_with() -> None:
    names = {"https://x/a%20b.gguf/": "a b.gguf", "https://x/y/a.gguf?b/c#d/e": "a.gguf", "https://x/": "https://x/"}
    assert {url: file_name(url) for url in names} == names


@pytest.mark.parametrize(("offset", "length", "there"), [(0, 10, True), (10, 0, True), (9, 2, False), (-1, 2, False)])
def test_bytes_that_a_file_does_not_have_are_refused(offset: int, length: int, there: bool) -> None:
    with nullcontext() if there else pytest.raises(ModelFileError, match="is cut off: bytes"):
        check_range("m.gguf", offset, length, 10)


@pytest.mark.parametrize(
    "name",
    [
        *("token", "key", "api_key", "X-API-Key", "auth", "access_token", "hf-token", "Password"),
        *("accessToken", "sasToken", "clientSecret", "subscriptionKey", "authtoken", "APIKEY", "to%6Ben", "code"),
        *("access_token[]", "token[0]", "passphrase", "pw", "otp", "tok", "private_key_id", "apikey1", "api_keys"),
        *("credential_token_v2", "tokenId", "user_passwords", "secret_for_x", "Auth-Token2"),
    ],
)
def test_a_secret_is_not_kept_and_addresses_that_differ_in_it_are_still_two(name: str) -> None:
    one, other = (lasting_url(f"{BASE}?a=1&{name}={secret}&b=2") for secret in ("hunter2", "hunter3"))
    assert one != other and "hunter" not in one + other
    assert one.startswith(f"{BASE}?a=1&{name}=~") and one.endswith("&b=2")
    assert lasting_url(one) == one  # as a list gives it


def test_pairs_that_some_servers_part_by_another_sign_are_pairs_here_too() -> None:
    assert "hunter" not in lasting_url(f"{BASE}?a=1;token=hunter2;hdnea=hunter3&sas=hunter4")
    assert lasting_url(f"{BASE}?a=1;b=2&c=;") == f"{BASE}?a=1;b=2&c=;"


@pytest.mark.parametrize("login", ["me:{}", "{}", "{}:", "{}:x-oauth-basic", "a:b:{}", "a@b:{}"])
def test_what_lets_in_before_the_host_is_not_kept_either(login: str) -> None:
    one, other = (lasting_url(f"https://{login.format(each)}@example.org/a.gguf") for each in ("hunter2", "hunter3"))
    assert one != other and "hunter" not in one + other and one.startswith("https://~")
    assert lasting_url(one) == one and lasting_url("https://me:~0123abcd@h/") == "https://me:~0123abcd@h/"


def test_a_file_that_has_its_name_of_the_whole_address_shows_no_secret() -> None:
    assert "hunter" not in file_name("https://me:hunter2@example.org/?v=1&token=hunter3#hunter4")
    for name in ("a.gguf;token=hunter2", "a.gguf%3Ftoken%3Dhunter2", "http%3A%2F%2Fme%3Ahunter2@x"):
        assert "hunter" not in file_name(f"https://example.org/{name}") + lasting_url(f"https://example.org/{name}")


@pytest.mark.parametrize(
    "query", ["?tokens=5", "?keyboard=a", "?author=me", "?passage=1", "?file=key", "?monkey=1", "?token=", "?token"]
)
def test_what_is_no_secret_is_kept_as_it_is(query: str) -> None:
    assert lasting_url(BASE + query) == BASE + query
