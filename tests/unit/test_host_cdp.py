"""The DevTools protocol over pipes, with a stand-in for the browser that answers on files 3 and 4."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaweb.host.cdp import CDP, CDPError

STAND_IN = """#!{python}
import json, os, sys, threading
assert sys.argv[1:] == ["--mine", "--remote-debugging-pipe"], sys.argv
open_files = {{int(name) for name in os.listdir("/proc/self/fd")}} if os.path.exists("/proc/self/fd") else set()
left, lock = b"", threading.Lock()

def answer(message):
    data = json.dumps(message).encode() + b"\\0"
    with lock:
        for at in range(0, len(data), 7):  # in pieces
            os.write(4, data[at : at + 7])

while more := os.read(3, 65536):
    *messages, left = (left + more).split(b"\\0")
    for order in map(json.loads, messages):
        number, method = order["id"], order["method"]
        answer({{"method": "Some.event", "params": {{}}}})
        if method == "echo":
            answer({{"id": number, "result": order}})
        elif method == "files":
            answer({{"id": number, "result": {{"open": sorted(open_files)}}}})
        elif method == "late":
            threading.Timer(0.3, answer, ({{"id": number, "result": {{}}}},)).start()
        elif method == "end":
            sys.exit(0)
        elif method == "crash":
            answer({{"method": "Target.targetCrashed", "params": {{}}}})
        elif method != "silence":
            answer({{"id": number, "error": {{"message": f"there is no {{method}}"}}}})
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "browser"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def cdp(program: str) -> Iterator[CDP]:
    cdp = CDP([program, "--mine"], 10)
    yield cdp
    cdp.close()
    assert cdp.process.wait(60) is not None


def test_answers_come_to_those_who_asked(cdp: CDP) -> None:
    assert cdp.call("echo", text="é😀" * 100_000)["params"] == {"text": "é😀" * 100_000}
    assert cdp.call("echo", "a page's")["sessionId"] == "a page's"
    with pytest.raises(CDPError, match="there is no such"):
        cdp.call("such")
    came: list[str] = []

    def late() -> None:
        cdp.call("late")
        came.append("late")

    thread = threading.Thread(target=late)
    thread.start()
    while not cdp._waiting:
        time.sleep(0.001)
    cdp.call("echo")
    came.append("echo")
    thread.join()
    assert came == ["echo", "late"]


def test_the_browser_has_the_pipes_and_nothing_else_of_ours(cdp: CDP, tmp_path: Path) -> None:
    with (tmp_path / "a secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        found = cdp.call("files")["open"]
    assert not found or set(found) - {0, 1, 2, 3, 4} <= {5}  # the last is the folder that is listed


@pytest.mark.parametrize("how", ["end", "crash"])
def test_a_browser_that_ends_is_an_error_and_no_waiting(cdp: CDP, how: str) -> None:
    with pytest.raises(CDPError, match="the browser has ended"):
        cdp.call(how)
    with pytest.raises(CDPError, match="the browser has ended"):
        cdp.call("echo")


def test_silence_has_an_end(program: str) -> None:
    cdp = CDP([program, "--mine"], 0.2)
    with pytest.raises(CDPError, match="no answer to silence within 0 seconds"):
        cdp.call("silence")
    cdp.close()
    assert cdp.process.wait(60) is not None


def test_what_is_no_program_or_no_browser_is_an_error(tmp_path: Path) -> None:
    for name in ("/no/browser", str(tmp_path), "/bin/true"):
        cdp = CDP([name], 60)
        with pytest.raises(CDPError, match="the browser has ended"):
            cdp.call("echo")
        cdp.process.wait(60)
