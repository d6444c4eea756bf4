"""Sentences for people are made per surface: none of Python's own words reaches the command line or the chat page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamaweb
from llamaweb.errors import SURFACES, WORDS, ContextError, per_second, said
from llamaweb.host.cli import build_parser
from llamaweb.planner import plan_model
from llamaweb.sampling import Sampling
from tests.headers import TINY, llama_header

PACKAGE = Path(llamaweb.__file__).parent
# Raised by calls that only Python makes, with words that only Python has.
PYTHONS = {"answer.py", "arguments.py", "sync.py", "javascript.py"}
OPTIONS = {"n_ctx", "n_ubatch", "memory_budget", "logits_all", "type_k", "type_v", "max_tokens", "top_k", "top_p"}
OPTIONS |= {"min_p", "ignore_eos", "add_bos", "n_prompt", "n_generate", "repo_id", "recover()", "Llama.load"}
OPTIONS |= {"unfused", "check=True", "embed(texts)", 'pooling="mean"', "logits_all=True", "cache=False", 'cache="only"'}
PYTHON = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, sorted(OPTIONS, key=len, reverse=True)))})(?![\w])|Llama\.")


def sentences() -> Iterator[tuple[str, str]]:
    """Every text of the package that may be a sentence or a part of one, and its file; what is filled in is ‹…›."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in inner | notes:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "‹…›" for part in node.values)
                text = "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if text.count(" ") >= 3:
                yield path.relative_to(PACKAGE).as_posix(), text


@pytest.mark.parametrize("surface", SURFACES)
def test_no_sentence_has_a_word_of_python_on_another_surface(surface: str) -> None:
    found, seen = [], 0
    for file, text in sentences():
        if file in PYTHONS:
            continue
        seen += 1
        if PYTHON.search(said(text, surface)):
            found.append((file, text))
    assert seen > 300 and found == []


@pytest.mark.parametrize("surface", SURFACES)
def test_every_word_has_its_place_and_parts_of_names_are_left_alone(surface: str) -> None:
    for word in WORDS:
        assert WORDS[word][SURFACES.index(surface)] in said(f"load it with {word}, or {word}.", surface)
        for name in (f"models/{word}.gguf", f"{word}.gguf", f"my-{word}", f"{word}_x", f"x{word}"):
            if word.isidentifier():
                assert said(name, surface) == name


def test_options_that_are_checked_are_told_as_the_command_lines_own() -> None:
    with pytest.raises(Exception, match="top_p is") as caught:
        Sampling(top_p=2)
    assert str(caught.value) == "top_p is 2; it must be from 0 to 1."
    assert caught.value.said("command line") == "--top-p is 2; it must be from 0 to 1."
    with pytest.raises(ContextError) as refused:
        plan_model(llama_header(**TINY), n_ctx=-1)
    assert refused.value.said("page").startswith("context length in the settings is -1; ")


def test_sizes_that_a_person_reads_are_in_mb() -> None:
    """10^6 bytes; positions in a damaged file are told to the byte."""
    units = re.compile(r"‹…› ?(bytes|[KMGk]i?B\b)|\d ?([KG]i?B|MiB)\b")
    damaged = {"model/gguf_file.py", "model/source.py", "host/http_source.py", "gpu/upload.py", "host/fetch.py"}
    asked = {"planner/budget.py", "host/cli.py"}  # how a size is written on the command line and in Python
    rates = {"text_table.py", "planner/picture.py"}
    found = [(file, text) for file, text in sentences() if units.search(text)]
    assert [each for each in found if each[0] not in damaged | asked | rates] == []


def test_the_command_line_has_every_option_that_is_put_in_pythons_words_place() -> None:
    commands = build_parser()._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]
    options = {option for command in commands for option in command._option_string_actions}
    for words in WORDS.values():
        assert set(re.findall(r"--[a-z-]+", words[0])) <= options


@pytest.mark.parametrize(("rate", "told"), [(0.4, "0 bytes"), (1.2, "1 byte"), (1500.0, "1,500 bytes")])
def test_a_rate_is_told_in_bytes(rate: float, told: str) -> None:
    assert per_second(rate) == f"{told} a second"
