"""The browser that commands start: nobody but they can reach it, and it leaves nothing behind."""

from __future__ import annotations

import os
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
        with pytest.raises(PageError, match="did not answer"):
            browser.get("no address")
        mine = sockets(browser.cdp.process.pid)
        assert mine and not mine & set(listening())
    finally:
        browser.quit()
    assert browser.cdp.process.poll() is not None
    assert list(tmp_path.iterdir()) == []
