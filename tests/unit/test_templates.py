"""Chat templates from strangers: what wants to freeze or kill Python is refused soon, and everything else works on."""

from __future__ import annotations

import itertools
import resource
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from llamaweb.chat import budget, render_chat
from llamaweb.errors import LlamaWebError
from tests.bombs import BOMBS, HEAVY, deep, message_bombs

USER = [{"role": "user", "content": "Hi"}]
MESSAGES = message_bombs()
REFUSED = "The model's chat template cannot be applied to these messages: "


def render(template: str, messages: Any = USER, **options: Any) -> str:
    return render_chat({"tokenizer.chat_template": template}, messages, **options)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What steps, sizes and depths do not bound goes on for ever, which is broken off after a minute."""

    def endless(*_: object) -> None:
        raise AssertionError("it does not end")

    monkeypatch.setattr(budget.time, "monotonic", lambda: 0.0)
    before = signal.signal(signal.SIGVTALRM, endless)
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_STEPS", 100_000)


def taken(template: str, messages: Any = USER, **options: Any) -> str:
    """The text, or the sentence; with at most 400 MB more than this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        words = render(template, messages, **options)
    except LlamaWebError as error:
        words = str(error)
        assert words.startswith(REFUSED) and words.endswith(".") and len(words) < 500
        assert "\n" not in words and "MemoryError" not in words
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 400_000
    return words


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_takes_too_much_is_refused_in_one_sentence(name: str, few_steps: None) -> None:
    assert taken(BOMBS[name]).startswith(REFUSED)


@pytest.mark.parametrize("name", HEAVY)
def test_a_template_that_takes_much_gives_its_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_SECONDS", 60)  # of a clock that goes on while others have the processor
    assert not taken(HEAVY[name]).startswith(REFUSED)


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_that_are_too_much_for_a_template_are_refused(name: str, few_steps: None) -> None:
    template, given = MESSAGES[name]
    assert taken(template, **given).startswith(REFUSED)


def test_a_template_is_stopped_by_the_clock_where_its_steps_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(budget.time, "monotonic", lambda: next(clock) * 0.25)
    for body in (
        "{{ i }}",
        "{% if messages == [i] %}{% endif %}",
        "{% set a = [i] %}",
        "{{ 'a' ~ i }}",
        "{{ i | string }}",
    ):
        with pytest.raises(LlamaWebError, match="longer than 2 seconds"):
            render(f"{{% for i in range(2000) %}}{body}{{% endfor %}}")
    assert render("{% for i in range(9) %}{{ i }}{% endfor %}") == "012345678"


STEPS = {
    "rounds of a loop": "{% for i in messages %}{% endfor %}",
    "rounds of its loops": "{% for i in [messages] recursive %}{{ loop(i) if i is not mapping }}{% endfor %}",
    "calls": "{% macro f() %}{% endmacro %}" + "{{ f() }}" * 1000,
    "methods": "{{ 'a'.upper() }}" * 1000,
    "filters": "{{ 'a' | upper }}" * 1000,
    "numbers": "{{ 1 + 1 }}" * 1000,
    "texts": "{{ 'a' ~ 1 }}" * 1000,
    "what is written": "{{ messages[0].content }}" * 1000,
    "slices": "{{ 'a'[:1] }}" * 1000,
    "products by less than none": "{{ 'a' * -999 }}" * 1000,
    "rounds of short loops": "{% for i in range(60) %}{% endfor %}" * 30,
    "what is written for no round": "{% for i in [] %}{% else %}" + "{{ messages[0].role }}" * 1000 + "{% endfor %}",
    "what a round writes": "{% for i in range(10) %}" + "{{ messages[0].role }}" * 100 + "{% endfor %}",
    "what a macro writes": "{% macro f() %}" + "{{ 'a'.upper() }}" * 50 + "{% endmacro %}" + "{{ f() }}" * 10,
    "what a caller writes": "{% macro f() %}{% for i in range(10) %}{{ caller() }}{% endfor %}{% endmacro %}"
    + "{% call f() %}"
    + "{{ messages[0].role }}" * 100
    + "{% endcall %}",
    "what a round of itself writes": "{% for i in [[[[[[[[[[1]]]]]]]]]] recursive %}"
    + "{{ messages[0].role }}" * 100
    + "{{ loop(i) if i is iterable }}{% endfor %}",
    "what a block writes": "{% block b %}" + "{{ messages[0].role }}" * 100 + "{% endblock %}" + "{{ self.b() }}" * 10,
}


