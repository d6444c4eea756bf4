"""The SHA-256 of what the browser's storage keeps, and the worker that makes it."""

from __future__ import annotations

import hashlib
import json

import pytest
from browser_page import Page
from kept_file import DATA, ETAG, SHA256, load
from unreliable_server import UnreliableServer

from llamaweb.errors import DownloadError

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.mark.parametrize("told", ["given", "by the server"])
def test_the_checksum_is_checked(page: Page, server: UnreliableServer, told: str) -> None:
    headers = ETAG if told == "given" else {"X-Linked-ETag": f'"{SHA256}"'}
    url = server.url("model.gguf", DATA, headers=headers)
    sha256 = SHA256 if told == "given" else None
    page.run(load, url=url, sha256=sha256, stop=900_000)
    found, _, [model] = page.run(load, url=url, sha256=sha256)
    assert found == SHA256 and model["verified"] and model["sha256"] == SHA256
    requests = len(server.files["model.gguf"].requests)
    if told == "given":  # known by its content, so that nobody is asked
        assert page.run(load, url=url, sha256=sha256)[0] == SHA256
        assert len(server.files["model.gguf"].requests) == requests


@pytest.mark.parametrize("keep", [True, False])
def test_content_of_another_checksum_is_an_error_and_not_kept(page: Page, server: UnreliableServer, keep: bool) -> None:
    url = server.url("model.gguf", DATA[:-1] + b"x", headers=ETAG)
    with pytest.raises(
        DownloadError, match=rf"model\.gguf is damaged: its SHA-256 is \w+, not {SHA256}; load it again"
    ):
        page.run(load, url=url, sha256=SHA256, keep=keep)
    assert page.run("from llamaweb import cache\nreturn list(await cache.list())") == []
    server.url("model.gguf", DATA, headers=ETAG)
    assert page.run(load, url=url, sha256=SHA256, keep=keep)[0] == SHA256


def test_sha256_of_every_length_around_a_block(page: Page) -> None:
    async def digests(data, lengths):
        from pyodide.ffi import to_js

        from llamaweb.javascript import js_file

        found = []
        for length in lengths:
            hash = js_file("files/sha256.js")()
            for at in range(0, length, 37):
                await hash.update(to_js(data[at : min(length, at + 37)]))
            found.append(await hash.digest())
            hash.close()
        return found

    lengths = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 5000]
    found = page.run(digests, data=DATA[:5000], lengths=lengths)
    assert json.dumps(found) == json.dumps([hashlib.sha256(DATA[:n]).hexdigest() for n in lengths])


def test_sha256_of_more_bits_than_a_word_counts(page: Page) -> None:
    async def digest(pieces, rest):
        import js

        from llamaweb.javascript import js_file

        hash = js_file("files/sha256.js")()
        for size in (*[1 << 26] * pieces, rest):
            await hash.update(js.Uint8Array.new(size))
        found = await hash.digest()
        hash.close()
        return found

    expected = hashlib.sha256()
    for size in (*[1 << 26] * 8, 3):  # 2^32 bits and 24
        expected.update(bytes(size))
    assert page.run(digest, pieces=8, rest=3) == expected.hexdigest()


# A worker ends once it has begun, as one does whose memory is full: where it is to `digest`, or at its second `piece`;
# with an error of its own, or without a word. Seconds pass quickly.
ENDING_WORKER = """
const { Worker: RealWorker, setInterval: realInterval } = globalThis;
globalThis.whole = () => Object.assign(globalThis, { Worker: RealWorker, setInterval: realInterval });
globalThis.setInterval = (call, ms) => realInterval(call, ms / 50);
globalThis.Worker = class extends RealWorker {
  #pieces = 0;
  postMessage(data, ...rest) {
    if (AT === "digest" ? data === null : ++this.#pieces === 2) {
      this.terminate();
      if (WORD) setTimeout(() => this.onerror({ message: "out of memory" }));
    } else super.postMessage(data, ...rest);
  }
};
"""


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("at", ["piece", "digest"])
def test_a_worker_that_ends_while_it_hashes_is_told_and_the_file_is_checked_the_next_time(
    page: Page, server: UnreliableServer, at: str, word: bool
) -> None:
    data = DATA * 6  # more than the worker may be behind
    sha256, url = hashlib.sha256(data).hexdigest(), server.url("model.gguf", data, headers=ETAG)
    run = "from pyodide.code import run_js\nrun_js(script)"
    page.run(run, script=ENDING_WORKER.replace("AT", json.dumps(at)).replace("WORD", json.dumps(word)))
    why = "out of memory" if word else "it was silent for 30 seconds"
    try:
        with pytest.raises(
            DownloadError, match=rf"^model\.gguf could not be checked \(.+ ended: {why}\); load it again"
        ):
            page.run(load, url=url, sha256=sha256)
    finally:
        page.run(run, script="whole()")
    found, _, [model] = page.run(load, url=url, sha256=sha256)
    assert found == sha256 and model["verified"]
