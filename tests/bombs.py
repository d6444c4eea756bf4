"""Chat templates that want to freeze or kill whoever renders them, by their kinds, and messages that do.

`BOMBS` are refused; `HEAVY` ones are so or else give their text, as long as it is soon. Each stands for a kind: one
operation that takes long or makes something huge, many that are small, or something so deep that recursion ends Python.
"""

from __future__ import annotations

from typing import Any


def loop(body: str, n: int = 90_000) -> str:
    return f"{{% for i in range({n}) %}}{body}{{% endfor %}}"


def grow(step: str, start: str = "'x'", n: int = 90_000) -> str:
    """ns.x goes through a step again and again."""
    return f"{{% set ns = namespace(x={start}) %}}" + loop(f"{{% set ns.x = {step} %}}", n) + "{{ ns.x }}"


LONG = "'a' * 8000000"
MANY = "(range(100000) | list)"


# Whole numbers that have the same place in a dict, here or in the page.
PRIME = "((2**61 - 1) * (2**31 - 1))"
PLACE = f"range(0, {PRIME} * 99000, {PRIME})"


def chain(sign: str, word: str = "1", n: int = 5_000) -> str:
    return "{{ " + sign.join([word] * n) + " }}"


def nested(start: str, end: str, n: int = 2_000) -> str:
    return start * n + end * n


def kept(step: str) -> str:
    """Many of what is made of a long text, all at once."""
    before = "{% set a = " + LONG + " %}{% macro f() %}{{ varargs | length }}{% endmacro %}"
    return before + "{% macro f2() %}{{ a }}{% endmacro %}{{ f(" + ", ".join([step] * 150) + ") }}"


