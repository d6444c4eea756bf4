"""CONTRIBUTING.md names files and functions that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`([\w./]+/[\w./]*|[\w/]+\.(?:py|wgsl|md))`", TEXT))
    assert len(named) > 15
    places = (ROOT, ROOT / "src/llamaweb", ROOT / "src/llamaweb/families", ROOT / "wgsl", ROOT / "wgsl/formats")
    places += (ROOT / "src/llamaweb/architectures", ROOT / "src/llamaweb/kernels", ROOT / "src/llamaweb/planner")
    missing = [name for name in named if "NAME" not in name and not any((place / name).exists() for place in places)]
    assert missing == []


def test_every_name_of_the_code_that_it_names_is_there() -> None:
    code = "\n".join(path.read_text() for folder in ("src", "tests", "wgsl") for path in (ROOT / folder).rglob("*.*py"))
    code += "\n".join(path.read_text() for path in (ROOT / "wgsl").rglob("*.wgsl"))
    for name in set(re.findall(r"`(?:\w+\.)?(_?[A-Za-z]\w+)(?:\([^`]*\))?`", TEXT)) - {"build", "_NAME", "synthetic"}:
        assert re.search(rf"\b{name}\b", code), name
