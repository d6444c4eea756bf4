"""What an operation of a chat template says that it makes, before it does: all of it, and not many times as much."""

from __future__ import annotations

import contextlib
import json
import re
import tracemalloc
from typing import Any

import pytest
from markupsafe import Markup

from llamaweb.chat import budget
from llamaweb.chat.template import render_template
from llamaweb.errors import LlamaWebError

WORDS = "a " * 300
LINES = "\n" * 300
WIDE = "\u00e4" * 300  # letters of four bytes
TABS = "\t\u00e4" * 150
ITEMS = ["\u00e4" * 20] * 50
DEEP = [[{"a": "\u00e4"}] * 20] * 20
# An operation, on `t` or `l`; which text that is, or list; and the same in Python.
MADE: dict[str, tuple[Any, Any]] = {
    "t.upper()": (WIDE, WIDE.upper()),
    "t.title()": (WORDS, WORDS.title()),
    "t.strip()": (WIDE, WIDE),
    "t.split()": (WORDS, WORDS.split()),
    "t.split('a')": (WORDS, WORDS.split("a")),
    "t.rsplit()": (WORDS, WORDS.rsplit()),
    "t.rsplit('a')": (WORDS, WORDS.rsplit("a")),
    "t.rsplit('\u00e4')": (WIDE, WIDE.rsplit("\u00e4")),
    "t.splitlines()": (LINES, LINES.splitlines()),
    "t.center(5000, '\u00e4')": ("x", "x".center(5000, "\u00e4")),
    "t.ljust(5000)": (WIDE, WIDE.ljust(5000)),
    "t.rjust(5000)": (WIDE, WIDE.rjust(5000)),
    "t.zfill(5000)": (WIDE, WIDE.zfill(5000)),
    "t.expandtabs(50)": (TABS, TABS.expandtabs(50)),
    "t.expandtabs()": (TABS, TABS.expandtabs()),
    "t.replace('', '\u00e4\u00e4\u00e4')": (WIDE, WIDE.replace("", "\u00e4\u00e4\u00e4")),
    "t.replace('\u00e4', '\u00e4\u00e4\u00e4')": (WIDE, WIDE.replace("\u00e4", "\u00e4\u00e4\u00e4")),
    "'\u00e4'.join(l)": (ITEMS, "\u00e4".join(ITEMS)),
    f"'{WIDE}'.join(l)": (ITEMS, WIDE.join(ITEMS)),
    "''.join(l)": ([WIDE] * 9, WIDE * 9),
    "l.copy()": (ITEMS, [""] * 50),
    "(t | safe).replace('a', t)": ("a" * 300, "a" * 90_000),
    "t + t": (WORDS * 30, WORDS * 60),
    "('' | safe) + t": ("<" * 9000, "&lt;" * 9000),
    "t ~ t": (WIDE, WIDE * 2),
    "t * 20": (WIDE, WIDE * 20),
    "20 * t": (WIDE, WIDE * 20),
    "l + l": (ITEMS, [""] * 100),
    "l * 20": (ITEMS, [""] * 1000),
    "t[1:]": (WIDE, WIDE[1:]),
    "t[::2]": (WIDE * 2, WIDE),
    "l[1:]": (ITEMS, [""] * 49),
    "t | escape": ("<" * 300, "&lt;" * 300),
    "t | center(5000)": (WIDE, WIDE.center(5000)),
    "t | indent(40, true, true)": (LINES, ("\n" + " " * 40) * 301),
    "t | indent('\u00e4\u00e4\u00e4\u00e4', true, true)": (LINES, ("\n" + "\u00e4" * 4) * 301),
    "t | replace('', '\u00e4\u00e4\u00e4')": (WIDE, WIDE.replace("", "\u00e4\u00e4\u00e4")),
    "t | trim('x')": (WIDE, WIDE),
    "t | upper": (WIDE, WIDE),
    "t | list": (WIDE, list(WIDE)),
    "l | join('\u00e4\u00e4\u00e4\u00e4\u00e4')": (ITEMS, ("\u00e4" * 5).join(ITEMS)),
    "t | truncate(299, true, '\u00e4' * 200)": (WIDE + WIDE, WIDE),
    "l | sort": (ITEMS, ITEMS),
    "l | batch(9, '')": (ITEMS, [[""] * 9] * 6),
    "l | tojson": (DEEP, json.dumps(DEEP, ensure_ascii=False)),
    "l | tojson(indent=2)": ([1] * 300, json.dumps([1] * 300, indent=2)),
    "l | tojson(ensure_ascii=true)": (DEEP, json.dumps(DEEP)),
    "l | string": (DEEP, str(DEEP)),
    "'%-900s' % t": ("\u00e4", "\u00e4".ljust(900)),
    "'%s' % t": (WIDE * 20, WIDE * 20),
    "'%s%s' % (t, t)": (WIDE * 20, WIDE * 40),
    "'%(a)900s%(a)900s' % {'a': t}": (WIDE, WIDE.rjust(900) * 2),
    "'{}{}'.format(t, t)": (WIDE * 20, WIDE * 40),
    "'{0!s:>900}'.format(t)": ("\u00e4", "\u00e4".rjust(900)),
    "'{a}{a}'.format_map({'a': t})": (WIDE * 20, WIDE * 40),
}
# Where the usual case is far from the worst one, or what is read counts with what is made, up to so many times as much.
MOST = {
    f"'{WIDE}'.join(l)": 1.1,
    "l | join('\u00e4\u00e4\u00e4\u00e4\u00e4')": 1.7,
    "t.upper()": 3,
    "t.title()": 12,
    "t | upper": 3,
    "t.expandtabs()": 1.3,
    "t.replace('\u00e4', '\u00e4\u00e4\u00e4')": 1.4,
    "'\u00e4'.join(l)": 5,
    "(t | safe).replace('a', t)": 5.1,
    "('' | safe) + t": 1.3,
    "t[::2]": 2.1,
    "t | escape": 1.3,
    "t | indent(40, true, true)": 1.7,
    "t | indent('\u00e4\u00e4\u00e4\u00e4', true, true)": 1.3,
    "t | truncate(299, true, '\u00e4' * 200)": 3.5,
    "l | batch(9, '')": 1.9,
    "l | tojson": 26,
    "l | tojson(indent=2)": 104,
    "l | tojson(ensure_ascii=true)": 72,
    "l | string": 17,
    "'%-900s' % t": 4.5,
    "'%s' % t": 4.7,
    "'%s%s' % (t, t)": 4.4,
    "'%(a)900s%(a)900s' % {'a': t}": 2.6,
    "'{}{}'.format(t, t)": 2.1,
    "'{0!s:>900}'.format(t)": 1.2,
    "'{a}{a}'.format_map({'a': t})": 2.1,
}