BOMBS: dict[str, str] = {
    # the depth of the source
    **{f"5000 times {sign}": chain(sign) for sign in ("+", "-", "~", "*", "**", "//", "%", "/", " and ", " or ")},
    **{f"5000 times {sign}": chain(sign) for sign in ("==", "<", " in ", " not in ", " if 1 else ", "[0].a", "|int+")},
    "5000 filters": "{{ 1" + "|string" * 5_000 + " }}",
    "5000 tests": "{{ 1" + " is true" * 5_000 + " }}",
    "5000 calls": "{{ f" + "()" * 5_000 + " }}",
    "5000 attributes": "{{ a" + ".a" * 5_000 + " }}",
    "5000 items": "{{ a" + "[0]" * 5_000 + " }}",
    "5000 slices": "{{ a" + "[:1]" * 5_000 + " }}",
    "5000 not": "{{ " + "not " * 5_000 + "1 }}",
    "5000 minus": "{{ " + "- " * 5_000 + "1 }}",
    "brackets": "{{ " + nested("(", ")").replace("()", "(1)") + " }}",
    "lists": "{{ " + nested("[", "]") + " }}",
    "dicts": "{{ " + nested("{1:", "}").replace(":}", ":1}") + " }}",
    "brackets in a set": "{% set x = " + nested("[", "]") + " %}",
    "brackets that do not end": "{{ " + "(" * 100_000,
    "conditions": "{{ " + nested("(1 if ", " else 1)").replace("if  else", "if 1 else") + " }}",
    "ifs": nested("{% if 1 %}", "{% endif %}"),
    "elses": nested("{% if 0 %}{% else %}", "{% endif %}"),
    "fors": nested("{% for i in [1] %}", "{% endfor %}"),
    "macros": "".join(f"{{% macro m{i}() %}}" for i in range(2000)) + "{% endmacro %}" * 2000,
    "calls": "{% macro f() %}{{ caller() }}{% endmacro %}" + nested("{% call f() %}", "{% endcall %}"),
    "set blocks": nested("{% set x %}", "{% endset %}"),
    "filter blocks": nested("{% filter trim %}", "{% endfilter %}"),
    "withs": nested("{% with a = 1 %}", "{% endwith %}"),
    "generations": nested("{% generation %}", "{% endgeneration %}"),
    "blocks": "".join(f"{{% block b{i} %}}" for i in range(2000)) + "{% endblock %}" * 2000,
    "a million letters": "x" * 1_000_000,
    "a long list": "{{ [" + "1," * 60_000 + "] }}",
    "many ifs": "{% if x %}a{% endif %}" * 9_000,
    "many names": "".join(f"{{% set v{i} = 1 %}}" for i in range(9_000)),
    "tuples of names": "{% set " + nested("(", ")").replace("()", "(a,)") + " = 1 %}",
    "5000 loops' ors": "{% for i in [1] if " + "1 or " * 5_000 + "1 %}{% endfor %}",
    "5000 defaults": "{% macro f(a=" + "1+" * 5_000 + "1) %}{% endmacro %}",
    "elifs": "{% if 0 %}" + "{% elif 0 %}" * 20_000 + "{% endif %}",
    "some elifs": "{% if 0 %}" + "{% elif 0 %}" * 3_000 + "{% endif %}hi",
    "elifs in elifs": nested("{% if 0 %}" + "{% elif 0 %}" * 100, "{% endif %}", 30),
    # the depth of values
    "nested lists": grow("[ns.x]"),
    "nested tuples": grow("(ns.x,)"),
    "nested dicts": grow("{1: ns.x}"),
    "nested dicts by name": grow("dict(a=ns.x)"),
    "nested dicts by pairs": grow("dict([(1, ns.x)])"),
    "nested lists by a filter": grow("ns.x | batch(2) | list", "[1]"),
    "nested lists by slices": grow("ns.x | slice(1) | list", "[1]"),
    "nested lists by groups": grow("ns.x | groupby(0) | list", "[[1]]"),
    "nested lists by pairs": grow("{1: ns.x}.items() | list"),
    "nested pairs": grow("{1: ns.x} | dictsort"),
    "nested pairs by items": grow("{1: ns.x} | items | list"),
    "nested lists by map": grow("ns.x | map('batch', 2) | map('list') | list", "[[1]]"),
    "nested lists by a default": grow("[none] | map('default', ns.x, true) | list"),
    "nested lists by first": grow("[[]] | map('first') | map('default', ns.x) | list"),
    "nested lists by a fill": grow("[1] | batch(2, ns.x) | list"),
    "nested lists by an attribute": grow("[{}] | map(attribute='a', default=ns.x) | list"),
    "nested maps": grow("ns.x | map('string')", "[1]", 2_000) + loop("", 90_000) * 12,
    "nested cyclers": grow("cycler(ns.x)"),
    "nested joiners": grow("joiner(ns.x)"),
    "nested namespaces": grow("namespace(x=ns.x)"),
    "nested namespaces by a dict": grow("namespace({'x': ns.x})"),
    "a chain of namespaces": "{% set h = namespace(p=0) %}"
    + loop("{% set n = namespace() %}{% set n.p = h.p %}{% set h.p = n %}"),
    "a chain of namespaces from the top": "{% set h = namespace(p=namespace()) %}"
    + loop("{% set n = namespace() %}{% set p = h.p %}{% set p.p = n %}{% set h.p = n %}"),
    "nested methods": grow("[ns.x].count"),
    "nested methods by map": grow("[ns.x] | map(attribute='count') | list", "[1]"),
    "nested formats": grow("'{}'.format"),
    "nested arguments": "{% set ns = namespace(x=1) %}{% macro f() %}{% set ns.x = varargs %}{% endmacro %}"
    + loop("{{ f(ns.x) }}"),
    "nested keywords": "{% set ns = namespace(x=1) %}{% macro f() %}{% set ns.x = kwargs %}{% endmacro %}"
    + loop("{{ f(a=ns.x) }}"),
    "nested macros": "{% set ns = namespace(x=1) %}{% macro f(p) %}{% macro g() %}{{ p }}{% endmacro %}"
    "{% set ns.x = g %}{% endmacro %}" + loop("{{ f(ns.x) }}"),
    "nested callers": "{% set ns = namespace(x=1) %}{% macro f(p) %}{% set ns.x = caller %}{% endmacro %}"
    + loop("{% set p = ns.x %}{% call f(p) %}{{ p }}{% endcall %}"),
    "a loop that is kept": "{% set ns = namespace(x=1) %}" + loop("{% set ns.x = [loop, ns.x] %}"),
    "a namespace of itself": "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}",
    "a namespace in a list of itself": "{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}{{ ns }}",
    "lists of two": grow("[ns.x, ns.x]"),
    "lists of two, compared": grow("[ns.x, ns.x]", "1", 40) + "{{ ns.x == ns.x[0] }}",
    "dicts of two": grow("{1: ns.x, 2: ns.x}"),
    # calls within calls
    "a macro of itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two macros of each other": "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro in a loop of itself": "{% macro f() %}{% for i in [1] %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}",
    "a macro in lists of itself": "{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}",
    "a caller of itself": "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}"
    "{% endcall %}{% endmacro %}{{ g() }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(50) }}",
    "a loop of itself": "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a wide loop of itself": "{% for i in range(9) recursive %}{{ loop(range(9)) if loop.depth < 30 }}{% endfor %}",
    "a block of itself": "{% block b %}{{ self.b() }}{% endblock %}",
    "maps of maps": "{{ 'a' | map(" + ",".join(["'map'"] * 5_000) + ") | list }}",
    "selects of selects": "{{ ['a'] | select('in', " + ",".join(["['a']"] * 5_000) + ") | list }}",
    "places in places": "{{ ('{:' * 3000 ~ '}' * 3000).format(1) }}",
    # long texts
    "a product": "{{ 'x' * 999999999 }}",
    "a product from behind": "{{ 999999999 * 'x' }}",
    "a product by less than none": "{{ 'x' * -9 * -999999999 }}{{ [1] * 999999999 }}",
    "a product of lists": "{{ [1, 2] * 99999999 }}",
    "a product of lists from behind": "{{ 99999999 * [1, 2] }}",
    "a product of tuples": "{{ (1, 2) * 99999999 }}",
    "doubled texts": grow("ns.x + ns.x"),
    "doubled texts by ~": grow("ns.x ~ ns.x"),
    "doubled lists": grow("ns.x + ns.x", "[1]"),
    "doubled tuples": grow("ns.x + ns.x", "(1,)"),
    "doubled texts by products": grow("ns.x * 2"),
    "doubled lists by products": grow("2 * ns.x", "[1]"),
    "doubled by a block": "{% set x = 'x' %}{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}" + grow("f(ns.x)"),
    "doubled by replace": grow("ns.x | replace('x', 'xx')"),
    "doubled by the method replace": grow("ns.x.replace('x', 'xx')"),
    "doubled by replacing nothing": grow("ns.x.replace('', 'xx')"),
    "doubled by join": grow("[ns.x, ns.x] | join(ns.x)"),
    "doubled by the method join": grow("ns.x.join(['a', 'b', 'c'])"),
    "doubled by escape": grow("ns.x | escape | string ~ '&'", "'&'"),
    "doubled by escapes that add up": grow("(ns.x | safe) + '&' | string | e ~ ns.x", "'&'"),
    "doubled by %": grow("'%s%s' % (ns.x, ns.x)"),
    "doubled by % with names": grow("'%(a)s%(a)s' % {'a': ns.x}"),
    "doubled by the filter format": grow("'%s%s' | format(ns.x, ns.x)"),
    "doubled by format": grow("'{0}{0}'.format(ns.x)"),
    "doubled by format with names": grow("'{a}{a}'.format(a=ns.x)"),
    "doubled by format_map": grow("'{a}{a}'.format_map({'a': ns.x})"),
    "doubled by string": grow("[ns.x, ns.x] | string"),
    "doubled by tojson": grow("[ns.x, ns.x] | tojson"),
    "doubled by tojson alone": grow("ns.x | tojson", "'\"'"),
    "doubled by indent": grow("ns.x | indent(9, true)", "'x\\n' * 9"),
    "doubled by a wide indent": grow("ns.x | indent(ns.x, true)", "'x\\n' * 9"),
    "doubled by upper": grow("'ß' * 9 ~ ns.x | upper ~ ns.x", "'ß'"),
    "a wide center": "{{ 'x' | center(2000000000) }}",
    "a wide method center": "{{ 'x'.center(2000000000) }}",
    "a wide ljust": "{{ 'x'.ljust(2000000000) }}",
    "a wide rjust": "{{ 'x'.rjust(2000000000, 'é') }}",
    "a wide zfill": "{{ 'x'.zfill(2000000000) }}",
    "wide tabs": "{{ ('\\t' * 100000).expandtabs(100000) }}",
    "wide tabs by name": "{{ '\\t'.expandtabs(tabsize=2000000000) }}",
    "a wide %d": "{{ '%2000000000d' % 1 }}",
    "a wide %s by a star": "{{ '%*d' % (2000000000, 1) }}",
    "a wide name": "{{ '%(a(b)c)2000000000d' % {'a(b)c': 1} }}",
    "a precise %f": "{{ '%.2000000000f' % 1.5 }}",
    "a wide filter format": "{{ '%2000000000d' | format(1) }}",
    "a wide test": "{{ '%2000000000d' is divisibleby 1 }}",
    "an odd text": "{{ '%2000000000d' is odd }}",
    "a wide place": "{{ '{:>2000000000}'.format(1) }}",
    "a wide place from its arguments": "{{ '{:>{}}'.format(1, 2000000000) }}",
    "a wide place of a map": "{{ '{a:2000000000}'.format_map({'a': 1}) }}",
    "a precise place": "{{ '{:.2000000000f}'.format(1.5) }}",
    "a wide place by map": "{{ ['{:>2000000000}'] | map(attribute='format') | map('string') | list }}",
    "many places": "{{ ('{0}' * 3000).format(" + LONG + ") }}",
    "many places of %": "{{ ('%(a)s' * 2000) % {'a': " + LONG + "} }}",
    "a wide indent": "{{ 'x' | indent(2000000000, true) }}",
    "a wide indent of JSON": "{{ [1] | tojson(indent=2000000000) }}",
    "a long indent of JSON": "{{ [[1]] | tojson(indent='x' * 9000000) }}",
    "long separators of JSON": "{{ (range(9999) | list) | tojson(separators=('x' * 99999, ':')) }}",
    "a wide batch": "{{ [1] | batch(2000000000, 0) | list }}",
    "many slices": "{{ [1] | slice(2000000000) | list }}",
    "many slices with a fill": "{{ [1] | slice(2000000000, 0) | list }}",
    "a long end": "{% set s = 'x' * 9000000 %}{{ s | truncate(300, end=s ~ s) }}",
    "a wide range": "{{ range(2000000000) | list }}",
    "spread ranges": loop("{{ dict(*[range(100000)]) }}"),
    "a long text of one letter": "{% set s = " + LONG + " %}" + loop("{{ s }}"),
    "a long block": "{% set s = " + LONG + " %}{% set t %}" + loop("{{ s }}") + "{% endset %}",
    "a long macro": "{% set s = 'x' * 9000 %}{% macro f() %}" + loop("{{ s }}") + "{% endmacro %}{{ f() | length }}",
    "a long filter block": "{% set s = 'x' * 9000 %}{% filter trim %}" + loop("{{ s }}") + "{% endfilter %}",
    "a long call": "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}" + loop("x" * 9_000) + "{% endcall %}",
    "a long date": "{{ strftime_now('%Y' * 1000000) }}",
    "a wide date": "{{ strftime_now('%2000000000Y') }}",
    "long lists that are kept": grow("ns.x + ['é' * 1000000 ~ i]", "[]"),
    "long texts that are kept": grow("ns.x ~ ' ' ~ i"),
    "letters of a long text": "{{ (" + LONG + ") | list }}",
    "words of a long text": "{{ ('a ' * 4000000).split() | length }}",
    "parts of a long text": "{{ ('a,' * 4000000).split(',') | length }}",
    "parts of a long text from behind": "{{ ('a,' * 4000000).rsplit(',') | length }}",
    "lines of a long text": "{{ ('a\\n' * 4000000).splitlines() | length }}",
    "a loop over a long text": "{% for c in " + LONG + " %}{% endfor %}",
    # copies
    **{
        f"copies by {name}": kept(name) for name in ("a | safe", "a ~ '\U0001f600'", "a + '\U0001f600'", "a | safe | e")
    },
    **{
        f"copies by {name}": kept(name)
        for name in ("(a | safe)[1:]", "range[a]", "namespace()[a]", "a | title", "f2()")
    },
    "copies by map": "{% set x = 'x' * 160000 %}{% set y = ([x] * 30000) | map('safe') | list %}",
    "sums that are written": "{% set a = '\U0001f600' * 1000 %}" + loop("{{ a + a }}"),
    "sums in calls": "{% set a = '\U0001f600' * 1000 %}{% macro f(n) %}{% if n %}"
    + "{{ f(n - 1"
    + ", a + a" * 3_000
    + ") }}{% endif %}{% endmacro %}{{ f(50) }}",
    "signs as JSON": "{{ ('\x01' * 8000000) | tojson | length }}",
    "wide signs as JSON": "{{ ['\x01' * 2700000, '\U0001f600'] | tojson | length }}",
    "wide signs as text": "{{ ['\x01' * 4000000, '\U0001f600'] | string | length }}",
    "wide signs that are joined": "{{ [['\x01' * 4000000, '\U0001f600']] | join | length }}",
    "letters that become three": "{{ ('\u0390' * 4000000) | upper | length }}",
    "letters that are escaped": "{{ (('%s' | safe) % ('&' * 4000000)) | length }}",
    # large numbers
    "a power": "{{ 9 ** 999999 }}",
    "towers": grow("ns.x ** 64", "9"),
    "a tower": "{{ 9**64**64**64 }}",
    "a power of a power": "{{ (2 ** 4000) ** (2 ** 4000) }}",
    "a small power": "{{ 9 ** -(10 ** 400) }}{{ 1.5 ** (10 ** 400) }}",
    "long numbers as JSON": "{{ ([2 ** 2047 * 2 ** 2047] * 100000) | tojson | length }}",
    "long numbers as text": "{{ ([2 ** 2047 * 2 ** 2047] * 60000) | string | length }}",
    "long numbers that are joined": "{{ ([2 ** 2047 * 2 ** 2047] * 100000) | join | length }}",
    "long numbers in places": "{{ ('%s' % ([2 ** 2047 * 2 ** 2047] * 50000,)) | length }}",
    "products of numbers": grow("ns.x * ns.x", "9"),
    "sums of numbers": grow("ns.x + ns.x", "9"),
    "a long hexadecimal": "{{ 0x" + "f" * 200_000 + " * 3 }}",
    "a long hexadecimal text": "{{ ('f' * 8000000) | int(0, 16) }}",
    "a long decimal": "{{ " + "9" * 200_000 + " }}",
    "a long decimal text": "{{ ('9' * 4000) | int | string | length }}",
    "a long fraction": "{{ ('9' * 8000000) | float }}",
    "a text of too many": "{{ 'x' * 10 ** 300 }}",
    "a round number": "{{ 5 | round(-2000000000) }}",
    "a round number by name": "{{ 5 | round(precision=2000000000, method='floor') }}",
    "a wide center of a large number": "{{ 'x' | center(10 ** 400) }}",
    # many small steps, or some that are long
    "loops in loops": loop(loop("")),
    "loops in loops over lists": "{% set x = " + MANY + " %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "sorts": loop("{% set x = range(100000) | sort %}"),
    "sorts backwards": loop("{% set x = " + MANY + " | sort(reverse=true) | first %}"),
    "sums of lists": "{{ ([[1] * 1000] * 1000) | sum(start=[]) | length }}",
    "sums": loop("{{ range(100000) | sum }}"),
    "sums by map": loop("{{ ([[1] * 1000] * 1000) | map('sum') | list | length }}"),
    "in": "{% set x = " + MANY + " %}" + loop("{% if -1 in x %}{% endif %}"),
    "in a range": loop("{% if 'a' in range(100000) %}{% endif %}"),
    "the test in": "{% set x = " + MANY + " %}" + loop("{% if -1 is in x %}{% endif %}"),
    "in a long text": "{% set x = " + LONG + " %}" + loop("{% if 'b' in x %}{% endif %}"),
    "long texts compared": "{% set x = "
    + LONG
    + " %}{% set y = x ~ 'a' %}{% set z = x ~ 'b' %}"
    + loop("{% if y < z %}{% endif %}"),
    "long texts compared by a test": "{% set x = "
    + LONG
    + " %}{% set y = x ~ 'a' %}{% set z = x ~ 'b' %}"
    + loop("{% if y is lt(z) %}{% endif %}"),
    "lists compared": "{% set x = " + MANY + " %}{% set y = x + [1] %}" + loop("{% if x + [2] == y %}{% endif %}"),
    "slices": "{% set x = " + LONG + " %}" + loop("{% set y = x[1:] %}"),
    "slices backwards": "{% set x = " + MANY + " %}" + loop("{% set y = x[::-1] %}"),
    "long keys": "{% set x = [1] * 100000 %}" + loop("{% set y = {}[(x | map('string') | join,)] %}"),
    "found from behind": "{{ (" + LONG + ").rfind('b' ~ 'a' * 1000000) }}",
    "split from behind": "{{ (" + LONG + ").rsplit('b' ~ 'a' * 1000000) }}",
    "stripped of many": "{{ (" + LONG + ").strip('b' * 1000000 ~ 'a') | length }}",
    "trimmed of many": "{{ (" + LONG + ") | trim('b' * 1000000 ~ 'a') | length }}",
    "counted": "{% set x = " + LONG + " %}" + loop("{{ x.count('ab') }}"),
    "replaced": "{% set x = " + LONG + " %}" + loop("{{ x | replace('ab', '') | length }}"),
    "lowered": "{% set x = " + LONG + " %}" + loop("{{ x | lower | length }}"),
    "titled": "{% set x = 'a b ' * 2000000 %}" + loop("{{ x | title | length }}"),
    "sorted keys": "{% set x = {} %}{% set d = dict("
    + MANY
    + " | batch(2)) %}"
    + loop("{% set x = d | dictsort | length %}"),
    "keys in one place": f"{{% set x = dict({PLACE} | batch(2) | list) %}}",
    "names in one place": f"{{% set x = namespace({PLACE} | batch(2) | list) %}}",
    "items in one place": f"{{% set x = {PLACE} | unique | list %}}",
    "pairs in one place": "{% set x = dict(["
    + ", ".join(f"range({i} * {PRIME}, {i} * {PRIME} + 2)" for i in range(1600))
    + "]) %}",
    "keys that are written": "{% set x = {" + ", ".join(f"{i * (2**31 - 1)}: 1" for i in range(1, 1600)) + "} %}",
    "fractions as keys": loop("{% set x = {i + 0.5: 1} %}"),
    "tuples as keys": loop("{% set x = {(i, i): 1} %}"),
    "unique": loop("{{ " + MANY + " | unique | list | length }}"),
    "grouped": loop("{{ ([{'a': 1}] * 9000) | groupby('a') | length }}"),
    "a long path": "{{ ([{}] * 90000) | map(attribute='a' ~ '.a' * 90000) | list | length }}",
    "a long path of a sort": "{{ ([{}] * 90000) | sort(attribute='a' ~ '.a' * 90000) | length }}",
    "mapped": loop("{{ " + MANY + " | map('string') | list | length }}"),
    "selected": loop("{{ " + MANY + " | select('odd') | list | length }}"),
    "as JSON": "{% set x = " + MANY + " %}" + loop("{{ x | tojson | length }}"),
    "as JSON with indents": "{% set x = " + MANY + " %}" + loop("{{ x | tojson(indent=2) | length }}"),
    "as text": "{% set x = " + MANY + " %}" + loop("{{ x | string | length }}"),
    "shown": "{% set x = " + MANY + " %}" + loop("{{ x }}"),
    "shown namespaces": "{% set ns = namespace(x=" + MANY + ") %}" + loop("{{ ns }}"),
    "lengths of loops": loop("{% for x in range(100000) %}{{ loop.length }}{% break %}{% endfor %}"),
    "changed": "{% set x = " + MANY + " %}" + loop("{{ loop.changed(x) }}"),
    "cycled": "{% set x = " + MANY + " %}" + loop("{{ cycler(*x).next() }}"),
    "joined": "{% set x = ['ab'] * 100000 %}" + loop("{{ x | join(',') | length }}"),
    "copies": "{% set x = " + MANY + " %}" + loop("{% set y = x.copy() %}"),
    "dates": loop("{{ strftime_now('%c') }}") * 9 + loop(loop("{{ strftime_now('%c') }}")),
    "texts of places": loop("{{ ('{0}' * 3000).format(i) | length }}"),
    "escaped": "{% set x = '&' * 900000 %}" + loop("{{ x | e | length }}"),
    "many calls": "{% macro f() %}{% endmacro %}" + loop(loop("{{ f() }}")),
    "many operators": loop("{{ i + 1 - 1 }}" * 1_500),
    "many texts": loop("{% set a = 'a' ~ i %}" * 1_000),
    "raised text": "{{ raise_exception('x' * 9000000) }}",
    "raised lines": "{{ raise_exception('x\\n' * 4000000) }}",
    "raised list": "{{ raise_exception([[1], 'a']) }}",
    "raised nothing": "{{ raise_exception() }}",
    # what is not to be had
    "lipsum": "{{ lipsum(n=2000000000) }}",
    "pprint": "{{ [1] | pprint }}",
    "urlize": "{{ 'www.a.b ' * 100000 | urlize }}",
    "wordwrap": "{{ 'a b ' * 100000 | wordwrap(1) }}",
    "xmlattr": "{{ {'a': 1} | xmlattr }}",
    "attr": "{{ 'x' | attr('center') }}",
    "a method of bytes": "{{ 'x'.encode().hex() }}",
    "a translation": "{{ 'x'.translate({120: 'x' * 9000000}) }}",
    "keys of a dict": "{{ {}.fromkeys(range(100000)) }}",
    "a number's bytes": "{{ (1).to_bytes(2000000000, 'big') }}",
    "dicts' keys less others": "{{ {1: 2}.keys() - [1] }}",
    "an include": "{% include 'x' %}",
    "an import": "{% import 'x' as x %}",
    "a parent": "{% extends 'x' %}",
    "autoescape": "{% autoescape true %}{{ '&' }}{% endautoescape %}",
}

