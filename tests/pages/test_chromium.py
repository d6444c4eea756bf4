"""The browser that commands start: nobody but they can reach it, and it leaves nothing behind."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llamaweb.host.browser import BrowserChoice, PageError
from llamaweb.host.chrome import Chromium

SCRIPT = "window.twice = async (n) => { if (n < 0) throw Error('too small'); return 2 * n; }"
PAGE = f"data:text/html,<script>{SCRIPT}</script>"
_LISTENING = "0A"


def listening() -> dict[str, str]:
    """By inode, the addresses on this machine at which somebody waits for connections."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {line[9]: line[1] for line in lines if line[3] == _LISTENING}


def sockets(session: int) -> set[str]:
    """Inodes of the sockets that processes of a session have."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                links = [os.readlink(fd) for fd in (process / "fd").iterdir()]
                found |= {link[8:-1] for link in links if link.startswith("socket:[")}
        except OSError:
            continue  # it has just ended
    return found


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """The address of a proxy that gives nothing, and the first line of all that it is asked."""
    asked: list[str] = []

    class Refuse(socketserver.StreamRequestHandler):
        timeout = 2

        def handle(self) -> None:
            asked.append(self.rfile.readline().decode("latin-1"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield "{}:{}".format(*server.server_address), asked
        server.shutdown()


def test_a_command_has_it_ask_nobody_for_anything(
    choice: BrowserChoice, tiny_model: Path, proxy: tuple[str, list[str]]
) -> None:
    address, asked = proxy
    options = [f"--chrome-flag=--proxy-server={address}", *(["--chrome", choice.path] if choice.path else [])]
    command = [sys.executable, "-m", "llamaweb", "run", tiny_model, "-p", "the king", "--max-tokens", "8", *options]
    subprocess.run(command, check=True, capture_output=True)
    assert asked == []
    browser = Chromium(replace(choice, flags=(f"--proxy-server={address}",)))
    try:
        with pytest.raises(PageError):
            browser.get("http://somewhere.example/")
        assert set(asked) == {"GET http://somewhere.example/ HTTP/1.1\r\n"}  # what is asked is seen
    finally:
        browser.quit()


def test_a_browser_for_a_local_model_reaches_this_machine_alone(choice: BrowserChoice, site: str) -> None:
    browser = Chromium(replace(choice, flags=(), offline=True))
    try:
        with pytest.raises(PageError, match="ERR_NAME_NOT_RESOLVED"):
            browser.get("http://localhost.example/")
        with pytest.raises(PageError, match="ERR_"):
            browser.get("http://192.0.2.1/")
        browser.get(site)
    finally:
        browser.quit()


def test_it_listens_nowhere_and_leaves_nothing_behind(
    choice: BrowserChoice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    browser = Chromium(choice)
    try:
        assert browser.cdp
        assert browser.in_new_tab(PAGE, "twice", 21) == 42
        with pytest.raises(PageError, match="too small"):
            browser.in_new_tab(PAGE, "twice", -1)
        with pytest.raises(PageError, match=r"^no address did not answer") as told:
            browser.get("no address?token=secret")
        assert "secret" not in str(told.value)
        mine = sockets(browser.cdp.process.pid)
        assert mine and not mine & set(listening())
    finally:
        browser.quit()
    assert browser.cdp.process.poll() is not None
    assert list(tmp_path.iterdir()) == []
