"""`./dev`: what it sets up on a machine that lacks something, and what it says where it may not."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dev() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def calls(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were run; each fails until `apt-get install` has been run."""
    commands: list[str] = []

    def run(command: list, **_: bool) -> int:
        commands.append(" ".join(map(str, command)))
        return 0 if any("apt-get install" in c for c in commands) or "update" in command else 1

    monkeypatch.setattr(dev, "run", run)
    monkeypatch.setattr(dev, "amount", lambda packages: f"Need to get 800 MB of {len(packages)} archives.")
    monkeypatch.setattr(dev.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    return commands


def test_as_root_a_missing_venv_module_is_installed_and_tried_again(
    dev: ModuleType, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.os, "geteuid", lambda: 0)
    dev.make_venv()
    assert next(c for c in calls if "apt-get install" in c).endswith(
        f"python3.{sys.version_info.minor}-venv python3-venv"
    )
    assert "-m venv" in calls[-1]


def test_as_root_a_missing_browser_is_installed(
    dev: ModuleType, calls: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev.os, "geteuid", lambda: 0)
    dev.browser()
    assert "Need to get 800 MB of 2 archives." in capsys.readouterr().err
    assert calls[-1] == "apt-get install -y -qq chromium chromium-driver"


def test_tests_and_firefox_get_firefox_and_a_software_adapter(
    dev: ModuleType, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.os, "geteuid", lambda: 0)
    monkeypatch.setattr(dev.Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr(dev, "hand_over", lambda command: 0)
    for step in ("environment", "npm"):
        monkeypatch.setattr(dev, step, lambda: None)
    for command in (["test"], ["run", "--browser", "firefox"]):
        calls.clear()
        dev.main(command)
        installed = [c for c in calls if "apt-get install" in c]
        assert installed[-1] == "apt-get install -y -qq firefox-esr mesa-vulkan-drivers"
        assert any("chromium" in c for c in installed) == (command == ["test"])
    calls.clear()
    dev.main(["run"])
    assert not any("firefox" in c for c in calls)


def test_others_are_told_what_to_install(dev: ModuleType, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev.os, "geteuid", lambda: 1000)
    with pytest.raises(dev.Failed, match="sudo apt-get install chromium chromium-driver"):
        dev.browser()
    assert not calls


def test_without_npm_a_node_for_the_environment_is_installed(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list] = []
    monkeypatch.setattr(dev, "BIN", tmp_path)
    monkeypatch.setattr(dev, "run", lambda command, **_: commands.append(command) or 0)
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    dev.npm()
    assert "--require-hashes" in commands[0] and commands[0][-1] == ROOT / "requirements/npm.txt"


def test_the_package_is_installed_again_only_when_what_it_asks_for_or_what_is_locked_has_changed(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "BIN", tmp_path)
    monkeypatch.setattr(dev, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(dev, "LOCKS", tmp_path)
    monkeypatch.setattr(dev, "run", lambda command, **_: commands.append(" ".join(map(str, command))) or 0)
    (tmp_path / "python").touch()
    (tmp_path / "llamaweb").touch()
    for content, locked, installs in (("a", "x", 1), ("a", "x", 1), ("b", "x", 2), ("b", "y", 3)):
        (tmp_path / "pyproject.toml").write_text(content)
        (tmp_path / "dev.txt").write_text(locked)
        dev.environment()
        assert sum("pip install" in command and "dev.txt" in command for command in commands) == installs


def test_all_that_pip_installs_has_a_hash_or_is_this_package(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(dev, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(dev, "BIN", tmp_path)
    monkeypatch.setattr(dev, "run", lambda command, **_: commands.append(list(map(str, command))) or 0)
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    dev.environment()
    dev.npm()
    dev.lock()
    installs = [command for command in commands if "install" in command]
    hashed = [command for command in installs if {"--require-hashes", ":all:"} <= set(command)]
    assert sorted(Path(command[-1]).name for command in hashed) == ["dev.txt", "lock.txt", "npm.txt"]
    (ours,) = [command for command in installs if command not in hashed]
    assert ours[-4:] == ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]


@pytest.mark.parametrize("name", ["dev", "npm", "lock", "mutants"])
def test_a_lock_has_hashes_of_all_that_pyproject_asks_for(dev: ModuleType, name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    locked: dict[str, list[str]] = {}
    for line in text.splitlines():
        pin, *hashes = line.split("--hash=")
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), line
        requirement = Requirement(pin)
        (version,) = requirement.specifier
        assert version.operator == "=="
        locked.setdefault(canonicalize_name(requirement.name), []).append(version.version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    asked = {"dev": groups["build"] + project["project"]["dependencies"], "npm": groups["npm"], "lock": groups["lock"]}
    asked["mutants"] = groups["mutants"]
    asked["dev"] += [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    asked["dev"] += project["build-system"]["requires"]
    for requirement in map(Requirement, asked[name]):
        versions = locked[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), f"{requirement}: run `./dev lock`"


@pytest.mark.parametrize("broken", [0, 1])
def test_a_lint_complaint_fails_the_tests_that_pass(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    for step in ("environment", "npm", "browser", "firefox"):
        monkeypatch.setattr(dev, step, lambda: None)
    monkeypatch.setattr(dev, "run", lambda command, **_: broken if str(command[0]).endswith("mypy") else 0)
    assert dev.main(["test", "-k", "nothing"]) == broken


def test_other_commands_are_llamawebs_and_keep_json_pure() -> None:
    done = subprocess.run([ROOT / "dev", "inspect", "no-such.gguf", "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "ModelFileError"


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["Ctrl-C in a terminal", "Ctrl-C by kill", "SIGTERM"],
)
def test_an_end_while_something_is_set_up_is_told_by_its_number_and_what_sets_up_has_no_last_words(
    number: signal.Signals, group: bool, tmp_path: Path
) -> None:
    child = tmp_path / "pip"
    child.write_text(
        f"#!{sys.executable}\nimport os, time\nprint('working', os.getpid(), flush=True)\ntry: time.sleep(60)\n"
        "finally: print('Traceback of pip', flush=True)\n"
    )
    child.chmod(0o755)
    script = (
        "import importlib.machinery as m, importlib.util as u, sys\n"
        f"loader = m.SourceFileLoader('dev', {str(ROOT / 'dev')!r})\n"
        "dev = u.module_from_spec(u.spec_from_loader('dev', loader))\n"
        "loader.exec_module(dev)\n"
        f"dev.work = lambda arguments: dev.run([{str(child)!r}], quiet=True)\n"
        "sys.exit(dev.main(['run']))\n"
    )
    command = [sys.executable, "-c", script, "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As in a terminal: what a shell begins in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        working, pid = process.stderr.readline().split()
        (os.killpg if group else os.kill)(process.pid, number)
        output, errors = process.communicate(timeout=30)
    assert working == "working" and process.returncode == 128 + number and errors == "Interrupted.\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert json.loads(output)["error"] == {"type": "Interrupted", "message": "Interrupted."}


def test_of_mutants_those_that_no_test_noticed_are_told_and_the_others_counted(dev: ModuleType) -> None:
    states = ["killed", "survived", "timeout", "no tests", "not checked", "segfault", "suspicious"]
    lines = [f"llamaweb.sampling.x_f__mutmut_{n}: {state}" for n, state in enumerate(states)]
    left, tried, noticed = dev.mutants_left([*lines, "llamaweb.planner.kv.x_g__mutmut_1: killed", ""])
    assert left == [lines[1], lines[3], lines[6]]
    assert tried == {"llamaweb.sampling": 6, "llamaweb.planner.kv": 1}
    assert noticed == {"llamaweb.sampling": 3, "llamaweb.planner.kv": 1}