HEAVY: dict[str, str] = {
    "nested undefined": grow("[ns.x.nothing]"),
    "nested undefined names": grow("({}[(ns.x,)],)"),
    "a wide range of arguments": "{% macro f() %}{{ varargs | length }}{% endmacro %}{{ f(*range(100000)) }}" * 40,
    "many statements": loop("{% if 1 %}{% endif %}" * 1_500),
    "many undefined": loop("{{ {}.b }}" * 400, 1_000),
    "as deep as may be": grow("[ns.x]", "1", 60),
    "undefined things of undefined things": grow("ns.x.nothing | default([1])", "1", 9_000),
    "many messages": "{% for m in messages %}{{ m.content }}{% endfor %}" * 50,
    "a long text, once": "{% set x = " + LONG + " %}{{ x[:1] }}",
    "many lists": "{% set ns = namespace(x=[]) %}" + loop("{% set ns.x = ns.x + [i] %}", 1_000),
    "brackets that are few": "{{ " + nested("(", ")", 20).replace("()", "(1)") + " }}",
    "blocks that are few": nested("{% if 1 %}", "{% endif %}", 30),
    "elifs that are few": "{% if 0 %}" + "{% elif 0 %}" * 299 + "{% elif 1 %}hi{% endif %}",
    "elifs in elifs that are few": nested("{% if 0 %}" + "{% elif 0 %}" * 10, "{% endif %}", 30) + "hi",
    **{f"many times {link}": ("{{ x" + link * 60 + " }}") * 150 for link in ("|string", "|trim")},
    "many times not": ("{{ " + "not " * 60 + "x }}") * 300,
    "many lists in lists": ("{{ " + nested("[", "]", 24) + " }}") * 380,
    "a long sum": chain("+", "1", 110),
    "calls that are few": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "a loop in itself, some times": "{% for i in [1] recursive %}{{ loop([1]) if loop.depth < 50 }}{% endfor %}",
    "callers that are few": "{% macro f(n) %}{{ caller() }}{% endmacro %}{% macro g(n) %}{% call f(n) %}"
    "{{ g(n - 1) if n else '' }}{% endcall %}{% endmacro %}{{ g(18) }}",
}


