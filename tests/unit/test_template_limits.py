"""The bounds of rendering chat templates, exactly: what is just within them is made, one more is refused in words.
Those of their text: test_template_source.py."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined
from markupsafe import Markup

from llamaweb.chat import budget, code, filters
from llamaweb.chat.budget import Budget, list_size, text_size
from llamaweb.chat.sandbox import Environment
from llamaweb.chat.template import render_template
from llamaweb.errors import LlamaWebError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which is what its last item says; a zero is put behind it at each look."""
    times = [0.0]

    def monotonic() -> float:
        times.insert(0, 0.0)
        return times[-1]

    monkeypatch.setattr(budget.time, "monotonic", monotonic)
    return times


def test_steps_are_taken_up_to_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MAX_STEPS", 100)
    left = Budget()
    for _ in range(97):
        left.take()
    left.take(3)
    assert left.steps == 0
    with pytest.raises(TemplateRuntimeError, match=r"^it takes more than 100 steps$"):
        left.take()
    left.start()
    assert (left.steps, left.calls) == (100, 0)
    with pytest.raises(TemplateRuntimeError, match=r"^it takes more than 100 steps$"):
        left.take(101)


def test_the_clock_is_looked_at_with_the_first_step_and_after_64_more(clock: list[float]) -> None:
    left = Budget()
    looks = []
    for step in range(1, 200):
        before = len(clock)
        left.take()
        if len(clock) > before:
            looks.append(step)
    assert looks == [1, 66, 131, 196]
    left.make(512 * 64)
    assert len(clock) == 2 + 5
    left.steps = 10
    left.take()
    assert left._look_at == 0  # what is left is less than what goes unread


def test_two_seconds_are_taken_and_no_more(clock: list[float]) -> None:
    clock[-1] = 5.0
    left = Budget()
    clock[-1] = 7.0
    left.take()
    clock[-1] = 7.001
    with pytest.raises(TemplateRuntimeError, match=r"^it takes longer than 2 seconds$"):
        left.take(65)


def test_calls_are_as_deep_as_sixty_and_each_is_a_step() -> None:
    left = Budget()
    for _ in range(budget.MAX_CALLS):
        left.enter()
    with pytest.raises(TemplateRuntimeError, match=r"^it calls itself without end$"):
        left.enter()
    left.leave()
    left.leave()
    left.enter()
    assert left.calls == 60 and left.steps == budget.MAX_STEPS - 62


def test_a_key_that_may_meet_all_others_takes_as_many_steps_as_there_are() -> None:
    left = Budget()
    for key in ("a", Markup("a"), 2**20 - 1, 1 - 2**20, True, None, Undefined()):
        assert left.key(key) is key
    assert left.steps == budget.MAX_STEPS
    for number, key in enumerate((2**20, -(2**20), 0.5, (1, 2), ())):
        before = left.steps
        assert left.key(key) is key
        assert before - left.steps == number + 1
    left.start()
    assert left.odd_keys == 0


@pytest.mark.parametrize("make", ["dict({})", "namespace({})", "{} | map('first') | unique | list"])
def test_pairs_whose_keys_may_meet_are_1400_at_most(make: str) -> None:
    def pairs(number: int) -> str:
        return "{% set x = " + make.format(f"(range(2**20, 2**20 + {2 * number}) | batch(2) | list)") + " %}"

    assert refusal(pairs(1300)) == ""
    assert refusal(pairs(1500)) == "it takes more than 1000000 steps"


def test_a_value_may_have_16_mib_and_costs_a_step_for_each_512_bytes() -> None:
    left = Budget()
    for size, steps in ((0, 1), (511, 2), (512, 4), (1024, 7), (16 << 20, 32_776)):
        left.make(size)
        assert budget.MAX_STEPS - left.steps == steps
    with pytest.raises(TemplateRuntimeError, match=r"^it builds something too long$"):
        left.make((16 << 20) + 1)


NESTED: Any = 1
for _ in range(budget.MAX_NESTING):
    NESTED = [NESTED]
