"""What operators, filters, tests, methods and attributes give is what they give in jinja2's own sandbox, in its words
where they fail."""

from __future__ import annotations

import re
from typing import Any

import pytest
from markupsafe import Markup

from llamaweb.chat.template import render_template
from llamaweb.errors import LlamaWebError
from tests.conversations import jinja2s


def split(table: str) -> list[str]:
    """What stands apart by two spaces or by lines."""
    return re.split(r"\n|  +", table.strip())


ROWS = [{"role": "user", "n": 2}, {"role": "system", "n": 1}, {"role": "User", "n": 3}]
VALUES: dict[str, Any] = {
    **{"none": None, "true": True, "whole": -7, "zero": 0, "fraction": 2.567, "range": range(4)},
    **{"no text": "", "text": "a b-<\u00fc>\nC d", "letters": "a%sb", "safe": Markup("<b>&"), "digits": " 12 "},
    **{"numbers": [3, 1, 2, 1], "words": ["b", "A", "a"], "no list": [], "tuple": (1, 2), "mixed": ["1", "ff", 7.5]},
    **{"dict": {"b": 1, "A": 2, "a": 0}, "rows": ROWS},
}
OPERATORS = split("+  -  *  /  //  %  **  ~  ==  !=  <  >  <=  >=  in  and  or  not in")
FILTERS = split(
    r"""
capitalize  lower  upper  title  wordcount  dictsort  dictsort(true)  dictsort(by='value')
dictsort(false, 'value', true)  dictsort(reverse=true)  dictsort(by='x')  groupby('role')
groupby('role', case_sensitive=true)  groupby(attribute='zz', default='q')  max  min  max(attribute='n')
min(true, 'role')  sort  sort(true)  sort(reverse=true)  sort(attribute='n')  sort(false, true, 'role')
unique | list  unique(true) | list  unique(attribute='role') | list  e  escape  center  center(9)  center(width=12)
indent  indent(2)  indent(2, true)  indent('>', true, true)  indent(width=3, first=true, blank=true)  join
join(', ')  join(d='-')  join('|', 'role')  join(attribute='n')  replace('a', 'x')  replace('', '-')
replace('b', 'yy', 1)  replace(old='a', new='<')  truncate  truncate(3)  truncate(3, true)
truncate(3, true, '…', 0)  truncate(length=4, end='', leeway=0)  batch(2) | list  batch(3, 'z') | list
batch(linecount=2, fill_with=0) | list  slice(2) | list  slice(3, 'z') | list  float  float(1.5)  float(default='x')
int  int(3)  int(base=16)  int(0, 16)  map('upper') | list  map('string') | list  map(attribute='role') | list
map(attribute='zz', default=5) | list  map(attribute='role.x') | list  map('default', 3) | list  map('int', 9) | sum
reject | list  select | list  select('gt', 1) | list  select('in', [1, 'a']) | list  rejectattr('n') | list
rejectattr('role', 'equalto', 'user') | list  selectattr('n') | list  selectattr('n', 'gt', 1) | list
selectattr('role', '==', 'user') | list  selectattr | list  items | list  list  reverse | list
reverse | string | length > 0  abs  round  round(1)  round(1, 'floor')  round(precision=2, method='ceil')
round(method='x')  sum  sum('n')  sum(attribute='n')  sum(start=10)  sum('n', 10)  count  d  d('z')
default('z', true)  default(default_value='q')  first  last  length  trim  trim('a d')  trim(chars='<')  safe
safe + '<'  string  string + '<'  format  format(1)  format('q', 'r')  format(a=1)  tojson  tojson(indent=2)
tojson(indent='-')  tojson(ensure_ascii=true)  tojson(sort_keys=true)  tojson(separators=(',', ':'))
tojson(true, 1)  tojson(separators=none, sort_keys=none)  upper | lower  list | join | length
slice(slices=2, fill_with=0) | list  map(attribute='n') | reject('odd') | list  map('trim', 'a') | list
map('replace', 'a', 'b') | list  select('defined') | map('default', none) | list  batch(-1) | list  float | int
default(v, boolean=true)  selectattr('zz', 'defined') | list  rejectattr('n', 'odd') | list
"""
)
TESTS = split(
    r"""
v is boolean  v is defined  v is false  v is float  v is integer  v is iterable  v is mapping  v is none
v is number  v is sequence  v is string  v is true  v is undefined  v is lower  v is upper  v is callable
v is escaped  v is sameas(v)  v is sameas(none)  v is eq(v)  v is equalto(2)  v is ne(1)  v is lt(2)
v is lessthan(v)  v is le(v)  v is gt(1)  v is greaterthan(v)  v is ge(2)  v is in([1,'a',none])  v is in(v)
[v] | select('==', 1) | list  [v] | select('!=', 1) | list  [v] | select('<', 1) | list
[v] | select('<=', 1) | list  [v] | select('>', 1) | list  [v] | select('>=', 1) | list  'upper' is filter
'nothing' is filter  'odd' is test  'zz' is test  v is not none  v is mapping and v
"""
)
DIVIDING = split("odd  even  divisibleby(3)  divisibleby(1.5)")
EXPRESSIONS = split(
    r"""
v.capitalize()  v.casefold()  v.lower()  v.swapcase()  v.title()  v.upper()  v.count('a')  v.count(1)  v.index(1)
v.endswith('x')  v.endswith(('x','d'))  v.find('b')  v.find('b', 2)  v.index('b')  v.removeprefix('a')
v.removesuffix('d')  v.startswith('a')  v.isalnum()  v.isalpha()  v.isascii()  v.isdecimal()  v.isdigit()
v.isidentifier()  v.islower()  v.isnumeric()  v.isprintable()  v.isspace()  v.istitle()  v.isupper()
v.partition('b')  v.rpartition('b')  v.lstrip()  v.lstrip('a ')  v.rstrip('d')  v.strip()  v.strip('ad')
v.rfind('b')  v.rindex('b')  v.center(30)  v.center(30, '*')  v.ljust(30)  v.rjust(30, '.')  v.zfill(30)  v.split()
v.split('b')  v.split('b', 1)  v.split(sep='b')  v.split(none, 1)  v.split(maxsplit=1)  v.rsplit()  v.rsplit('b', 1)
v.rsplit(sep='b', maxsplit=1)  v.splitlines()  v.splitlines(true)  v.splitlines(keepends=true)  v.expandtabs()
v.expandtabs(4)  v.expandtabs(tabsize=2)  v.join(['a', 'b'])  v.join('xy')  v.join([1])  v.replace('b', 'xx')
v.replace('', '-', 2)  v.copy()  v.get('a')  v.get('a', 5)  v.get('zz', 5)  v.items() | list  v.keys() | list
v.values() | list  v.append(1)  v.__class__  v['upper']()  v['keys'] is callable  v['upper'] is callable
'a' + 'b'  'a' + 'b' + 'c' + v  v['zz']  v.zz  v[0]  v[-1]  v[99]  v['a']  v.a  v[1:]
v[:-1]  v[::2]  v[::-1]  v[1.5]  v[none]  v[(1, 2)]  -v  +v  not v  (v, 1)  [v]  {'k': v}  {v: 1}  v | list | length
v.items  v ~ v  v if v  v if v else 'no'  v is none or v  v and 1  v + 1 - 1  v - 1  v % 2  v % 2 == 1  v + 'q'
'q' + v  'q{' + v + '}' + v  v + v  v + v + 1  1 + v  v.a + 'x'  v + [1]  1 < v < 9  v == v  v in [v]  'a' in v
1 in v  namespace(q=v).q  dict(a=v)  dict(v)  dict([v])  range(v)  range(v, 9)  range(9, 0, v)  cycler(v, 2).next()
cycler().next()  joiner(v)()  strftime_now('%%')
"""
)


