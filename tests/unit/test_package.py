"""The package as Python sees it: what it imports, and what it says where it cannot run."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import llamaweb

ROOT = Path(__file__).parents[2]
PACKAGE = Path(llamaweb.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_THE_PAGE = {"js", "pyodide", "pyodide_js"}  # Pyodide brings them


def imported(path: Path) -> set[str]:
    """The top modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@cache
def declared(outside: bool) -> set[str]:
    """The modules of the packages that the package asks for: in the page, or outside of it too."""
    lines = [line for line in PROJECT["dependencies"] if outside or "sys_platform != 'emscripten'" not in line]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines}
    modules = importlib.metadata.packages_distributions()
    return {module for module, packages in modules.items() if names & {name.lower() for name in packages}}


def test_every_module_that_is_imported_belongs_to_a_declared_dependency() -> None:
    for path in PACKAGE.rglob("*.py"):
        host = "host" in path.relative_to(PACKAGE).parts
        known = set(sys.stdlib_module_names) | {"llamaweb"} | declared(outside=host) | (set() if host else OF_THE_PAGE)
        assert imported(path) <= known, path


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("from llamaweb import Llama", "llamaweb.Llama"),
        ("import llamaweb; llamaweb.Llama.load", "llamaweb.Llama"),
        ("import llamaweb.sync", "llamaweb.sync"),
        ("from llamaweb.sync import Llama", "llamaweb.sync"),
        ("from llamaweb import cache", "llamaweb.cache"),
    ],
)
def test_outside_of_a_browser_what_needs_one_is_an_import_error_of_one_sentence(code: str, what: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"llamaweb.errors.OutsideBrowserError: {what} runs inside of a browser, in Pyodide's Python")
    assert "`llamaweb run`" in last and "js" not in last
    assert issubclass(llamaweb.OutsideBrowserError, ImportError)


def test_a_name_that_is_not_there_is_no_matter_of_the_browser() -> None:
    with pytest.raises(ImportError, match="cannot import name 'LLama'"):
        exec("from llamaweb import LLama")
    assert not hasattr(llamaweb, "nothing")


@pytest.mark.parametrize("module", ["llamaweb", "llamaweb.host.cli"])
def test_the_command_line_is_a_module_too_and_tells_the_packages_version(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert done.stdout == f"{llamaweb.__version__}\n"
    assert importlib.metadata.version("llamaweb") == llamaweb.__version__


def test_the_changelog_has_this_version_and_what_is_not_released_yet() -> None:
    titles = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] == "Unreleased" and titles[1] == llamaweb.__version__