def deep(depth: int, kind: type = list) -> Any:
    """Lists in lists, or dicts in dicts."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def message_bombs(depth: int = 50_000) -> dict[str, tuple[str, dict[str, Any]]]:
    """A template, and the messages, tools or documents that are too much for it."""
    user = {"role": "user", "content": "Hi"}
    ring: dict[str, Any] = {"role": "user", "content": "Hi"}
    ring["self"] = ring
    whole, each = "{{ messages }}", "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    double: Any = [1]
    for _ in range(60):
        double = [double, double]
    return {
        "deep message": (each, {"messages": [{**user, "x": deep(depth)}]}),
        "deep message as text": (whole, {"messages": [{**user, "x": deep(depth, dict)}]}),
        "deep message compared": (
            "{{ messages[0].x == messages[1].x }}",
            {"messages": [{**user, "x": deep(depth)}, {**user, "x": deep(depth)}]},
        ),
        "deep message sorted": ("{{ messages[0].x | sort | first }}", {"messages": [{**user, "x": deep(depth)}]}),
        "deep tool": ("{{ tools | tojson }}", {"messages": [user], "tools": [{"a": deep(depth, dict)}]}),
        "deep tool with indents": (
            "{{ tools | tojson(indent=4) }}",
            {"messages": [user], "tools": [{"a": deep(depth)}]},
        ),
        "deep document": ("{{ documents | string }}", {"messages": [user], "documents": [{"a": deep(depth)}]}),
        "ring": (whole, {"messages": [ring]}),
        "ring as JSON": (each, {"messages": [ring]}),
        "doubled": (whole, {"messages": [{**user, "x": double}]}),
        "doubled, compared": ("{{ messages[0].x == messages[0].x[0] }}", {"messages": [{**user, "x": double}]}),
        "long content": (whole, {"messages": [{**user, "content": "x" * 40_000_000}]}),
        "long contents": (each, {"messages": [{**user, "content": "x" * 9_000_000}] * 200}),
        "many messages": ("{% for m in messages %}{{ m.role }}{% endfor %}", {"messages": [user] * 1_500_000}),
    }


def everything(depth: int = 50_000) -> dict[str, tuple[str, dict[str, Any]]]:
    """All of them, each with what `render_chat` is given besides the template."""
    user = {"messages": [{"role": "user", "content": "Hi"}]}
    return {name: (template, user) for name, template in (BOMBS | HEAVY).items()} | message_bombs(depth)
