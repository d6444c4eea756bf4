"""Each call to the browser's storage and the network fails once, in every operation that makes it, as in SQLite's
tests: what is said is a sentence, the second time goes well, nothing stays open and what is kept is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from browser_page import Page
from faulty import MODEL, install, trials
from unreliable_server import UnreliableServer

SHA256 = hashlib.sha256(MODEL).hexdigest()
HALF = 60_000  # bytes, of the header and some weights


@pytest.fixture(scope="module", autouse=True)
def installed(page: Page) -> None:
    install(page)


@pytest.fixture
def main_thread(page: Page) -> Iterator[None]:
    """The storage as a page's main thread has it: without synchronous handles."""
    handle = "FileSystemFileHandle.prototype"
    page.runner.run_js(f"globalThis.handles = {handle}.createSyncAccessHandle; delete {handle}.createSyncAccessHandle;")
    yield
    page.runner.run_js(f"{handle}.createSyncAccessHandle = handles;")


def all_warn(said: set[str]) -> bool:
    return all(each.startswith("tiny.gguf is not kept in the browser's storage: ") for each in said)


@pytest.mark.parametrize(
    ("sha256", "stored", "kind", "lasting", "least"),
    [(SHA256, 0, "rejected", False, 50), (SHA256, HALF, "short", False, 4), (None, 0, "quota", True, 40)],
)
def test_a_download_needs_no_call_to_the_storage_and_the_next_one_keeps_the_model(
    page: Page, server: UnreliableServer, sha256: str | None, stored: int, kind: str, lasting: bool, least: int
) -> None:
    url = server.url("tiny.gguf", MODEL)
    failed, said = trials(page, "storage", kind, lasting, "Kept", url, MODEL, sha256, stored)
    assert failed >= least and said and all_warn(said)


def test_a_download_on_the_main_thread_needs_no_call_to_the_storage_either(
    page: Page, server: UnreliableServer, main_thread: None
) -> None:
    url = server.url("tiny.gguf", MODEL)
    failed, said = trials(page, "storage", "rejected", False, "Kept", url, MODEL, None, HALF)
    assert failed >= 50 and said and all_warn(said)


@pytest.mark.parametrize(("kind", "least"), [("rejected", 30), ("short", 2)])
def test_a_kept_model_that_the_storage_does_not_give_is_fetched_again(
    page: Page, server: UnreliableServer, kind: str, least: int
) -> None:
    url = server.url("tiny.gguf", MODEL)
    failed, said = trials(page, "storage", kind, False, "Kept", url, MODEL, None, len(MODEL))
    assert failed >= least
    broken = (
        "What the browser's storage has of tiny.gguf cannot be read to its end (UnknownError: the disk is gone), and "
    )
    assert said <= {f"{broken}is given up."}


@pytest.mark.parametrize(
    ("stored", "kind", "lasting"), [(0, "rejected", True), (HALF, "rejected", False), (HALF, "short", False)]
)
def test_a_download_goes_on_behind_every_break_and_one_that_cannot_keeps_what_has_come(
    page: Page, server: UnreliableServer, stored: int, kind: str, lasting: bool
) -> None:
    url = server.url("tiny.gguf", MODEL)
    failed, said = trials(page, "network", kind, lasting, "Kept", url, MODEL, SHA256, stored)
    assert failed >= 5
    assert all(each.startswith(f"{url} cannot be read after 2 attempts (") for each in said)
    assert bool(said) == lasting


@pytest.mark.parametrize("name", ["Removed", "Saved"])
def test_what_is_removed_or_saved_is_whole_or_gone_whatever_call_to_the_storage_fails(
    page: Page, server: UnreliableServer, name: str
) -> None:
    given = (server.url("tiny.gguf", MODEL), MODEL, None, len(MODEL)) if name == "Removed" else ()
    failed, said = trials(page, "storage", "rejected", False, name, *given)
    assert failed >= 9 and bool(said) == bool(given)