def words(text: str) -> str:
    """Without addresses, and without where a class is from, which are not the same in both."""
    text = re.sub(r"'(?:\w+\.)*(\w+) object' has no", r"'\1' has no", text)
    return re.sub("0x[0-9a-f]+", "0x", text).replace("_Undefined", "Undefined")


def outcome(source: str, given: dict[str, Any]) -> str:
    try:
        return words(render_template(source, given))
    except LlamaWebError as error:
        return words(f"{type(error.__cause__).__name__}: {error.__cause__}")


def jinja2s_outcome(source: str, given: dict[str, Any]) -> str:
    try:
        return words(jinja2s(source, given))
    except Exception as error:  # whatever it raises is what ours is to raise
        return words(f"{type(error).__name__}: {error}")


def differing(expressions: list[str], givens: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], str, str]]:
    """Where the two are not the same, of all expressions and all that is given; one template holds them all, since
    reading it takes longer than rendering it."""
    parts = (f"{{% {'elif' if i else 'if'} case == {i} %}}{{{{ {e} }}}}" for i, e in enumerate(expressions))
    source = "".join(parts) + "{% endif %}"
    found = []
    for index, expression in enumerate(expressions):
        for given in givens:
            all_given = {**given, "case": index}
            ours, right = outcome(source, all_given), jinja2s_outcome(source, all_given)
            if ours != right:
                found.append((expression, given, ours, right))
    return found


