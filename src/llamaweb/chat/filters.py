"""The filters and tests that a chat template may use, each with the size of what it makes.

Those of jinja2 that templates of models use, and those that make no more than they are given. Left out are the ones for
web pages and for people who look at Python's objects (urlize, xmlattr, pprint, …).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from jinja2 import pass_context, pass_environment
from jinja2.exceptions import TemplateRuntimeError
from jinja2.filters import FILTERS, Markup, do_dictsort, do_mark_safe, ignore_case, make_attrgetter
from jinja2.runtime import Context, Undefined
from jinja2.tests import TESTS
from jinja2.utils import _PassArg

from llamaweb.chat.budget import ITEM, MAX_NESTING, SIMPLE, UNREAD, Budget, list_size, text_size, whole_size
from llamaweb.chat.methods import capitalized, lowered, percent, replaced, searched

MAX_DIGITS = 1000
"""Of a number that is read from a text or rounded; Python takes the square of it."""


# What a filter makes, in bytes, of a value of `size` bytes and its arguments, which are jinja2's.
def _same(size: int, value: Any, *args: Any, **options: Any) -> int:
    return size


def _each(size: int, value: Any, *args: Any, **options: Any) -> int:
    """Of each item, an attribute is found along its name."""
    names = sum([len(name) for name in (*args, *options.values()) if isinstance(name, str)])
    return size + list_size(value) // ITEM * names


def _escaped(size: int, value: Any) -> int:
    return 5 * size


def _words(size: int, value: Any) -> int:
    """A list of all words, or of what is between them."""
    return size * ITEM // 2


def _trimmed(size: int, value: Any, chars: Any = None) -> int:
    return searched(value, chars)


def _centered(size: int, value: Any, width: int = 80) -> int:
    return size + 4 * width


def _indented(size: int, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    if isinstance(value, list):
        raise AttributeError("'list' object has no attribute 'splitlines'")  # before jinja2 makes it longer
    if not isinstance(value, str):
        return size
    letters = len(width) if isinstance(width, str) else width
    wide = 4 if not value.isascii() or (isinstance(width, str) and not width.isascii()) else 1
    return wide * (len(value) + 1) * (1 + letters)


def _replaced(size: int, value: Any, old: Any, new: Any, count: int | None = None) -> int:
    return replaced(value, str(old), str(new))


def _joined(size: int, value: Any, d: Any = "", attribute: Any = None) -> int:
    if isinstance(value, str):  # whose letters are listed
        size += list_size(value)
    elif attribute is not None or not all(isinstance(item, str) for item in value):
        size *= 4
    return size + list_size(value) // ITEM * text_size(str(d))


def _truncated(
    size: int, value: Any, length: int = 255, killwords: bool = False, end: Any = "...", leeway: Any = None
) -> int:
    return whole_size((value, str(end))) if isinstance(value, str) else size


def _batched(size: int, value: Any, linecount: int, fill_with: Any = None) -> int:
    return size + list_size(range(abs(linecount)))


def _sliced(size: int, value: Any, slices: int, fill_with: Any = None) -> int:
    return size + list_size(range(abs(slices)))


def _number(size: int, value: Any, *args: Any, **options: Any) -> int:
    if any(isinstance(number, int) and abs(number) > MAX_DIGITS for number in (*args[:1], *options.values())):
        raise TemplateRuntimeError("it rounds to too many digits")
    return size


def _read(size: int, value: Any, *args: Any, **options: Any) -> int:
    if isinstance(value, str) and len(value) > MAX_DIGITS:
        raise TemplateRuntimeError("it reads a number that is too long")
    return size


def _sum(size: int, value: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, SIMPLE):
        raise TemplateRuntimeError("it sums what are no numbers")
    return _each(size, value, attribute)


_PLAIN = frozenset((str, *SIMPLE, list, tuple, dict))  # what is seen to be no iterator without a call
_MADE: type = type(iter([]))  # of items that are there

Estimate = Callable[..., int]
# Filters of a text, or of a value as it is printed.
_TEXTUAL: dict[str, Estimate] = {
    **dict.fromkeys(("lower", "upper"), lambda size, text: lowered(text)),
    "capitalize": lambda size, text: capitalized(text),
    **dict.fromkeys(("title", "wordcount"), _words),
    **dict.fromkeys(("e", "escape"), _escaped),
    **{"center": _centered, "replace": _replaced, "trim": _trimmed},
}
# Filters that read all of a value, however deep. A text goes in as it is, another value's size is taken as printed.
_DEEP: dict[str, Estimate] = {
    **dict.fromkeys(("groupby", "max", "min", "sort"), _each),
    **{"indent": _indented, "join": _joined, "truncate": _truncated},
    **{"batch": _batched, "slice": _sliced, "float": _read, "int": _read},
}
# Filters that go over a list's items, whatever these are.
_FLAT: dict[str, Estimate] = {
    **dict.fromkeys(("items", "reverse"), _same),
    **{"abs": _same, "round": _number, "sum": _sum},
}
# Filters that call a filter or a test, which is named, for each item: 'a' | map('map', 'map', …).
_CALLING = ("map", "reject", "rejectattr", "select", "selectattr")
_QUICK = ("count", "d", "default", "first", "last", "length")
_PLAIN_TESTS = (
    *("boolean", "callable", "defined", "escaped", "false", "filter", "float", "integer", "iterable", "mapping"),
    *("none", "number", "sameas", "sequence", "string", "test", "true", "undefined"),
)
_COMPARING = (
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lt", "ne"),
    *("lower", "upper"),
)
_DIVIDING = ("divisibleby", "even", "odd")


def filters(budget: Budget) -> dict[str, Any]:
    """The filters by their names."""
    return {
        **{name: FILTERS[name] for name in _QUICK},
        **{
            name: _guarded(budget, _plain(FILTERS[name]), estimate, size)
            for size, estimates in ((_printed, _TEXTUAL), (_whole, _DEEP), (_outer, _FLAT))
            for name, estimate in estimates.items()
        },
        **{name: _calling(budget, _plain(FILTERS[name])) for name in _CALLING},
        "list": partial(_list, budget),
        "dictsort": _dictsort(budget, _guarded(budget, FILTERS["dictsort"], _each, _whole)),
        "trim": _trim(budget, _guarded(budget, FILTERS["trim"], _trimmed, _printed)),
        "unique": _guarded(budget, _unique(budget), _each, _whole),
        "safe": partial(_safe, budget),
        "string": partial(written, budget),
        "format": lambda value, *args, **options: percent(budget, written(budget, value), options or args),
        "tojson": partial(_tojson, budget),
    }


def tests(budget: Budget) -> dict[str, Any]:
    """The tests by their names."""
    return {
        **{name: TESTS[name] for name in _PLAIN_TESTS},
        **{name: _comparing(budget, TESTS[name]) for name in _COMPARING},
        **{name: _dividing(TESTS[name]) for name in _DIVIDING},
    }


def written(budget: Budget, value: Any) -> str:
    """A value as text; texts as they are, a text marked as safe too."""
    if isinstance(value, str):
        return value
    if isinstance(value, SIMPLE):
        return str(value)
    size = 4 * budget.size(listed(budget, value))  # signs of a text that is printed as \x00
    budget.make(size)
    return budget.made(str(value), size)


def _safe(budget: Budget, value: Any) -> Markup:
    text = written(budget, value)
    budget.make(text_size(text))
    return do_mark_safe(text)


def listed(budget: Budget, value: Any) -> Any:
    """Another filter's items as a list; other values as they are."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is _MADE:
        return list(value)
    if not isinstance(value, Iterator):
        return value
    items: list[Any] = []
    part = [None] * UNREAD
    while len(part) == UNREAD:
        part = list(islice(value, UNREAD))
        budget.take(len(part))
        items += part
    return items


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter without its variant for asynchronous templates."""
    return getattr(function, "__wrapped__", function)


# A value as a kind of filters reads it, and its size.
def _printed(budget: Budget, value: Any) -> tuple[str, int]:
    text = written(budget, value)
    return text, text_size(text)


def _whole(budget: Budget, value: Any) -> tuple[Any, int]:
    value = listed(budget, value)
    return value, budget.size(value)


def _outer(budget: Budget, value: Any) -> tuple[Any, int]:
    value = listed(budget, value)
    return value, list_size(value)


def _guarded(
    budget: Budget,
    function: Callable[..., Any],
    estimate: Estimate,
    read: Callable[[Budget, Any], tuple[Any, int]],
) -> Callable[..., Any]:
    passed = _PassArg.from_obj(function)

    @pass_context
    def guarded(context: Context, value: Any, *args: Any, **options: Any) -> Any:
        if type(value) is not str:
            value, size = read(budget, value)
        else:
            size = list_size(value) if read is _outer else text_size(value)
        for argument in (*args, *options.values()) if options else args:
            size += text_size(argument) if type(argument) is str else budget.size(argument)
        size = estimate(size, value, *args, **options)
        budget.make(size)
        if passed is None:
            result = function(value, *args, **options)
        else:
            first = context.eval_ctx if passed is _PassArg.eval_context else context.environment
            result = function(first, value, *args, **options)
        if type(result) in _PLAIN or not isinstance(result, Iterator):
            return budget.made(result, size)
        return iter(listed(budget, result))  # made now: step by step it could be nested as deep as lists, unseen

    return guarded


def _calling(budget: Budget, function: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def calling(context: Context, value: Any, *args: Any, **options: Any) -> Any:
        value = listed(budget, value)
        size = list_size(value)
        names = 0
        for argument in (*args, *options.values()) if options else args:
            if type(argument) is str:
                names += len(argument)
            else:
                size += budget.size(argument)
        budget.make(size + size // ITEM * names)  # of each item, an attribute is found along its name
        budget.enter()
        try:
            return iter(listed(budget, function(context, value, *args, **options)))
        finally:
            budget.leave()

    return calling


def _list(budget: Budget, value: Any) -> list[Any]:
    value = listed(budget, value)
    budget.make(list_size(value))
    return list(value)


def _trim(budget: Budget, other: Callable[..., Any]) -> Callable[..., Any]:
    """The filter that is used most: for texts, and their spaces alone."""

    @pass_context
    def trim(context: Context, value: Any, *args: Any, **options: Any) -> Any:
        if type(value) is not str or args or options:
            return other(context, value, *args, **options)
        budget.make(len(value))
        return value.strip()

    return trim


def _unique(budget: Budget) -> Callable[..., Any]:
    """jinja2's, which tells of each key that it keeps."""

    @pass_environment
    def unique(environment: Any, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Iterator[Any]:
        found = make_attrgetter(environment, attribute, None if case_sensitive else ignore_case)
        seen = set()
        for item in value:
            key = found(item)
            if key not in seen:
                seen.add(budget.key(key))
                yield item

    return unique


def _dictsort(budget: Budget, other: Callable[..., Any]) -> Callable[..., Any]:
    """By keys, as it mostly is, values are not looked at: those of a tool's parameters are deep."""

    @pass_context
    def dictsort(context: Context, value: Any, *args: Any, **options: Any) -> Any:
        if type(value) is not dict or args or options:
            return other(context, value, *args, **options)
        budget.make(budget.size(value.keys()))
        return do_dictsort(value)

    return dictsort


def _comparing(budget: Budget, test: Any) -> Callable[..., bool]:
    def comparing(*values: Any) -> bool:
        for value in values:
            budget.read(value)
        return test(*values)

    return comparing


def _dividing(test: Any) -> Callable[..., bool]:
    def dividing(*values: Any) -> bool:
        if not all(isinstance(value, (*SIMPLE, Undefined)) for value in values):
            raise TemplateRuntimeError("it divides what is no number")
        return test(*values)

    return dividing


_SIGNS = 6  # of a letter that is written as \u0000
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False)  # its depth was looked at before


def _tojson(budget: Budget, value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
    """JSON as templates expect it: jinja2's own filter would escape <, > and & for HTML."""
    value = listed(budget, value)
    if not (ensure_ascii or indent or options):
        size = _SIGNS * budget.size(value)
        budget.make(size)
        return budget.made(_JSON.encode(value), size)
    allowed = {name: options[name] for name in ("separators", "sort_keys") if options.get(name) is not None}
    size = budget.size(value)
    wide = indent if isinstance(indent, int) else text_size(indent) if isinstance(indent, str) else 0
    between = wide * MAX_NESTING + sum(text_size(part) for part in allowed.get("separators", ()))
    size = _SIGNS * size + size // ITEM * between
    budget.make(size)
    made = json.dumps(value, ensure_ascii=ensure_ascii, check_circular=False, indent=indent, **allowed)
    return budget.made(made, size)