SIZES: dict[str, tuple[Any, int]] = {
    "a text": ("a" * 9, 9),
    "other letters": ("\u00e9" * 9, 36),
    "a text marked as safe": (Markup("\u00e9"), 4),
    "a number": (1, 64),
    "the longest number with a place of its own": (2**192, 128),
    "a long number": (2**3000, 64 + 1000),
    "a fraction": (1.5, 64),
    "none": (None, 64),
    "true": (True, 64),
    "no list": ([], 64),
    "a list": (["a", "\u00e9", 1, None, 1.5, True], 64 * 7 + 5),
    "numbers of some lengths": ([2**192 - 1, 2**192, -(2**192)], 64 * 4 + 64 * 2),
    "a tuple": (("a", ("b",)), 64 * 3 + 1 + 64 * 2 + 1),
    "a dict": ({"a": "b", "\u00e9": "\u00e9"}, 64 * 3 + 2 * 4 + 1 + 4),
    "a dict of dicts": ({"a": {"b": {}}}, 64 * 2 + 1 + 64 * 2 + 1 + 64),
    "a dict with other keys": ({1: "a", (2, "b"): 1, "c": 1}, 64 * 4 + 64 + (64 * 3 + 1) + 1 + 1),
    "another dict": (OrderedDict(ab=[1]), 64 * 2 + 2 + 64 * 2),
    "keys": ({"a": 1}.keys(), 64 * 2 + 1),
    "values": ({"a": "bc"}.values(), 64 * 2 + 2),
    "items": ({"a": "bc"}.items(), 64 * 2 + 64 * 3 + 3),
    "a range": (range(9), 64 * 10),
    "a range in a list": ([range(9)], 64 * 2 + 64 * 10),
    "undefined": (Undefined(), 64),
    "undefined in a list": ([Undefined()], 64 * 3),
    "safe in a list": ([Markup("\u00e9")], 64 * 2 + 4),
    "as deep as may be": (NESTED, 64 * 128),
}


@pytest.mark.parametrize("kind", SIZES)
def test_the_size_of_a_value_is_that_of_all_that_is_in_it(kind: str) -> None:
    value, size = SIZES[kind]
    assert Budget().size(value) == size


def test_lists_and_dicts_that_are_long_are_told_before_they_are_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Budget, "make", lambda self, size: told.append(size))
    left = Budget()
    left.size([1] * 7)
    assert told == []
    left.size([1] * 8)
    left.size({str(i): [1] * 9 for i in range(8)})
    assert told == [576, 576, *[640] * 8]


@pytest.mark.parametrize(
    "value", [[NESTED], {"a": NESTED}, {(NESTED and (1,)): NESTED}, (NESTED,), {"a": NESTED}.values()]
)
def test_what_is_deeper_than_64_lists_is_refused(value: Any) -> None:
    with pytest.raises(TemplateRuntimeError, match=r"^it nests lists more than 64 deep$"):
        Budget().size(value)


def test_depth_is_counted_for_keys_too_and_from_where_it_begins() -> None:
    key: Any = ()
    for _ in range(budget.MAX_NESTING - 2):
        key = (key,)
    Budget().size({key: 1})
    with pytest.raises(TemplateRuntimeError, match="more than 64 deep"):
        Budget().size({(key,): 1})
    Budget().size([], budget.MAX_NESTING - 1)
    with pytest.raises(TemplateRuntimeError, match="more than 64 deep"):
        Budget().size([], budget.MAX_NESTING)


@pytest.mark.parametrize("value", [object(), [object()], {"a": object()}, iter([])])
def test_what_is_no_data_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(
        TemplateRuntimeError,
        match=r"^it uses a (object|list_iterator) where only texts, numbers, lists and dicts can be$",
    ):
        Budget().size(value)


def test_what_is_too_long_as_a_whole_is_refused_where_it_becomes_so() -> None:
    half = "a" * (8 << 20)
    assert Budget().size([half]) == (8 << 20) + 128
    for value in ([half, half], [[half], [half]], {"a": half, "b": half}, [[half]] * 1000, [[[half, half]]]):
        with pytest.raises(TemplateRuntimeError, match=r"^it builds something too long$"):
            Budget().size(value)


def test_sizes_of_texts_and_of_lists_alone() -> None:
    assert [text_size(text) for text in ("", "ab", "\u00e9b")] == [0, 2, 8]
    assert [list_size(items) for items in ([], [1, 2], "abc", range(3), {1: 2})] == [64, 192, 256, 256, 128]
    assert [list_size(items) for items in (None, 1, iter([1]))] == [0, 0, 0]


def refusal(template: str, **given: Any) -> str:
    """Why a template is refused; no words if it is rendered."""
    try:
        render_template(template, given)
    except LlamaWebError as error:
        return str(error.__cause__)
    return ""


