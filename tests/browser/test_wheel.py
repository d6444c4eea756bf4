"""The wheel that `pip wheel` builds: what users of Pyodide install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from browser_page import Runner, file_url

from llamaweb.host.browser import BrowserChoice

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (path,) = folder.glob("llamaweb-*.whl")
    return path


def test_the_wheel_holds_the_wgsl_files_and_the_demo_pages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("wgsl", "demo"):
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*") if path.name[0] != "."]
        assert files and {f"llamaweb/{file}" for file in files} <= names
    assert "llamaweb/host/pins.toml" in names


def test_micropip_installs_the_wheel_in_a_page_that_has_nothing_yet(
    wheel: Path, web_server_main: tuple[str, int, object], browser_choice: BrowserChoice
) -> None:
    host, port, log = web_server_main
    runner = Runner(browser_choice, server_port=port, server_hostname=host, server_log=log)
    try:
        runner.load_package("micropip")
        found = runner.run_async(
            f"""
            import micropip
            await micropip.install({file_url(runner.base_url, wheel)!r})
            from llamaweb import Llama
            from llamaweb.assets import asset_dir
            [Llama.__name__, len(list(asset_dir("wgsl").rglob("*.wgsl")))]
            """
        )
    finally:
        runner.quit()
    assert found == ["Llama", len(list((ROOT / "wgsl").rglob("*.wgsl")))]
