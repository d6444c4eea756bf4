"""A page in which calls of the browser fail, one after the other, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from browser_page import Page

from tests.tiny import TinyLlama, tiny_llama

HERE = Path(__file__).parent
INSTALL = """
import sys, types
module = sys.modules["faults_page"] = types.ModuleType("faults_page")
exec(compile(source, "faults_page.py", "exec"), module.__dict__)
module.install(script)
"""
TRIALS = """
import faults_page
operation = getattr(faults_page, name)(*given)
try:
    return await faults_page.trials(operation, group, kind, lasting)
finally:
    await operation.close()
"""
MODEL = tiny_llama(TinyLlama(n_layer=1))


def install(page: Page) -> None:
    page.run(INSTALL, source=(HERE / "faults_page.py").read_text(), script=(HERE / "faults.js").read_text())


def trials(page: Page, group: str, kind: str, lasting: bool, name: str, *given: Any) -> tuple[int, set[str]]:
    """How many calls of an operation failed, and what was said of them."""
    failed, said, wrong = page.run(TRIALS, group=group, kind=kind, lasting=lasting, name=name, given=given)
    assert wrong == []
    return failed, set(said)