EACH: list[dict[str, Any]] = [{"v": value} for value in VALUES.values()]
NOTHING: dict[str, Any] = {}


@pytest.mark.parametrize("operators", [OPERATORS[:9], OPERATORS[9:]])
def test_an_operator_gives_what_it_gives_in_jinja2(operators: list[str]) -> None:
    values = [value for name, value in VALUES.items() if name not in ("digits", "words", "mixed", "rows", "text")]
    pairs = [{"a": a, "b": b} for a in values for b in values]
    pairs += [{name: value} for name in "ab" for value in values]
    assert not differing([f"a {operator} b" for operator in operators], pairs)


@pytest.mark.parametrize("part", range(3))
def test_a_filter_gives_what_it_gives_in_jinja2(part: int) -> None:
    assert not differing([f"v | {name}" for name in FILTERS[part::3]], [*EACH, NOTHING])


def test_a_test_gives_what_it_gives_in_jinja2() -> None:
    assert not differing(TESTS, [*EACH, NOTHING])
    numbers = [{"v": value} for value in (0, 1, 2, 3, -3, 4.5, True)]
    assert not differing([f"v is {name}" for name in DIVIDING], numbers)


@pytest.mark.parametrize("part", range(2))
def test_a_method_an_attribute_and_an_item_are_what_they_are_in_jinja2(part: int) -> None:
    given = [{"v": value} for value in VALUES.values() if not isinstance(value, range)]
    assert not differing(EXPRESSIONS[part::2], [*given, NOTHING])


LOOPS = split(
    r"""
{% for i in v recursive %}{{ loop() }}{% endfor %}
{% for i in [1] recursive %}{{ loop([], i) }}{% endfor %}
{% for i in v recursive %}{{ loop(i) if i is sequence and i is not string }}{% endfor %}
{% for i in v %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.nextitem }}{{ loop([i]) }}{% endfor %}
{% for a, b in v %}{{ a }}{{ b }}{% endfor %}
{% for i in v if i %}{{ i }}{% else %}none{% endfor %}
{% for i in v[1:] %}{{ i }}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}
{% macro f(a, b=2) %}{{ a }}{{ b }}{{ caller(a) if caller }}{% endmacro %}{{ f(v) }}{{ f(b=v) }}{{ f(1, 2, 3) }}
{% macro f(a, b=2) %}{{ a }}{{ caller(a) }}{% endmacro %}{% call(x) f(v) %}{{ x }}{{ v }}{% endcall %}
{% macro f() %}{{ varargs }}{{ kwargs }}{{ f.name }}{{ f.arguments }}{% endmacro %}{{ f(v, a=v) }}
{% macro f() %}{{ varargs }}{{ caller() }}{% endmacro %}{% call f(v) %}{{ v }}{% endcall %}
{% set ns = namespace(a=v, b=1) %}{% set ns.c = v %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns['a'] }}{{ ns._d }}
{% set ns = namespace() %}{% set ns.a, x = v %}{{ ns.a }}{{ x }}
{% set a, b = v %}{{ a }}{{ b }}
{% with a = v, b = 1 %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% set x %}<{{ v }}>{% endset %}{{ x }}{{ x | upper }}
{% filter upper %}{{ v }}{% endfilter %}
{% block a %}{{ v }}{% endblock %}{{ self.a() }}
{{ dict(*[[('a', v)]], **{'b': v}) }}{{ cycler(*[v]).next() }}
{% for i in range(3) %}{{ loop.cycle(v, 1) }}{{ loop.changed(v) }}{% endfor %}
{{ v.a.b.c }}  {{ v['a']['b'] }}  {{ zz.a }}  {{ zz }}  {{ v.zz() }}  {{ loop }}  {{ self }}
"""
)


@pytest.mark.parametrize("template", LOOPS)
def test_a_statement_gives_what_it_gives_in_jinja2(template: str) -> None:
    for given in [*EACH, NOTHING]:
        assert outcome(template, given) == jinja2s_outcome(template, given)
