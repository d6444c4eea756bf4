"""Which browser, with which flags, and the sentence when there is none."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from llamaweb.errors import HostError
from llamaweb.host import chrome, foretell
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.output import Output


def test_no_browser_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chrome, "_MAC_APPS", ())
    with pytest.raises(HostError, match="apt-get install chromium`"):
        chrome.find_browser()


def test_a_browser_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match=r"There is no browser at /no/chrome; .*--chrome PATH"):
        chrome.find_browser("/no/chrome")


def test_the_first_known_browser_on_the_path_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("google-chrome", "chromium-browser"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chrome.find_browser() == str(tmp_path / "chromium-browser")


def test_a_program_that_is_no_browser_is_one_sentence() -> None:
    with pytest.raises(HostError) as error:
        chrome.Chromium(BrowserChoice("/bin/true"))
    assert "\n" not in str(error.value) and "/bin/true did not start" in str(error.value)


@pytest.mark.parametrize(
    ("folder", "reason"), [("/nowhere/at/all", "No such file or directory"), (__file__, "Not a directory")]
)
def test_a_folder_that_takes_no_temporary_files_is_the_reason(
    folder: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", folder)
    with pytest.raises(HostError) as error:
        chrome.Chromium(BrowserChoice("/bin/true"))
    assert (
        str(error.value)
        == f"The folder for temporary files, {folder}, takes none ({reason}); set TMPDIR to another one."
    )


def test_a_browser_that_does_not_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(HostError, match="did not start"):
        chrome.Chromium(BrowserChoice("/bin/true"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("length", "found"), [(40, "a folder in it"), (62, "itself"), (63, "/tmp"), (90, "/tmp")])
def test_chromium_gets_a_folder_for_its_sockets_whose_path_is_short_enough(
    length: int, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    browser = tmp_path / "chromium"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$TMPDIR\" > '{tmp_path}/told'\n")
    browser.chmod(0o700)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short, "a" * (length - len(short) - 1))
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        with pytest.raises(HostError, match="did not start"):
            chrome.Chromium(BrowserChoice(str(browser)))
        assert list(folder.iterdir()) == []
    told = (tmp_path / "told").read_text()
    kinds = {str(folder): "itself", "/tmp": "/tmp"}
    assert kinds.get(told, "a folder in it" if Path(told).parent == folder else told) == found


def test_the_software_adapter_is_the_default_and_gpu_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert "--use-webgpu-adapter=swiftshader" in chrome.flags()
    reach = [flag for flag in chrome.flags(BrowserChoice(offline=True)) if "host-resolver-rules" in flag]
    assert len(reach) == 1 and not any("host-resolver-rules" in flag for flag in chrome.flags())
    real = chrome.flags(BrowserChoice(gpu=True, flags=("--mine",)))
    assert "--use-vulkan=native" in real and real[-1] == "--mine"
    assert not any("swiftshader" in flag or "dawn-features" in flag for flag in real)


@pytest.mark.parametrize(
    ("user", "helper", "namespaces", "why"),
    [
        (0, True, True, "root cannot have it; run the command as another user"),
        (1000, False, True, None),
        (1000, True, False, None),
        (1000, False, False, "this machine lets users make no namespaces, and has no chrome-sandbox"),
    ],
)
def test_chromium_has_its_sandbox_where_it_can(
    user: int, helper: bool, namespaces: bool, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(chrome.os, "geteuid", lambda: user)
    monkeypatch.setattr(chrome, "_is_roots", lambda path: helper and path.name == "chrome-sandbox")
    monkeypatch.setattr(chrome, "_namespaces", lambda: namespaces)
    assert chrome.no_sandbox() == why
    assert ("--no-sandbox" in chrome.flags()) == (why is not None)


def test_a_sandbox_helper_is_one_that_runs_as_root(tmp_path: Path) -> None:
    helper = tmp_path / "chrome-sandbox"
    assert not chrome._is_roots(helper)
    helper.touch()
    helper.chmod(0o755)
    assert not chrome._is_roots(helper)
    helper.chmod(0o4755)
    assert chrome._is_roots(helper) == (helper.stat().st_uid == 0)


def test_a_missing_sandbox_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foretell, "no_sandbox", lambda choice: "there is a reason")
    foretell.say_sandbox(BrowserChoice(), Output(False))
    foretell.say_sandbox(BrowserChoice(kind="firefox"), Output(False))
    assert capsys.readouterr().err == "Chromium runs without its sandbox: there is a reason.\n"