@pytest.mark.parametrize("kind", STEPS)
def test_each_operation_is_a_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = USER * 1000
    monkeypatch.setattr(budget, "MAX_STEPS", 999)
    with pytest.raises(LlamaWebError, match="more than 999 steps"):
        render(STEPS[kind], messages)
    monkeypatch.setattr(budget, "MAX_STEPS", 9_999)
    for _ in range(11):  # of each rendering alone: they do not add up over a conversation
        render(STEPS[kind], messages)


# Each makes as many calls within calls as messages.
WITHIN = {
    "macros": "{% macro f(n) %}{{ f(n - 1) if n > 1 }}{% endmacro %}{{ f(messages | length) }}",
    "macros of each other": "{% macro f(n) %}{{ g(n - 1) if n > 1 }}{% endmacro %}"
    "{% macro g(n) %}{{ f(n - 1) if n > 1 }}{% endmacro %}{{ f(messages | length) }}",
    "callers": "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g(n) %}{% if n > 3 %}"
    "{% call f() %}{{ g(n - 3) }}{% endcall %}{% endif %}{% endmacro %}{{ g(messages | length) }}",
    "loops": "{% for i in [messages | length] recursive %}{{ loop([i - 1]) if i }}{% endfor %}",
    "maps": "{{ [['a']] | map('map', 'upper') | map('list') | list }}"
    "{% macro f(n) %}{{ f(n - 1) if n > 1 }}{% endmacro %}{{ f(messages | length) }}",
}


