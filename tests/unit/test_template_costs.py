"""What each operation of a chat template costs, exactly: what it is about to make, in bytes, and its steps.

A table has an expression, and after two spaces what it tells the budget: 40 is a value of 40 bytes that is about to be
made or read, +1 a step. Five spaces or a new line are between two of them.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from markupsafe import Markup

from llamaweb.chat import code
from llamaweb.chat.budget import Budget
from llamaweb.chat.template import render_template

GIVEN: dict[str, Any] = {
    **{
        "t": "\u00e9" * 10,
        "s": "a" * 10,
        "big": "a" * 9000,
        "long": "\u00e9" * 129,
        "words": "a b\nc",
        "tabs": "\ta\t",
    },
    **{"l": ["\u00e9", "b"], "n": [1, 2, 3], "u": (1, 2), "rows": [{"a": 1}, {"a": 2}], "deep": [[1], ["a"]]},
    **{
        "d": {"k": "v", "\u00e9": [1]},
        "m": Markup("<b>"),
        "r": range(5),
        "z": None,
        "i": 7,
        "huge": 2**3000,
        "many": [1] * 9,
        "edge": "a" * 8189,
        "q": [[[]]],
        "k": "\u00e9" * 128,
    },
}
EXPRESSIONS = r"""
d[long]  516     'k' not in d  nothing     k not in l  197     'a' + 'b'  2     'a' + 'b' + 'c'  2 3
1 + 2  nothing     k == s  nothing     s in k  nothing     k is eq(s)  nothing     m + edge  40960
m + edge[1:]  8189 40955     s.replace(s, t)  50     s.strip(s)  10     s.rfind(t)  10     dict(a=many)  +1 640
cycler(many)  +1 640     cycler(1, many).next()  +1 640 +1     joiner(many)  +1 640     namespace(d)  +1
d.get('k', many)  640 +1     many.count(1)  640 640     many.index(1)  640 640     (u * 5).index(2)  960 704 704
s.startswith(('a', 'b'))  10     many.copy()  640     t | upper  120     s | lower  10     t | capitalize  120
s | title  320     t | wordcount  1280     rows | groupby('a')  454     n | max  256     n | min  256     n | sort  256
rows | sort(attribute='a')  454     n | unique  256 +3     s | e  50     t | escape  200     s | center  330
s | center(9)  111     t | center(width=9)  141     s | indent  55     t | indent(2)  132     s | indent('éé')  132
n | join  1024     l | join(', ')  205     l | join(d='é', attribute='x')  820     s | replace('a', 'bb')  30
s | replace('', 'é')  54 84     t | replace('é', '', 3)  40     s | truncate  13     t | truncate(3, true, 'é')  44
s | truncate(length=3, end='--', leeway=0)  12     n | batch(2)  512 +2
n | batch(linecount=-9, fill_with='é')  965 +1     n | slice(2)  512 +2     n | slice(slices=9)  961 +9
s | float  10     '12' | int  2     'é' | int(0, 16)  133     n | map('upper')  276 +1 1 1 1 +3
rows | map(attribute='a')  195 +1 +2     rows | map(attribute='ab', default='é')  201 +1 +2     n | select  256 +1 +3
n | select('in', [1, 2])  462 +1 192 192 192 +2     n | reject('odd')  268 +1 +1     rows | selectattr('a')  195 +1 +2
rows | rejectattr('a', 'eq', 1)  268 +1 +1     z | select  0 +1     d | items  192 +2     s | reverse  704
n | reverse  256 +3     i | abs  0     1.5 | round(2)  64     n | sum  256     rows | sum('a')  196
rows | sum(attribute='a', start=1)  260     n | list  256     s | list  704     r | list  384     d | list  192
n | map('string') | list  280 +1 +3 256     s | trim  10     t | trim  10     t | trim('é')  40
s | trim(chars='a')  10     n | trim  1024 9     d | dictsort  197     s | string  nothing     i | string  nothing
n | string  1024     deep | string  1796     n | map('string') | string  280 +1 +3 1036     n | safe  1024 9
s | safe  10     '%s' | format(s)  16040     '%(a)s' | format(a=s)  4561     s | tojson  60     n | tojson  1536
d | tojson  1974     d | tojson(indent=2)  2614     d | tojson(indent='é')  3254     d | tojson(ensure_ascii=true)  1974
d | tojson(sort_keys=true)  1974     d | tojson(separators=('é', ':'))  1999
n | map('string') | tojson  280 +1 +3 1554     n | map('string') | tojson(indent=1)  280 +1 +3 1810
s | default(t)  nothing     n | length  nothing     s is lower  nothing     s is eq(t)  nothing     long is eq(s)  516
n is in([n])  384 256 384     i is odd  nothing     s is string  nothing     s == t  nothing     long == s  516
n == u  256 192     i == 7  nothing     n == [1]  nothing     'a' in s  nothing     'k' in d  nothing     1 in n  256
long in d  516     s in t in l  nothing     long < long  516 516     s.upper()  10     t.count('é')  40
t.split()  168     s.split('a')  778     s.split('a', 1)  778     s.split(sep='a')  778     words.split()  261
words.rsplit()  261     t.rsplit('é')  808     words.splitlines()  197     words.splitlines(true)  197
t.center(20)  120     s.ljust(-5)  10     s.zfill(12)  58     s.rjust(12, 'é')  58     tabs.expandtabs()  67
tabs.expandtabs(0)  3     tabs.expandtabs(tabsize=3)  27     s.replace('a', 'é')  50     s.replace('', 'é')  54 84
s.replace('x', 'é', 1)  10     ', '.join(l)  206     t.join(['a'])  209     ''.join(d)  200     s.strip()  10
t.strip('é')  40     t.rfind('é')  40     s.find('a', 2)  10     n.count(1)  256     n.index(1)  256     u.count(1)  192
u.index(2)  192     n.copy()  256     d.copy()  192     d.get('k')  +1     d.get('k', [[1]])  256 +1     d.items()  +1
d.keys()  +1     d.values()  +1     m.upper()  15     m.replace('b', t)  215     s + s  nothing     t + s  nothing
m + s  +1     s + m  +1     big + big  18000     big + t  36040     n + n  512     i + 1  nothing     i - 1  nothing
i - i  +1     i * 3  +1     s * 3  30     3 * t  120     n * 2  512     s * -2  20     s * true  10     7 // 2  +1
7 / 2  +1     i % 2  nothing     i % i  +1     i ** 2  +1     1.5 ** 2  +1     '%s' % s  16040
'%s%s' % (s, t)  242 16200     '%(a)s' % {'a': s}  139 4561     '%(a)s%(a)s' % {'a': 'é'}  9074     s ~ t  80
s ~ 1 ~ n  1024 20     'a' ~ 'b'  2     s[1:]  10     t[::2]  40     n[1:]  256     u[:1]  192     r[1:]  384
s[0]  nothing     d['k']  nothing     d[u]  192     d[n]  256     [1, 2]  nothing     [s, n]  458     (s, 1)  202
{'a': s}  139     []  nothing     {}  nothing     dict(a=s)  +1     dict(**d)  192 +1     range(3)  +1
range(*n)  256 +1     cycler(1, s)  +1     cycler(1, s).next()  +1 +1     joiner(s)  +1     joiner(s)()  +1 +1
namespace(a=1)  +1     '{}'.format(s)  +1 +1 40 4010     '{0}{0!r:>9}'.format(t)  +1 +1 160 4040 +1 160 8088
'{a}'.format_map({'a': s})  139 +1 +1 40 4010     '{0[0]}'.format(n)  +1 +1 256 4064     strftime_now('%%')  +1
huge + 1  +1     [huge]  1128     [huge] | tojson  1128 6768
"""
STATEMENTS = r"""
{%for i in u%}{{s}}{{s}}{%endfor%}{%for i in q recursive%}{{loop(i)}}{%endfor%}  192 +6 +2 +1 +2 +1 0 0 0 40
{% macro f() %}{{ varargs | length }}{% endmacro %}{{ f(many) }}  +1 +1 +1 640 +1 1 1
{% macro f() %}{{ kwargs | length }}{% endmacro %}{{ f(a=many) }}  +1 +1 +1 640 +1 1 1
{% macro f(a) %}{{ a | length }}{% endmacro %}{{ f(many) }}{{ f(a=many) }}  +2 +1 +1 +1 1 +1 +1 +1 1 2
{% macro f() %}{{ kwargs }}{{ caller() }}{% endmacro %}{% call f(a=1) %}{% endcall %}  +1 +2 +1 516 +1 0 8 8
{% for i in [[[]], []] recursive %}{{ s }}{{ loop(i) }}{% endfor %}  192 448 +6 +1 +3 +1 0 10 +1 0 30 30
{{ s }}{% set x = range(3) %}{% set y = joiner(s) %}  +1 +1 +1 10
{% for i in [1] %}{% set x = many %}{% set y = dict(a=1) %}{{ range(i) }}{% endfor %}  +2 +1 +1 +1 11
{% set q = namespace() %}{% set q.a, q.b = u %}  +1 192 0
{% set q = namespace() %}{% set q.a = many %}{{ q }}  +1 +1 +1 640 46
{{ s }}  +1 10
{{ m }}  +1 +1 3 3
{{ i }}  +1 +1 1
{{ n }}  +1 +1 1024 9
{{ d.k }}  +1 1
{{ namespace(a=s) }}  +1 +1 +1 31
{{ r }}  +1 +1 11
{{ d.items() }}  +1 +1 +1 2840 144
{{ z }}  +1 +1 4
{% for i in n %}{% endfor %}  +3 0
{% for i in r %}{{ i }}{{ i }}{% endfor %}  384 +15 +1 +1 +1 +1 +1 +1 +1 +1 +1 +1 10
{% for k in d %}{% endfor %}  192 +2 0
{% for i in [] %}{% else %}{{ s }}{% endfor %}  +1 10
{% for i in range(70) %}{% endfor %}  +1 4544 +64 +6 0
{% for i in range(70) %}{{ s }}{% endfor %}  +1 4544 +64 +64 +12 700
{% for i in n | map('string') %}{% endfor %}  280 +1 +3 0 +3 0
{% for i in [[], []] recursive %}{{ loop(i) }}{% endfor %}  320 +4 +1 0 +1 0 0 0
{% for i in n %}{{ loop.cycle('a', s) }}{{ loop.changed(i) }}{% endfor %}  +9 +1 +1 +1 +1 +1 +1 +1 +1 +1 24
{% macro f() %}{% endmacro %}{{ f() }}  +1 +1 0 0
{% macro f(a) %}{{ a }}{{ a }}{% endmacro %}{{ f(s) }}  +1 +1 +2 20 20
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(n, a=s) }}  +1 +1 +2 +1 1536 +1 556 31 31
{% macro f() %}{{ caller(1) }}{% endmacro %}{% call(x) f() %}{{ x }}{{ x }}{% endcall %}  +1 +1 +1 +2 +1 +1 2 2 2
{% block b %}{{ s }}{{ s }}{% endblock %}{{ self.b() }}  +3 +1 +3 20 40
{% set x %}a{{ s }}{% endset %}  +1 11 0
{% filter upper %}a{{ s }}{% endfilter %}  +1 11 11 11
{% set q = namespace(a=n) %}{% set q.a = s %}  +1 0
{% if s %}{{ s }}{% endif %}  +1 10
{% set a, b = s, t %}  242 0
{% with a = s %}{{ a }}{% endwith %}  +1 10
{% generation %}{{ s }}{% endgeneration %}  +1 10
"""


def costs(table: str) -> dict[str, str]:
    return dict(line.split("  ") for line in re.split(r"\n| {5}", table.strip()))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the budget is told."""
    told: list[str] = []
    monkeypatch.setattr(Budget, "make", lambda self, size: told.append(str(size)))
    monkeypatch.setattr(Budget, "take", lambda self, steps=1: told.append(f"+{steps}") if steps else None)
    return told


