"""Addresses of files: what of them lasts from one visit to the next."""

from __future__ import annotations

import pytest

from llamaweb.model.source import file_name, lasting_url, sibling_url

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


def test_a_sibling_has_the_address_of_its_like() -> None:
    url = "https://example.org/x/a%2Fb%20c-1.gguf?y=%2F"
    assert file_name(url) == "a/b c-1.gguf"
    assert sibling_url(url, "a/b c-2.gguf") == url.replace("-1", "-2")
