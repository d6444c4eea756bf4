"""What a hostile model writes, and what its page says, commands no terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.terminal import ATTACK, NAME, check_obeys_nobody, on_a_terminal, write_hostile


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile(tmp_path_factory.mktemp("models"))


def test_an_answer_of_escapes_is_shown_and_not_sent(hostile: Path) -> None:
    """Newlines and tabs of an answer are kept."""
    code, sent = on_a_terminal("run", hostile, "-p", "the", "--max-tokens", 2, "--temperature", 0)
    assert code == 0, sent
    assert sent.count("EVIL\\x1b]0;title\\x07") == 2 and "EVIL\n" in sent and "EVIL\t" in sent
    check_obeys_nobody(sent, its_lines=True)


def test_what_a_template_refuses_with_is_one_line(hostile: Path) -> None:
    code, sent = on_a_terminal("run", hostile, "-p", ATTACK, "--chat", "--max-tokens", 2)
    assert code == 1 and "EVIL" in sent
    check_obeys_nobody(sent)


def test_the_perplexity_of_a_hostile_text_is_told(hostile: Path, tmp_path: Path) -> None:
    text = tmp_path / NAME
    text.write_text(f"the hill {ATTACK}" * 5)
    code, sent = on_a_terminal("perplexity", hostile, "--file", text, "--context", 32)
    assert code == 0 and "perplexity " in sent, sent
    check_obeys_nobody(sent)


@pytest.mark.parametrize("as_json", ([], ["--json"]), ids=("text", "json"))
def test_a_bench_of_a_hostile_model_is_told(hostile: Path, as_json: list[str]) -> None:
    sizes = ("--prompt-tokens", 8, "--gen-tokens", 2, "--reps", 1)
    code, sent = on_a_terminal("bench", hostile, *sizes, *as_json)
    assert code == 0 and "EVIL" in sent, sent
    check_obeys_nobody(sent)
    if as_json:
        assert json.loads(sent[sent.index('{"') :])["model"] == hostile.name