DIGITS = "9" * filters.MAX_DIGITS
LONG_SEARCH = {"t": "a" * (1 << 14), "f": "b" * (1 << 14)}
EDGES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "digits of a fraction": ("{{ 1.5 | round(1000) }}", "{{ 1.5 | round(1001) }}", {}, "it rounds to too many digits"),
    "digits before it": ("{{ 1.5 | round(-1000) }}", "{{ 1.5 | round(-1001) }}", {}, "it rounds to too many digits"),
    "digits by name": (
        "{{ 1.5 | round(precision=1000) }}",
        "{{ 1.5 | round(precision=1001) }}",
        {},
        "it rounds to too many digits",
    ),
    "a long whole number": (
        "{{ t | int }}",
        "{{ (t ~ 9) | int }}",
        {"t": DIGITS},
        "it reads a number that is too long",
    ),
    "a long fraction": (
        "{{ t | float }}",
        "{{ (t ~ 9) | float }}",
        {"t": DIGITS},
        "it reads a number that is too long",
    ),
    "letters to strip": ("{{ t.strip(f) }}", "{{ (t ~ t).strip(f) }}", LONG_SEARCH, "it searches too long a text"),
    "letters to trim": ("{{ t | trim(f) }}", "{{ (t ~ t) | trim(f) }}", LONG_SEARCH, "it searches too long a text"),
    "letters from behind": ("{{ t.rfind(f) }}", "{{ t.rfind(f ~ 1) }}", LONG_SEARCH, "it searches too long a text"),
    "a split from behind": ("{{ t.rsplit(f) }}", "{{ t.rsplit(f ~ 1) }}", LONG_SEARCH, "it searches too long a text"),
    "a long time": (
        "{{ strftime_now('a' * 64) }}",
        "{{ strftime_now('a' * 65) }}",
        {},
        "it writes the time in too long a way",
    ),
    "places of a text": (
        "{{ ('a' * 9998 ~ '%s') % 1 }}",
        "{{ ('a' * 9999 ~ '%s') % 1 }}",
        {},
        "it fills places that are too wide, or in a way that is not known here",
    ),
    "places by format": (
        "{{ ('a' * 9998 ~ '{}').format(1) }}",
        "{{ ('a' * 9999 ~ '{}').format(1) }}",
        {},
        "it fills places of a text that is too long",
    ),
    "a text": ("{{ 'a' * 16777216 }}", "{{ 'a' * 16777217 }}", {}, "it builds something too long"),
    "a concatenation": ("{{ t ~ t }}", "{{ t ~ t ~ 1 }}", {"t": "a" * (8 << 20)}, "it builds something too long"),
    "a sum of texts": ("{{ t + t }}", "{{ t + t + '1' }}", {"t": "a" * (8 << 20)}, "it builds something too long"),
    "texts one after the other": (
        "{{ t }}{{ t }}",
        "{{ t }}{{ t }}1",
        {"t": "a" * (8 << 20)},
        "it builds something too long",
    ),
    "other letters": ("{{ t }}{{ t }}", "{{ t }}{{ t }}1", {"t": "\u00e9" * (2 << 20)}, "it builds something too long"),
}


@pytest.mark.parametrize("kind", EDGES)
def test_what_is_just_within_a_bound_is_made_and_one_more_is_not(kind: str) -> None:
    within, beyond, given, words = EDGES[kind]
    assert refusal(within, **given) == ""
    assert refusal(beyond, **given) == words


@pytest.mark.parametrize("call", ["dict(a=x)", "cycler(x)", "joiner(sep=x)", "namespace({'a': x})"])
def test_what_is_given_to_a_call_may_be_63_lists_deep(call: str) -> None:
    """It may be held within one more."""
    deep = NESTED[0] if "{" not in call else NESTED[0][0]
    assert refusal(f"{{% set y = {call} %}}", x=deep) == ""
    assert refusal(f"{{% set y = {call} %}}", x=[deep]) == "it nests lists more than 64 deep"


def test_what_cannot_be_multiplied_is_no_question_of_its_length() -> None:
    assert refusal("{{ t * t }}", t="a" * (9 << 20)) == "can't multiply sequence by non-int of type 'str'"


