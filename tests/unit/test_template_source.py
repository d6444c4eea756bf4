"""What the text of a chat template may be, exactly, and what compiling it takes."""

from __future__ import annotations

import sys

import pytest
from jinja2.exceptions import TemplateSyntaxError

from llamaweb.chat import budget, source
from llamaweb.chat.sandbox import Environment
from llamaweb.chat.source import check_source
from llamaweb.chat.template import _compile, render_template
from llamaweb.errors import LlamaWebError

TOO_DEEP = "it is nested too deep"
BLOCKS = {
    "if": "{% if 1 %}",
    "if, without blanks": "{%- if 1 -%}",
    "for": "{% for i in a %}",
    "macro": "{% macro f(a=1) %}",
    "call": "{% call f() %}",
    "filter": "{% filter f(a=1) %}",
    "set": "{% set x %}",
    "set by a filter": "{% set x | f(a=1) %}",
    "block": "{% block b %}",
    "with": "{% with a = 1 %}",
    "generation": "{% generation %}",
    "autoescape": "{% autoescape true %}",
}


def words_of(text: str) -> str:
    """Why a template's text is refused; no words if it is taken."""
    try:
        check_source(Environment(), text)
    except TemplateSyntaxError as error:
        return f"{error.message} (line {error.lineno})"
    return ""


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_may_be_within_31_others(kind: str) -> None:
    block = BLOCKS[kind]
    end = "{% end" + block.strip("{%- ").split()[0] + " %}"
    assert words_of(block * 32) == words_of((block + "x" + end) * 99) == ""
    assert words_of((block * 32 + end * 32) * 2) == ""
    assert words_of("\n" + block * 33) == f"{TOO_DEEP} (line 2)"
    assert words_of(block * 32 + end + block * 2) == f"{TOO_DEEP} (line 1)"


@pytest.mark.parametrize("elif_", ["{% elif 0 %}", "{%- elif 0 -%}"])
def test_branches_of_all_open_blocks_are_300_at_most(elif_: str) -> None:
    assert words_of("{% if 0 %}" + elif_ * 300 + "{% endif %}") == ""
    assert words_of("{% if 0 %}\n" + elif_ * 301 + "{% endif %}") == f"{TOO_DEEP} (line 2)"
    within = "{% if 0 %}" + elif_ * 150
    assert words_of((within * 2 + "{% endif %}" * 2) * 3) == ""
    assert words_of(within * 2 + elif_) == words_of(within * 2 + "{% endif %}" + elif_ * 151) == f"{TOO_DEEP} (line 1)"
    assert words_of(within + "{% for i in x %}" + within + "{% set x = 1 %}" + elif_) == f"{TOO_DEEP} (line 1)"


LINKS = ("|string", "**1", "*1", " and 1", " or 1", ".a", "['a']", "[:1]", "()", " if 1 else 2", "+x", "-1", "~x", "<1")


@pytest.mark.parametrize("link", LINKS)
def test_what_is_one_above_the_other_takes_as_long_to_compile_as_what_is_beside(link: str) -> None:
    few, many = (calls_of("{{ x" + link * n + " }}") for n in (14, 56))
    assert many < 4.5 * few


@pytest.mark.parametrize("pair", [("not ", ""), ("-", ""), ("(1+", ")"), ("[", "]"), ("{1:", "}"), ("f(", ")")])
def test_what_is_within_another_takes_as_long_to_compile_as_what_is_beside(pair: tuple[str, str]) -> None:
    few, many = (calls_of("{{ " + pair[0] * n + "x" + pair[1] * n + " }}") for n in (6, 24))
    assert many < 4.5 * few


def test_compiling_has_its_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for i in x %}" * 20 + "{{ x + i }}" * 300 + "{% endfor %}" * 20
    seen: list[float] = []
    monkeypatch.setattr(budget.time, "monotonic", lambda: seen.append(0.0) or 0.0)
    _compile.__wrapped__(template)
    looks = len(seen) + 1
    assert looks > 10
    times = iter([0.0, *[1.9] * 5, *[2.1] * looks])
    monkeypatch.setattr(budget.time, "monotonic", lambda: next(times))
    with pytest.raises(LlamaWebError, match="it takes longer than 2 seconds"):
        render_template(template, {})
    assert len(list(times)) == looks - 1