def test_an_expression_tells_exactly_what_it_makes(told: list[str]) -> None:
    table = costs(EXPRESSIONS)
    parts = (f"{{% {'elif' if i else 'if'} case == {i} %}}{{% set x = {e} %}}" for i, e in enumerate(table))
    source = "".join(parts) + "{% endif %}"
    found = {}
    render_template(source, GIVEN)  # compiled once
    for index, expression in enumerate(table):
        told.clear()
        render_template(source, {**GIVEN, "case": index})
        assert told.pop() == "0"  # the text of it all
        assert told.pop(0) == f"+{11 * code.SUM}"  # sums of texts
        found[expression] = " ".join(told) or "nothing"
    assert found == table


@pytest.mark.parametrize(("statement", "cost"), costs(STATEMENTS).items())
def test_a_statement_tells_exactly_what_it_makes(statement: str, cost: str, told: list[str]) -> None:
    render_template(statement, GIVEN)  # compiled once
    told.clear()
    render_template(statement, GIVEN)
    assert " ".join(told) == cost


def test_a_round_that_writes_much_is_counted_by_itself(told: list[str]) -> None:
    template = "{% for i in r %}" + "{{ s }}" * 70 + "{% endfor %}"
    render_template(template, GIVEN)
    told.clear()
    render_template(template, GIVEN)
    assert told == ["384", "+355", "3500"]
    many = "{% for i in range(40) %}" + "{{ s }}" * 70 + "{% endfor %}"
    render_template(many, GIVEN)
    told.clear()
    render_template(many, GIVEN)
    assert told == ["+1", "2624", "+1136", "+1136", "+568", "28000"]
    few = "{% for i in r %}" + "{{ s }}" * 31 + "{% endfor %}"
    render_template(few, GIVEN)
    told.clear()
    render_template(few, GIVEN)
    assert told == ["384", "+160", "1550"]


