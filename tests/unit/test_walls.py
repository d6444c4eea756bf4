"""The walls of the README's map: which part of the package may import which."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import llamaweb

PACKAGE = Path(llamaweb.__file__).parent
PURE = (
    *(
        "answer",
        "architectures",
        "arguments",
        "calls",
        "chat",
        "completions",
        "embedding",
        "errors",
        "evaluation",
        "families",
        "generation",
        "ggml",
        "graph",
        "kernels",
        "model",
    ),
    *("operations", "planner", "pooling", "rope", "sampling", "secrets", "strings", "tokenizer", "types", "writing"),
)


def part(path: Path) -> str:
    """The folder of the package a file lies in, or its own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def who_imports(*modules: str) -> dict[str, set[str]]:
    """By part of the package, the files of it that import one of the modules, or what is in them."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        names = imports(path)
        if any(name == module or name.startswith(f"{module}.") for name in names for module in modules):
            found.setdefault(part(path), set()).add(path.relative_to(PACKAGE).as_posix())
    return found


def test_only_gpu_files_and_javascript_touch_javascript() -> None:
    assert set(who_imports("js", "pyodide", "pyodide_js")) == {"gpu", "files", "javascript"}


def test_files_never_touch_the_gpu_and_the_pure_parts_no_page() -> None:
    assert "files" not in who_imports("llamaweb.gpu")
    page = ("llamaweb.gpu", "llamaweb.files", "llamaweb.javascript", "llamaweb.page", "llamaweb.host")
    assert not set(who_imports(*page)) & set(PURE)


def test_the_host_never_runs_in_the_page_nor_the_page_outside() -> None:
    assert set(who_imports("llamaweb.host")) <= {"host", "__main__"}
    assert set(who_imports("llamaweb.page")) <= {"page"}
    assert not set(who_imports("llamaweb.gpu", "llamaweb.files", "llamaweb.javascript")) & {"host"}


def test_every_part_is_looked_at() -> None:
    assert {part(path) for path in PACKAGE.rglob("*.py")} >= {"gpu", "files", "page", "host", "javascript", "planner"}


def test_no_family_is_named_outside_its_file() -> None:
    """But for tables of models, and for names that are also words for something else."""
    names = {name.stem for name in (PACKAGE / "families").glob("*.py")} - {"__init__", "llama", "gemma", "bert", "gpt2"}
    folders = ("operations", "planner", "kernels", "gpu", "architectures")
    for path in (path for folder in folders for path in (PACKAGE / folder).rglob("*.py")):
        named = {name for name in names if f'"{name}"' in path.read_text()}
        assert named <= {"gemma3", "qwen3"} if path.parent.name == "architectures" else not named, path