def test_nothing_of_a_template_is_computed_before_it_is_rendered() -> None:
    """Where nothing asks the budget."""
    environment, _ = _compile.__wrapped__('{{ "a" ~ "b" }}{{ [[1]] }}{{ "a" | upper }}{{ 1 // 0 }}')
    assert environment.budget.steps == budget.MAX_STEPS


def calls_of(template: str) -> int:
    """How many functions are called to compile it."""
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        _compile.__wrapped__(template)
    finally:
        sys.setprofile(before)
    return count


def test_what_has_no_end_is_no_block() -> None:
    for tag in ("{% set x = 1 %}", "{% set x.y = 1 %}", "{% else %}", "{% break %}", "{{ if }}", "{# if #}", "if"):
        assert words_of(tag * 99) == ""
    assert words_of(("{% set x = 1 %}" * 3 + "{% if 1 %}") * 33) == f"{TOO_DEEP} (line 1)"


@pytest.mark.parametrize("pair", ["()", "[]", "{}"])
@pytest.mark.parametrize("tag", [("{{", "}}"), ("{% set x =", "%}")])
def test_brackets_may_be_within_23_others_of_their_tag(pair: str, tag: tuple[str, str]) -> None:
    def deep(n: int) -> str:
        return f"{tag[0]} {pair[0] * n} 1 {pair[1] * n} {tag[1]}"

    assert words_of(deep(24) * 3) == words_of("{{ " + f"{pair[0]}1{pair[1]} " * 40 + "}}") == ""
    assert words_of(deep(25)) == f"{TOO_DEEP} (line 1)"


SIGNS = "+ - * / // % ** ~ == != < > <= >= | . : not and or in is if else"


@pytest.mark.parametrize("sign", SIGNS.split())
def test_operators_may_be_one_above_the_other_119_times(sign: str) -> None:
    assert words_of("{{ 1 " + f"{sign} a " * 120 + "}}") == ""
    assert words_of(("{{ 1 " + f"{sign} a " * 120 + "}}") * 2) == ""
    assert words_of("{{ 1 " + f"{sign} a " * 121 + "}}") == f"{TOO_DEEP} (line 1)"


def test_operators_are_counted_in_all_open_brackets_and_from_the_last_comma() -> None:
    long = "+ 1 " * 60
    assert words_of("{{ 1 " + long + "* (1 " + "+ 1 " * 58 + ") }}") == ""
    assert words_of("{{ 1 " + long + "* (1 " + "+ 1 " * 59 + ") }}") == f"{TOO_DEEP} (line 1)"
    assert words_of("{{ [1 " + f"{long}, 1 " * 9 + "] }}") == ""
    assert words_of("{{ [1, 1 " + "+ 1 " * 119 + "] }}") == ""
    assert words_of("{{ [1, 1 " + "+ 1 " * 120 + "] }}") == f"{TOO_DEEP} (line 1)"
    assert words_of("{{ 1 " + long + "+ [1, (1, 2), 1" + long + "] }}") == f"{TOO_DEEP} (line 1)"
    assert words_of("{{ 1 " + long + "+ f(1 " + "+ 1 " * 40 + ")" + " + 1" * 50 + " }}") == ""


def test_words_and_signs_are_counted_but_for_text_and_what_comments_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_TOKENS", 14)
    text = "a b {{ 1 + x }} {# c d e #} {% if y %} d"  # five, two and four
    assert words_of(text + "{{ z }}") == ""
    assert words_of(text + "\n{{ z }}" + " e" * 9) == words_of(text + "\n{{ z }}") == ""
    assert words_of(text + "\n\n{{ z - }}") == "it has more than 14 words and signs (line 3)"


def test_a_text_has_up_to_262144_letters() -> None:
    assert words_of("x" * (1 << 18)) == ""
    assert words_of("x" * (1 << 18) + "y") == "it is longer than 262144 characters (line 1)"