@pytest.mark.parametrize("operation", MADE)
def test_an_operation_says_all_that_it_makes_and_little_more(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, made = MADE[operation]
    told: list[int] = []
    monkeypatch.setattr(budget.Budget, "make", lambda self, size: told.append(size))
    render_template(f"{{% set x = {operation} %}}", {"t": given, "l": given})
    size = budget.Budget().size(made)
    assert size / 1.07 <= max(told) <= MOST.get(operation, 1.07) * size


# Letters that become longer or wider in one way or another.
LETTERS = ("a", "&", "\x00", "\u0390", "\u00df", "\u2028", "\U0001f600", "a b ", "\n", "\u0130")
OTHER = "'\U0001f600'"
METHODS = ("upper", "title", "capitalize", "casefold", "swapcase", "lower", "strip", "split", "splitlines", "center")
FILTERS = ("safe", "e", "upper", "title", "capitalize", "lower", "tojson", "trim", "string", "list", "join", "reverse")
# Operations on a text `t`, on `m`, which is marked as safe, and on the lists `l` and `n`, in which it is.
COPIES = [
    *(f"{name} | {filter}" for name in "tmln" for filter in FILTERS),
    *(f"{name}.{method}({99 if method == 'center' else ''})" for name in "tm" for method in METHODS),
    *(f"{name} | {filter} | list" for name in "ln" for filter in ("map('safe')", "map('e')", "tojson(indent=1)")),
    *(f"t | {filter}" for filter in (f"indent({OTHER})", f"replace('a', {OTHER})", f"truncate(9999, true, {OTHER})")),
    *(f"{name} {sign} {other}" for name in "tm" for sign in ("~", "+", "%") for other in (*"tm", OTHER)),
    *(f"{text} % {name}" for name in "tml" for text in ("'%s'", "'%r'", f"('%s' ~ {OTHER})", "('%s' | safe)")),
    *(f"'{{}}{{!r}}'.format(t, {name})" for name in "tmln"),
    *(f"t.replace('a', {OTHER})", f"(l + [{OTHER}]) | join", "t.join(l * 2)", "m.join(l * 2)"),
    *("t * 2", "m * 2", "t[1:]", "m[1:]", "l + l", "l * 9", "l[:]", "{'a': t} | string", "t is upper"),
    *("namespace()[t]", "range[t]", "[t, t] | sort", "[t, t] | unique | list", "[t, t] | map('upper') | list"),
]


@pytest.mark.parametrize("operation", COPIES)
def test_no_operation_takes_memory_that_it_did_not_ask_for(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for as much as three times that, for a moment."""
    told = 0

    def telling(self: budget.Budget, size: int) -> None:
        nonlocal told
        told += size

    monkeypatch.setattr(budget.Budget, "make", telling)
    template = "{% set x = " + operation + " %}"
    for letters in LETTERS:
        text = letters * (200_000 // len(letters))
        given = {"t": text, "m": Markup(text), "l": [text], "n": [[text]]}
        with contextlib.suppress(LlamaWebError):
            render_template(template, given)  # compiled once
        told = 0
        tracemalloc.start()
        with contextlib.suppress(LlamaWebError):
            render_template(template, given)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 3 * told + 50_000, (letters, most, told)


LARGE = {"a": 2**2047, "b": 2**4094, "c": 2**4095}
NUMBERS = ["2 ** 2048", "a * a", "b + b", "b - 1", "b * 1", "7 % b"]
NUMBERS += ["1 ** 9999999", "0 ** 9999999", "(-1) ** 9999999", "2 ** -9999", "2.0 ** 900"]
TOO_LONG = ["2 ** 2049", "(-2) ** 2049", "a * (2 * a)", "c + 1", "1 - c", "c * 2", "c // 2"]


@pytest.mark.parametrize("number", NUMBERS)
def test_whole_numbers_have_up_to_4096_bits(number: str) -> None:
    value = eval(number, {}, LARGE)
    assert render_template(f"{{{{ ({number}) == value }}}}", {**LARGE, "value": value}) == "True"


@pytest.mark.parametrize("number", TOO_LONG)
def test_whole_numbers_that_may_have_more_are_refused(number: str) -> None:
    assert refusal(f"{{{{ ({number}) > 0 }}}}", **LARGE) == "it counts with numbers that are too long"


def refusal(template: str, **variables: Any) -> str:
    """Why, without what all such sentences begin and end with."""
    with pytest.raises(LlamaWebError) as error:
        render_template(template, variables)
    before, reason, after = re.split("messages: |; change", str(error.value))
    assert before == "The model's chat template cannot be applied to these "
    assert after == " the messages or prompt the model without chat."
    return reason


LONG = "a" * 10_001
REFUSED = {
    "{{ t % 1 }}": "it fills places that are too wide, or in a way that is not known here",
    "{{ '%1000d' % 1 }}": "it fills places that are too wide, or in a way that is not known here",
    "{{ '%*d' % (1, 1) }}": "it fills places that are too wide, or in a way that is not known here",
    "{{ t.format() }}": "it fills places of a text that is too long",
    "{{ '{:1000}'.format(1) }}": "it fills a place that is too wide",
    "{{ '{a}'.format_map([1]) }}": "format_map() takes a dict",
    "{{ t.rstrip(t * 27) }}": "it searches too long a text",
    "{{ t | trim(t * 27) }}": "it searches too long a text",
    "{{ [[1]] | sum(start=[]) }}": "it sums what are no numbers",
    "{{ 1.5 | round(1001) }}": "it rounds to too many digits",
    "{{ t | int }}": "it reads a number that is too long",
    "{{ 'a' is divisibleby(2) }}": "it divides what is no number",
    "{{ [].append(1) }}": "access to attribute 'append' of 'list' object is unsafe.",
    "{{ strftime_now('%9999d') }}": "it writes the time in too long a way",
    "{{ strftime_now('a' * 65) }}": "it writes the time in too long a way",
    "{% include 'a' %}": "it is made of several templates, or for a web page (line 1)",
    "\n{% extends 'a' %}": "it is made of several templates, or for a web page (line 2)",
    "{{ raise_exception('no roles') }}": "no roles",
    "{% set ns = namespace(x=namespace()) %}": "it keeps a Namespace in a namespace",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "it calls itself without end",
    "{{ 'a' * 20000000 }}": "it builds something too long",
    "{{ t() }}": "str is not safely callable",
    "{{ (1)() }}": "int is not safely callable",
    "{{ t.encode() }}": "str.encode is not safely callable",
    "{{ (t | safe).format(1) }}": "Markup.format is not safely callable",
    "{{ {'a': 1}.keys().isdisjoint([1]) }}": "dict_keys.isdisjoint is not safely callable",
    "{{ {'a': 1}.items() - [1] }}": "unsupported operand type(s) for -: 'dict_items'",
    "{{ {'a': 1}.keys() - [1] }}": "unsupported operand type(s) for -: 'dict_keys'",
}


OTHER_ARGUMENTS = "it calls a filter, a test or a function with other arguments than it takes"
NO_LOOP = "it leaves a loop where there is none (line 1)"
# What Python would say in the names of jinja2's functions, or of the code that a template becomes.
REFUSED |= {
    **dict.fromkeys(
        (
            *("{{ [] | groupby }}", "{{ [] | join(1, 2, 3) }}", "{{ t | replace }}", "{{ t | upper(1) }}"),
            *("{{ t | indent(1, 2, 3, 4, 5) }}", "{{ x | default(1, 2, 3, 4) }}", "{{ [] | unique(1, 2, 3) }}"),
            *("{{ 1 is odd(2) }}", "{{ 1 is eq }}", "{{ 1 is divisibleby }}", "{{ 1 is divisibleby(1, 2) }}"),
            *(
                "{{ range() }}",
                "{{ range(1, 2, 3, 4) }}",
                "{{ dict(1, 2) }}",
                "{{ joiner(1, 2) }}",
                "{{ joiner(x=1) }}",
            ),
            *("{{ raise_exception() }}", "{{ strftime_now() }}", "{{ strftime_now(x=1) }}", "{{ namespace(1, 2) }}"),
            *("{{ t.center() }}", "{{ t.upper(1) }}", "{{ t.upper(x=1) }}", "{{ t.count() }}", "{{ {}.get() }}"),
            *("{{ dict(*1) }}", "{{ dict(**1) }}", "{{ dict(a=1, **{'a': 2}) }}", "{{ dict(**{1: 2}) }}"),
        ),
        OTHER_ARGUMENTS,
    ),
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}": "macro 'f' takes not more than 1 argument(s)",
    "{% macro f(a) %}{% endmacro %}{{ f(b=2) }}": "macro 'f' takes no keyword argument 'b'",
    "{% macro f(a, b, a) %}{% endmacro %}{{ f() }}": "it has several arguments named 'a' (line 1)",
    "\n{% call(a, a) f() %}{% endcall %}": "it has several arguments named 'a' (line 2)",
    "{{ f(a=1, b=2, a=3) }}": "it has several arguments named 'a' (line 1)",
    "{{ t | replace(old=1, old=2, new=3) }}": "it has several arguments named 'old' (line 1)",
    "\n{% break %}": NO_LOOP.replace("1", "2"),
    "{% continue %}": NO_LOOP,
    "{% for i in [] %}{% else %}{% break %}{% endfor %}": NO_LOOP,
    "{% for i in [] %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}": NO_LOOP,
    "{% for i in [] %}{% call f() %}{% break %}{% endcall %}{% endfor %}": NO_LOOP,
    "{% for i in [] %}{% block b %}{% break %}{% endblock %}{% endfor %}": NO_LOOP,
    "{% for i in [] %}" * 21 + "{% endfor %}" * 21: "it is nested too deep (line 1)",
    "{{ 2.0 ** 99999 }}": "it counts with numbers that are too large",
    "{{ 10 ** 400 / 3 }}": "it counts with numbers that are too large",
    "{{ (1e308 * 10) | int }}": "it counts with numbers that are too large",
    "{{ 1 // 0 }}": "it divides by zero",
    "{{ 1 is divisibleby(0) }}": "it divides by zero",
    "{{ '{}'.format() }}": "it asks for an item that is not there",
    "{{ 1.5 | tojson(indent=1) | round }}": "it does something with a value that is not of the kind for it",
    "{{ nothing | tojson }}": "it does something with a value that is not of the kind for it",
    "{{ [1]['a':] }}": "it does something with a value that is not of the kind for it",
    "{{ " + "9" * 1001 + " }}": "it has a number that is too large (line 1)",
    "{% if 0 %}" + "{% elif 0 %}" * 4900 + "{% endif %}": "it is nested too deep (line 1)",
}


@pytest.mark.parametrize("template", REFUSED)
def test_what_is_refused_is_told_in_words(template: str) -> None:
    assert refusal(template, t=LONG) == REFUSED[template].removesuffix(".")


ALLOWED = {
    "{{ (t ~ '%s') % '' == t }}": "True",
    "{{ (t ~ '{}').format('') == t }}": "True",
    "{{ ('a' * 16384).strip('b' * 16384) | length }}": "16384",
    "{{ ('%999d' % 1) | length }}": "999",
    "{{ '{:999}'.format(1) | length }}": "999",
    "{{ '{a}{b:>3}{c!r}'.format(a=1, b='x', c='y') }}": "1  x'y'",
    "{{ '{0[a]}'.format({'a': 1}) }}": "1",
    "{{ '%(a)s and %(b)s' % {'a': 1, 'b': 2} }}": "1 and 2",
    "{{ '%s and %s' % ('a', [1]) }}": "a and [1]",
    "{{ [3, 4] | sum(start=1) }}": "8",
    "{{ [{'a': 3}, {'a': 4}] | sum('a') }}": "7",
    "{{ [{'a': 3}, {'a': 4}] | sum(attribute='a') }}": "7",
    "{{ 1.26 | round(1) }}": "1.3",
    "{{ 'a-b-c'.rsplit('-', 1) }}": "['a-b', 'c']",
    "{{ 'a-b-c'.split('-', maxsplit=1) }}": "['a', 'b-c']",
    "{{ ['a', 'b', 'a'].count('a') }}{{ ['a', 'b'].index('b') }}": "21",
    "{{ {'a': 1}.get('b', 2) }}": "2",
    "{{ {'a': [1, '<\u00e4']} | tojson }}": '{"a": [1, "<\u00e4"]}',
    "{{ {'b': '\u00e4', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}": '{"a": 1, "b": "\\u00e4"}',
    "{{ [1, 2] | tojson(indent=1) }}": "[\n 1,\n 2\n]",
    "{{ [1, 2] | tojson(separators=('', ':')) }}": "[12]",
    "{{ strftime_now('%%') }}": "%",
    "{{ ('<' | safe) + '<' }}": "<&lt;",
    "{{ 'a' + 'b' * 2 + 'c' }}": "abbc",
    "{{ [1] + [2] }}{{ 2 * [1] }}": "[1, 2][1, 1]",
    "{% for i in [1] %}" * 20 + "x" + "{% endfor %}" * 20: "x",
    "{% for i in [1, 2] %}{% for j in [1] %}{% break %}{% endfor %}{{ i }}{% break %}{% endfor %}": "1",
    "{% for i in [1] %}{% for j in [] %}{% else %}x{% break %}{% endfor %}y{% endfor %}": "x",
    "{% for i in [1] %}{% set x %}{% filter trim %}{% continue %}{% endfilter %}{% endset %}{% endfor %}": "",
    "{% for i in [1] %}{% macro f() %}{% for j in [1] %}{% break %}{% endfor %}{% endmacro %}x{% endfor %}": "x",
    "{{ " + "9" * 1000 + " // 10 ** 999 }}": "9",
}


@pytest.mark.parametrize("template", ALLOWED)
def test_what_is_within_bounds_is_as_python_and_jinja2_have_it(template: str) -> None:
    assert render_template(template, {"t": "a" * 9_998}) == ALLOWED[template]