# Expressions, and what of them is not done in place but by a call of the environment.
IN_PLACE: dict[str, list[str]] = {
    "{{ s }}": [],
    "{{ i }}": ["shown"],
    "{{ s + s }}": [],
    "{{ s + '{a}' + s }}": [],
    "{{ 'x' + s + 'y' }}": [],
    "{{ long + s }}": [],
    "{{ long + s + 'x' + '1' }}": [],
    "{{ long + s + s }}": ["added"],
    "{{ i + s | length }}": ["added", "call_binop", "shown"],
    "{{ i + 1 }}": ["shown"],
    "{{ 1 + i }}": ["call_binop", "shown"],
    "{{ i + 1.5 }}": ["call_binop", "shown"],
    "{{ i - 1 }}": ["shown"],
    "{{ i - 0 }}": ["call_binop", "shown"],
    "{{ i - i }}": ["call_binop", "shown"],
    "{{ i % 2 }}": ["shown"],
    "{{ 7 % i }}": ["call_binop", "shown"],
    "{{ i - 1073741823 }}": ["shown"],
    "{{ i - 1073741824 }}": ["call_binop", "shown"],
    "{{ high - 1 }}": ["shown"],
    "{{ -high - 1 }}": ["shown"],
    "{{ (high + 1) - 1 }}": ["call_binop", "shown"],
    "{{ (-high - 1) - 1 }}": ["call_binop", "shown"],
    "{{ true - 1 }}": ["call_binop", "shown"],
    "{{ f - 1 }}": ["call_binop", "shown"],
    "{{ d.s }}": [],
    "{{ d['s'] }}": [],
    "{{ d.d.s }}": [],
    "{{ d.x }}": ["getattr", "shown"],
    "{{ d['x'] }}": ["getitem", "shown"],
    "{{ d[s] }}": ["getitem", "shown"],
    "{{ d.keys }}": ["getattr", "shown"],
    "{{ d['keys'] }}": ["shown"],
    "{{ l[0] }}": ["getitem"],
    "{{ l.s }}": ["getattr", "shown"],
    "{{ l['s'] }}": ["getitem", "shown"],
    "{{ d.l[0] + 'x' }}": ["getitem"],
    "{{ d" + ".d" * 16 + ".s }}": ["getattr"],
    "{{ d" + ".d" * 15 + ".s }}": [],
    "{{ d.s }}{{ d" + ".d" * 15 + ".s }}": [],
    "{{ d.s }}{{ d" + ".d" * 16 + ".s }}": ["getattr"],
    "{{ 'a' + 'b' + 'c' }}": ["call_binop", "call_binop"],
    "{{ d" + "['d']" * 16 + "['s'] }}": ["getitem"],
    "{{ d" + "['d']" * 15 + "['s'] }}": [],
    "{{ " + "('a' + " * 16 + "s" + ")" * 16 + " }}": [],
    "{{ " + "('a' + " * 17 + "s" + ")" * 17 + " }}": ["call_binop"],
    "{{ " + "(" * 16 + "i" + " - 1)" * 16 + " }}": ["shown"],
    "{{ " + "(" * 17 + "i" + " - 1)" * 17 + " }}": ["call_binop", "shown"],
}


@pytest.mark.parametrize("template", IN_PLACE)
def test_what_templates_do_most_is_done_in_place(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def recording(name: str) -> Any:
        method = getattr(Environment, name)

        def record(self: Any, *args: Any, **options: Any) -> Any:
            called.append(name)
            return method(self, *args, **options)

        return record

    d: dict[str, Any] = {"s": "t", "l": ["u"], "keys": 1}
    d["d"] = d
    high = code.SMALL - 1
    given = {"s": "b", "i": 7, "f": 1.5, "d": d, "l": ["u"], "high": high, "long": "a" * (code.SHORT - 2)}
    right = render_template(template, given)
    for name in ("shown", "added", "call_binop", "getattr", "getitem"):
        monkeypatch.setattr(Environment, name, recording(name))
    assert render_template(template, given) == right
    assert called == IN_PLACE[template]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("{}[(1, 2)].x", "'dict object' has no attribute 'tuple'"),
        ("{}[1].x", "dict object has no element 1"),
        ("{}[none].x", "dict object has no element None"),
        ("[].x.y", "'list object' has no attribute 'x'"),
        ("''.x.y", "'str object' has no attribute 'x'"),
        ("().x.y", "'tuple object' has no attribute 'x'"),
        ("1 .x.y", "'int object' has no attribute 'x'"),
        ("none.x.y", "'None' has no attribute 'x'"),
        ("1.5 .x.y", "'float' has no attribute 'x'"),
        ("namespace().x.y", "'Namespace' has no attribute 'x'"),
        ("range.x.y", "'function' has no attribute 'x'"),
        ("x.y", "'x' is undefined"),
        ("namespace()._x.y", "'Namespace' has no attribute '_x'"),
    ],
)
def test_what_is_undefined_is_told_without_the_object_that_has_it_not(expression: str, words: str) -> None:
    assert refusal("{{ " + expression + " }}") == words


def test_memory_that_there_is_not_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise MemoryError

    monkeypatch.setattr(Environment, "shown", full)
    with pytest.raises(LlamaWebError, match=r"messages: it takes more memory than there is; change"):
        render_template("{{ i }}", {"i": 1})


def test_a_list_that_is_indented_stays_as_it_is() -> None:
    given = ["a"]
    assert refusal("{{ l | indent }}", l=given) == "'list' object has no attribute 'splitlines'"
    assert given == ["a"]


def test_what_is_undefined_keeps_nothing_alive() -> None:
    """Else chains of these could be made that no depth tells of."""
    for value in ({"a": 1}, [1], (1,), "a", 7, None):
        kept = Environment().undefined(obj=value, name="x")._undefined_obj
        assert kept == type(value)() if value is not None else kept is None
    assert Environment().undefined(obj=object(), name="x")._undefined_obj is None
    assert Environment().undefined(name="a" * 100)._undefined_name == "a" * 100
    assert Environment().undefined(name="a" * 101)._undefined_name == "a" * 100 + "…"
    name: Any = (("a",),)
    assert Environment().undefined(obj={}, name=name)._undefined_name == "tuple"