@pytest.mark.parametrize(
    ("expression", "text", "cost"),
    [
        ("range(*v) | list", "[1, 2, 3]", "0 +2 +1 256"),
        ("v | list", "[1, 4]", "+2 192"),
        ("v | tojson", "[1, 4]", "+2 1152"),
        ("v | tojson(indent=1) | length", "10", "+2 1344"),
        ("v | sum", "5", "+2 192"),
        ("v | join(' ')", "1 4", "+2 775"),
        ("v | map('string') | join", "14", "+2 210 +1 +2 194"),
    ],
)
def test_what_a_caller_gives_item_by_item_is_counted_while_it_is_listed(
    expression: str, text: str, cost: str, told: list[str]
) -> None:
    template = f"{{% set x = {expression} %}}{{{{ x }}}}"
    render_template(template, {"v": iter((1, 4))})
    told.clear()
    assert render_template(template, {"v": (number for number in (1, 4))}) == text
    assert cost in " ".join(told)
    told.clear()
    assert render_template("{% for i in v %}{{ i }}{% endfor %}", {"v": (number for number in (1, 4))}) == "14"
    assert " ".join(told).endswith("0 +2 +4 +1 +1 2")


@pytest.mark.parametrize(
    ("inner", "sizes"),
    [
        ("s", [11, 12]),
        ("t", [44, 48]),
        ("m", [5 * 4, 5 * 5]),
        ("m + s", [5 * 4, 5 * 14, 5 * 15]),  # 'a' + m, and that + s
        ("[s]", [138, *[3 * 64] * 18]),
    ],
)
def test_what_is_added_too_deep_to_be_done_in_place_is_told_at_each_sum(
    inner: str, sizes: list[int], told: list[str]
) -> None:
    """A text marked as safe escapes what it is added to."""
    given = {**GIVEN, "m": Markup("<b>")}
    begin = "[] + " if inner == "[s]" else "'a' + "
    template = "{% set x = " + f"({begin}" * 18 + inner + ")" * 18 + " %}"
    render_template(template, given)
    told.clear()
    render_template(template, given)
    assert told.pop(0) == f"+{18 * code.SUM}"
    assert [int(size) for size in told if size != "+1"] == [*sizes, 0]


def test_items_are_listed_64_at_a_time(told: list[str]) -> None:
    for number, takes in ((63, ["+63"]), (64, ["+64"]), (130, ["+64", "+64", "+2"])):
        told.clear()
        assert render_template("{{ v | list | length }}", {"v": iter(range(number))}) == str(number)
        assert [told for told in told if told not in ("+1", "0")][:-2] == takes
