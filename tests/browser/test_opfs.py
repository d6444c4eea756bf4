"""What is written to a file of the browser's storage and read from it (files/opfs.js): in a worker, which has
synchronous handles, and as on a page's main thread, which has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser_page import Page

RUN = """
from pyodide.code import run_js
from llamaweb.javascript import js_file
return (await run_js("async (opfs) => {" + script + "}")(js_file("files/opfs.js")("tried"))).to_py()
"""
HANDLE = "FileSystemFileHandle.prototype"
BYTES = "const some = (first, n) => Uint8Array.from({ length: n }, (_, i) => (first + i) % 251);"
WHOLE = "const whole = async () => [...new Uint8Array(await (await opfs.file('file')).arrayBuffer())];"


@pytest.fixture(params=["synchronous", "on the main thread"])
def handles(page: Page, request: pytest.FixtureRequest) -> Iterator[str]:
    """The storage as a worker has it, or a page; without a file in it."""
    without = request.param != "synchronous"
    page.runner.run_js(f"globalThis.handles = {HANDLE}.createSyncAccessHandle;")
    if without:
        page.runner.run_js(f"delete {HANDLE}.createSyncAccessHandle;")
    run(page, "await opfs.remove('file'); return [];")
    yield request.param
    page.runner.run_js(f"{HANDLE}.createSyncAccessHandle = handles;")


def run(page: Page, script: str) -> Any:
    return page.run(RUN, script=f"{BYTES} {WHOLE} {script}")


def test_a_file_goes_on_where_it_was_or_begins_anew(page: Page, handles: str) -> None:
    found = run(
        page,
        """
        const sizes = [];
        for (const [fresh, first, n] of [[false, 0, 9], [false, 9, 5], [true, 100, 3], [false, 103, 2]]) {
          const writer = await opfs.writer("file", fresh);
          await writer.append(some(first, n));
          sizes.push([writer.size(), await writer.close(), await whole()]);
        }
        return sizes;
        """,
    )
    assert [(size, whole) for size, _, whole in found] == [
        (9, [*range(9)]),
        (14, [*range(14)]),
        (3, [100, 101, 102]),
        (5, [100, 101, 102, 103, 104]),
    ]


def test_what_was_written_before_and_since_is_read_again(page: Page, handles: str) -> None:
    found = run(
        page,
        """
        const before = await opfs.writer("file", false);
        await before.append(some(0, 10));
        await before.close();
        const writer = await opfs.writer("file", false);
        await writer.append(some(10, 4), true);
        await writer.append(some(14, 6), true);
        const ranges = [[0, 20], [3, 7], [8, 12], [10, 14], [12, 16], [15, 20], [5, 5]];
        const found = [];
        for (const [from, to] of ranges) found.push([from, to, [...(await writer.read(from, to))]]);
        await writer.close();
        return found;
        """,
    )
    assert len(found) == 7 and all(bytes_ == [*range(begin, end)] for begin, end, bytes_ in found)


def test_what_a_full_disk_takes_of_a_chunk_is_taken_back(page: Page) -> None:
    found = run(
        page,
        """
        const type = FileSystemSyncAccessHandle.prototype, real = type.write;
        const writer = await opfs.writer("file", true);
        await writer.append(some(0, 10));
        const found = [];
        for (const throws of [false, true]) {
          type.write = function (chunk, options) {
            const size = real.call(this, chunk.subarray(0, 3), options);
            if (throws) throw new Error("the disk is gone");
            return size;
          };
          await (async () => writer.append(some(90, 8)))().catch((error) => found.push(error.message));
          type.write = real;
          found.push(writer.size());
        }
        await writer.close();
        return [found, await whole()];
        """,
    )
    assert found == [["the disk is full", 10, "the disk is gone", 10], [*range(10)]]


def test_a_file_is_read_in_parts_and_parts_of_these(page: Page, handles: str) -> None:
    found = run(
        page,
        """
        const n = (1 << 20) + 999; // more than is read at once
        const writer = await opfs.writer("file", false);
        await writer.append(some(0, n));
        await writer.close();
        const file = await opfs.open("file");
        const sum = (bytes) => bytes.reduce((sum, byte, i) => (sum + byte * (i % 89 + 1)) % 1000003, 0);
        const found = [];
        for (const [from, to] of [[0, n], [0, n - 700], [5, n - 3], [1 << 20, n], [7, 9]]) {
          const part = file.slice(from, to);
          const [begin, end] = [1, to - from - 1];
          const streamed = [];
          const reader = part.slice(begin, end).stream().getReader();
          for (let next; !(next = await reader.read()).done; ) for (const byte of next.value) streamed.push(byte);
          const same = sum(streamed) === sum(some(from + begin, end - begin));
          found.push([part.size, same, streamed.length === end - begin]);
          const bytes = new Uint8Array(await part.slice(begin, end).arrayBuffer());
          found.push([bytes.length + 2, sum(bytes) === sum(streamed), true]);
        }
        file.close?.();
        return [n, found];
        """,
    )
    n, parts = found
    sizes = [n, n - 700, n - 8, 999, 2]
    assert parts == [[size, True, True] for size in sizes for _ in range(2)]


def test_a_file_that_is_open_can_be_read_twice_and_is_gone_when_it_is_removed(page: Page, handles: str) -> None:
    found = run(
        page,
        """
        const writer = await opfs.writer("file", false);
        await writer.append(some(0, 10));
        await writer.close();
        const both = [await opfs.open("file"), await opfs.open("file")];
        const sizes = both.map((file) => [file.size, Boolean(file.close)]);
        for (const file of both) file.close?.();
        await opfs.remove("file");
        await opfs.remove("file"); // there is none
        return [sizes, (await opfs.open("file")) === undefined, (await opfs.file("file")) === undefined];
        """,
    )
    assert found == [[[10, handles == "synchronous"]] * 2, True, True]


@pytest.mark.parametrize("handles", ["on the main thread"], indirect=True)
def test_a_stream_that_does_not_find_its_place_is_given_up(page: Page, handles: str) -> None:
    found = run(
        page,
        """
        const type = FileSystemWritableFileStream.prototype, real = type.seek;
        type.seek = () => Promise.reject(new Error("not now"));
        const said = await opfs.writer("file", false).catch((error) => error.message);
        type.seek = real;
        await opfs.remove("file"); // which nobody writes
        return [said, (await opfs.file("file")) === undefined];
        """,
    )
    assert found == ["not now", True]


def test_who_opens_a_file_in_vain_leaves_it_to_others(page: Page) -> None:
    found = run(
        page,
        """
        const handle = FileSystemSyncAccessHandle.prototype;
        const said = [];
        const refused = () => { throw new Error("not now"); };
        for (const [name, fresh] of [["truncate", true], ["getSize", false]]) {
          const real = handle[name];
          handle[name] = refused;
          await opfs.writer("file", fresh).catch((error) => said.push(error.message));
          handle[name] = real;
        }
        const writer = await opfs.writer("file", true);
        await writer.append(some(0, 3));
        await writer.close();
        return [said, await whole()];
        """,
    )
    assert found == [["not now", "not now"], [0, 1, 2]]


def test_a_lock_is_held_by_one_or_shared_until_it_is_given_back(page: Page) -> None:
    found = run(
        page,
        """
        const tell = (release) => typeof release;
        const one = await opfs.lock("file", "exclusive");
        const found = [tell(one), tell(await opfs.lock("file", "exclusive")), tell(await opfs.lock("file", "shared"))];
        const soon = () => new Promise((resolve) => setTimeout(resolve, 20)); // given back is what others hear of later
        one();
        await soon();
        const shared = [await opfs.lock("file", "shared"), await opfs.lock("file", "shared")];
        found.push(...shared.map(tell), tell(await opfs.lock("file", "exclusive")));
        for (const release of shared) release();
        await soon();
        const again = await opfs.lock("file", "exclusive");
        found.push(tell(again));
        again();
        return found;
        """,
    )
    assert found == ["function", "undefined", "undefined", "function", "function", "undefined", "function"]
