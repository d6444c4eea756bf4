"""Which browser runs the page, and what is said of one that cannot."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from llamaweb.errors import HostError
from llamaweb.host import bidi, commands, distribution, firefox
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.cli import main


@pytest.mark.parametrize("command", ["run", "bench", f"perplexity --file {__file__}", "tune"])
@pytest.mark.parametrize("path", ["firefox", "/opt/firefox-esr", "Firefox.exe"])
def test_a_firefox_as_chrome_is_refused_before_anything_starts(
    command: str, path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, step in ((commands, "resolve"), (distribution, "ensure_distribution")):
        monkeypatch.setattr(module, step, lambda *_, step=step, **__: pytest.fail(step))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program"))
    assert main([*command.split(), "--chrome", path]) == 1
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"--chrome takes a Chromium, and {path} is Firefox; use --browser firefox.")


def test_a_firefox_behind_another_name_is_known(tmp_path: Path) -> None:
    (tmp_path / "firefox-esr").write_text("#!/bin/sh\n")
    (tmp_path / "firefox-esr").chmod(0o755)
    (tmp_path / "x-www-browser").symlink_to(tmp_path / "firefox-esr")
    with pytest.raises(HostError, match="x-www-browser is Firefox"):
        BrowserChoice(str(tmp_path / "x-www-browser"))


@pytest.mark.parametrize("options", [["--chrome", "/usr/bin/chromium"], ["--chrome-flag=--mute-audio"]])
def test_what_is_chromiums_is_refused_with_firefox(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--browser", "firefox", *options]) == 1
    assert "leave them out with --browser firefox" in capsys.readouterr().err


def test_without_firefox_or_its_software_adapter_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(HostError, match=r"No Firefox was found; .*apt-get install firefox-esr mesa-vulkan-drivers"):
        firefox.find_browser()
    monkeypatch.setattr(firefox, "_DRIVERS", (str(tmp_path),))
    choice = BrowserChoice(kind="firefox")
    with pytest.raises(HostError, match=r"apt-get install mesa-vulkan-drivers.*--gpu"):
        firefox.environment(choice)
    (tmp_path / "lvp_icd.x86_64.json").touch()
    assert firefox.environment(choice)["VK_DRIVER_FILES"] == str(tmp_path / "lvp_icd.x86_64.json")
    assert "VK_DRIVER_FILES" not in firefox.environment(BrowserChoice(gpu=True, kind="firefox"))


def test_a_firefox_that_ends_at_once_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firefox, "find_browser", lambda: "/bin/false")
    with pytest.raises(HostError, match=r"/bin/false did not start \(it ended at once, with exit code 1\)"):
        firefox.Firefox(BrowserChoice(kind="firefox"))


def test_a_firefox_that_another_program_was_quicker_to_drive_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(address: str, seconds: float) -> NoReturn:
        raise bidi.TakenError("Maximum number of active sessions")

    ended: list[Any] = []
    monkeypatch.setattr(firefox, "find_browser", lambda: "/bin/true")
    monkeypatch.setattr(firefox.Firefox, "_address", lambda self: "ws://127.0.0.1:9")
    monkeypatch.setattr(firefox, "BiDi", taken)
    monkeypatch.setattr(firefox, "end", ended.append)
    with pytest.raises(HostError, match="Another program of this machine took /bin/true over"):
        firefox.Firefox(BrowserChoice(kind="firefox"))
    assert len(ended) == 1