@pytest.mark.parametrize("kind", WITHIN)
def test_calls_within_calls_are_counted_and_not_left_to_pythons_stack(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In WebAssembly the stack is small, and who runs out of it is ended."""
    monkeypatch.setattr(budget, "MAX_CALLS", 12)
    render(WITHIN[kind], USER * 12)
    with pytest.raises(LlamaWebError, match="calls itself without end"):
        render(WITHIN[kind], USER * 15)


@pytest.mark.parametrize("wrapped", ["[ns.x]", "(ns.x,)", "{1: ns.x}", "dict(a=ns.x)", "[1, ns.x] | batch(1) | list"])
def test_lists_within_lists_are_counted_and_not_left_to_pythons_stack(
    wrapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MAX_NESTING", 12)
    template = "{% set ns = namespace(x=1) %}{% for m in messages %}{% set ns.x = " + wrapped + " %}{% endfor %}"
    each = 2 if "batch" in wrapped else 1
    render(template, USER * (10 // each))
    with pytest.raises(LlamaWebError, match="nests lists more than"):
        render(template, USER * (16 // each))


def test_steps_and_calls_begin_anew_after_a_template_was_stopped_in_the_middle() -> None:
    template = (
        "{% macro f(n) %}{% if messages[0].content == 'no' %}{{ raise_exception('no') }}{% endif %}{{ n }}{% if n %}"
    )
    template += "{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(9) }}"
    for _ in range(100):
        with pytest.raises(LlamaWebError, match="no"):
            render(template, [{"role": "user", "content": "no"}])
        assert render(template) == "9876543210"


def test_long_conversations_and_texts_are_no_bombs() -> None:
    chat = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " * 500} for i in range(4000)]
    text = render("{% for m in messages %}{{ m.role ~ ': ' ~ m.content | trim + '\n' }}{% endfor %}", chat)
    assert len(text) == sum(len(m["role"]) + 2 + len(m["content"]) for m in chat)
    assert len(render("{{ messages[0].content }}", [{"role": "user", "content": "ä" * 4_000_000}])) == 4_000_000
    tool = {"type": "function", "function": {"parameters": deep(50, dict)}}
    assert render("{{ tools | tojson }}", tools=[tool]).count("{") == 52


def test_letters_that_take_four_bytes_are_counted_as_such() -> None:
    assert render("{{ ('a' * 5000000) | length }}") == "5000000"
    with pytest.raises(LlamaWebError, match="too long"):
        render("{{ ('é' * 5000000) | length }}")


def test_eos_token_is_written_as_the_vocabulary_has_it() -> None:
    metadata = {
        "tokenizer.chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
        "tokenizer.ggml.tokens": [b"<unk>", b"<s>", b"</s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    assert render_chat(metadata, USER * 2) == "<s>Hi</s>Hi</s>"
    assert render_chat(metadata, USER, eos_token="<end>") == "<s>Hi<end>"
    assert render_chat({**metadata, "tokenizer.ggml.eos_token_id": 0}, USER) == "<s>Hi<unk>"
    assert render_chat({**metadata, "tokenizer.ggml.eos_token_id": 3}, USER) == "<s>Hi"


# What jinja2 says of them; each is led through the budget in a way of its own.
KEPT = {
    "{{ 'a' ~ 1 ~ none ~ [1, 'b'] }}": "a1None[1, 'b']",
    "{{ ('<' | safe) ~ '<' }}{{ ('<' | safe) + '<' }}": "<<<&lt;",
    "{{ '%s is %5.1f%%' % ('a', 2) }}|{{ '%(a)03d' % {'a': 7} }}|{{ '%s' | format([1]) }}": "a is   2.0%|007|[1]",
    "{{ '{0} {b:>4} {0!r:<4}|'.format('a', b=1) }}{{ '{a[x]}'.format_map({'a': {'x': 2}}) }}": "a    1 'a' |2",
    "{{ 1 < 2 < 3 }}{{ 3 > [1] | length == 1 }}{{ 'a' in 'ab' }}{{ 2 not in (1, i) }}": "TrueTrueTrueTrue",
    "{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 2, [3] %}{{ ns.a }}{{ ns.b[0] }}{{ ns }}": (
        "23<Namespace {'a': 2, 'b': [3]}>"
    ),
    "{{ 'abcdef'[1:-1:2] }}{{ [1, 2, 3][::-1] }}{{ (1, 2)[:1] }}": "bd[3, 2, 1](1,)",
    "{{ dict(*[[(1, 2)]], **{'a': 3}) }}": "{1: 2, 'a': 3}",
    "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, b=3) }}": "1(2,){'b': 3}",
    "{% macro f() %}[{{ caller('x') }}]{% endmacro %}{% call(a) f() %}{{ a }}{% endcall %}": "[x]",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}": "aba",
    "{% set j = joiner('|') %}{% for i in range(3) %}{{ j() }}{{ i }}{% endfor %}": "0|1|2",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{% endfor %}": (
        "TrueaFalseb1Truea1"
    ),
    "{% filter upper | replace('A', 'b') %}a{% endfilter %}{% set x | trim %} a {% endset %}{{ x }}": "ba",
    "{% for k, v in {'a': 1} | items %}{{ k }}{{ v }}{% endfor %}{{ {'b': 1, 'a': 2} | dictsort }}": (
        "a1[('a', 2), ('b', 1)]"
    ),
    "{{ [3, 1] | sort | join(',') }}{{ [1, 2] | map('string') | list }}{{ [1, 2] | select('odd') | first }}": (
        "1,3['1', '2']1"
    ),
    "{{ [{'a': 1}, {'a': 2}] | selectattr('a', 'gt', 1) | map(attribute='a') | sum }}": "2",
    "{% for g, l in [{'a': 1}] | groupby('a') %}{{ g }}{{ l }}{% endfor %}": "1[{'a': 1}]",
    "{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}": "[[1, 2], [3, 0]][[1, 2], [3]]",
    "{{ 'a b' | title }}{{ 'a b c' | wordcount }}{{ 'ab' | center(4) }}{{ 'a\nb' | indent(1) }}": "A B3 ab a\n b",
    "{{ 'x' * 3 }}{{ 2 * [1] }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 7 / 2 }}{{ -(3) }}{{ [1] + [2] }}": (
        "xxx[1, 1]3310243.5-3[1, 2]"
    ),
    "{{ 5 is odd }}{{ 6 is divisibleby 3 }}{{ 'a' is in ['a'] }}{{ 'a' is eq 'a' }}": "TrueTrueTrueTrue",
    "{{ 'a,b'.split(',') }}{{ ' a'.lstrip() }}{{ 'aXb'.partition('X') }}{{ 'a'.zfill(3) }}": (
        "['a', 'b']a('a', 'X', 'b')00a"
    ),
    "{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.items() | list }}{{ {'items': 1}['items'] }}{{ [1, 1].count(1) }}": (
        "2[('a', 1)]12"
    ),
    "{% block b %}x{% endblock %}{{ self.b() }}": "xx",
    "{{ messages[0].role + '{' + messages[0]['content'] + '}\\n' + \"'\" }}": "user{Hi}\n'",
    "{{ ('<' | safe) + '<' + messages[0].role }}{{ messages[0].role + ('<' | safe) + '&' }}": "<&lt;useruser<&amp;",
    "{{ 7 - 2 }}{{ -7 % 3 }}{{ 1.5 % 1 }}{{ true - 1 }}{{ 2 ** 70 % 7 }}{{ 1.5 + 1 }}{{ messages | length + 1 }}": (
        "520.5022.52"
    ),
    "{{ '%d' % 3 }}{{ [1] + [2] + [3] }}{{ (1, 2) + (3,) }}{{ 1 + 2 + messages | length }}": "3[1, 2, 3](1, 2, 3)4",
    "{{ {'keys': 1}['keys'] }}{{ {'a': {'b': 2}}.a.b }}{{ messages.a }}{{ {}.a }}{{ {'a': none}.a }}{{ {1: 2}[1] }}": (
        "12None2"
    ),
    "{{ {'keys': 1}.keys() | list }}": "['keys']",
    "{% set ns = namespace(a=1) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}{{ ns.b is defined }}": "11False",
    "{{ messages[0].nothing is defined }}{{ messages[0]['nothing'] is defined }}{{ {}['keys'] is callable }}": (
        "FalseFalseTrue"
    ),
    "{{ [1, 2] | map('string') | tojson }}{{ messages | map(attribute='role') | tojson(indent=1) }}": (
        '["1", "2"][\n "user"\n]'
    ),
    "{{ messages[0]['upper'] }}{{ 'a'['upper']() }}{{ messages[0].role.upper() }}{{ (messages | first)['role'] }}": (
        "AUSERuser"
    ),
    "{% if [] | select %}an iterator is true{% endif %}": "an iterator is true",
    "{{ 3.14159 | round(2) }}{{ '7' | int + 1 }}{{ 'f' | int(0, 16) }}{{ '1.5' | float }}{{ -1 | abs }}": "3.148151.51",
}


@pytest.mark.parametrize("added", ["'a' + 1", "1 + 'a'", "messages[0].role + 1", "messages[0].role + none + 'a'"])
def test_what_cannot_be_added_is_an_error_as_in_jinja2(added: str) -> None:
    with pytest.raises(LlamaWebError, match=r"(concatenate|unsupported operand)"):
        render("{{ " + added + " }}")


def test_what_is_added_or_read_as_deep_as_a_template_may_be_is_no_deeper_for_python() -> None:
    assert render("{{ " + "(1 + " * 23 + "1" + ")" * 23 + " }}") == "24"
    assert render("{{ " + "('a' + " * 23 + "messages[0].role" + ")" * 23 + " }}") == "a" * 23 + "user"
    inner: dict[str, Any] = {"x": 1}
    for _ in range(99):
        inner = {"x": inner}
    assert render("{{ messages[0]" + ".x" * 101 + " }}", [{"role": "user", "x": inner}]) == "1"
    assert render("{{ " + "1 - " * 110 + "1 }}") == "-109"


@pytest.mark.parametrize("template", KEPT)
def test_what_is_bounded_means_what_it_means_in_jinja2(template: str) -> None:
    assert render(template) == KEPT[template]
