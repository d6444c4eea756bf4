"""The methods of texts, lists and dicts that a chat template may call, each with the size of what it makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.filters import Markup
from jinja2.sandbox import SandboxedFormatter

from llamaweb.chat.budget import ITEM, SIMPLE, Budget, list_size, text_size, whole_size

MAX_FORMAT = 10_000
"""Characters of a text with places to fill."""
MAX_SEARCH = 1 << 28
"""Comparisons of letters, where Python searches from behind, or for any of several letters: a product of lengths."""

_SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_PLACE = re.compile(r"(?:[^%]|%(?:\([^()]*\))?[-# +0]*(?:[1-9]\d{0,2})?(?:\.\d{0,3})?[diouxXeEfFgGcrsa%])*+", re.DOTALL)
_WIDE = re.compile(r"\d{4}")


# What a method makes, in bytes, of its object and its arguments, which are Python's.
def _same(text: str, *args: Any, **options: Any) -> int:
    return text_size(text)


def capitalized(text: str) -> int:
    """Python begins with place for three letters of four bytes for each."""
    return 12 * len(text)


def lowered(text: str) -> int:
    """So it does here for letters that are not ASCII."""
    return len(text) if text.isascii() else capitalized(text)


def _parts(text: str, sep: str | None = None, maxsplit: int = -1) -> int:
    parts = sum(map(text.count, _SPACES)) if sep is None else text.count(sep)
    return text_size(text) + list_size(range(parts + 1))


def searched(text: str, part: Any = "", *args: Any) -> int:
    if isinstance(part, str) and len(text) * len(part) > MAX_SEARCH:
        raise TemplateRuntimeError("it searches too long a text")
    return text_size(text)


def _parts_from_behind(text: str, sep: str | None = None, maxsplit: int = -1) -> int:
    return searched(text, sep) and _parts(text, sep)


def _lines(text: str, keepends: bool = False) -> int:
    return text_size(text) + list_size(range(sum(map(text.count, _LINE_ENDS)) + 1))


def _padded(text: str, width: int, fill: str = " ") -> int:
    return text_size(text) + 4 * max(0, width)


def _tabs(text: str, tabsize: int = 8) -> int:
    return text_size(text) + 4 * text.count("\t") * max(0, tabsize)


def replaced(text: str, old: str, new: str, count: int = -1) -> int:
    return text_size(text) + text.count(old) * text_size(new)


def _joined(text: str, items: Any) -> int:
    size = list_size(items)
    return size + size // ITEM * text_size(text) + whole_size([item for item in items if isinstance(item, str)])


def _read(items: Any, *args: Any) -> int:
    return list_size(items)


Estimate = Callable[..., int]
_TEXTS: dict[str, Estimate] = {
    **dict.fromkeys(("capitalize", "swapcase", "title"), capitalized),
    **dict.fromkeys(("casefold", "lower", "upper"), lowered),
    **dict.fromkeys(("count", "endswith", "find", "index", "removeprefix", "removesuffix", "startswith"), _same),
    **dict.fromkeys(("isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier"), _same),
    **dict.fromkeys(("islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "partition"), _same),
    **dict.fromkeys(("lstrip", "rfind", "rindex", "rpartition", "rstrip", "strip"), searched),
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    **{"split": _parts, "rsplit": _parts_from_behind, "splitlines": _lines},
    **{"expandtabs": _tabs, "join": _joined, "replace": replaced},
}
METHODS: dict[type, dict[str, Estimate]] = {
    str: _TEXTS,
    Markup: _TEXTS,
    list: dict.fromkeys(("copy", "count", "index"), _read),
    tuple: dict.fromkeys(("count", "index"), _read),
    dict: dict.fromkeys(("copy", "get", "items", "keys", "values"), _read),
}
_IN_NO_TIME = ("get", "items", "keys", "values")


def call_method(budget: Budget, method: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What a method of a text, a list or a dict gives, unless it would be too long."""
    owner, name = method.__self__, method.__name__
    estimate = METHODS.get(type(owner), {}).get(name)
    if estimate is None:
        raise SecurityError(f"{type(owner).__name__}.{name} is not safely callable")
    for argument in (*args, *options.values()):
        if type(argument) is not str and not isinstance(argument, SIMPLE):
            budget.size(argument)
    if name in _IN_NO_TIME:
        budget.take()
        if args and type(args[0]) is str:
            budget.read(args[0])
    elif name in ("count", "index") and not isinstance(owner, str):
        budget.make(budget.size(owner))
    else:
        size = estimate(owner, *args, **options)
        size *= 5 if isinstance(owner, Markup) else 1  # it escapes what it is given
        budget.make(size)
        return budget.made(method(*args, **options), size)
    return method(*args, **options)


def percent(budget: Budget, text: str, values: Any) -> str:
    """text % values, for places of at most 999 letters."""
    if len(text) > MAX_FORMAT or not _PLACE.fullmatch(text):
        raise TemplateRuntimeError("it fills places that are too wide, or in a way that is not known here")
    size = sum(map(budget.size, values)) if isinstance(values, tuple) else budget.size(values)
    size = text_size(text) + 4 * text.count("%") * (1000 + size) if "%(" in text else 4 * (4000 + size)
    size *= 5 if isinstance(text, Markup) else 1  # it escapes what it is given
    budget.make(size)
    return budget.made(text % values, size)


class Format:
    """str.format or str.format_map of a text, as what a template may call."""

    def __init__(self, budget: Budget, environment: Environment, text: str, mapped: bool) -> None:
        self._formatter = _Formatter(environment, budget)
        self._text, self._mapped = text, mapped

    def __call__(self, *args: Any, **options: Any) -> str:
        if len(self._text) > MAX_FORMAT:
            raise TemplateRuntimeError("it fills places of a text that is too long")
        if self._mapped:
            (options,), args = args, ()
            if not isinstance(options, Mapping):
                raise TypeError("format_map() takes a dict")
        return self._formatter.budgeted(self._text, args, options)


class _Formatter(SandboxedFormatter):
    """Looks at each place before it is filled."""

    def __init__(self, environment: Environment, budget: Budget) -> None:
        super().__init__(environment)
        self._budget, self._made = budget, 0

    def budgeted(self, text: str, args: Any, options: Mapping[str, Any]) -> str:
        made = self.vformat(text, args, options)
        return self._budget.made(made, self._made)

    def get_value(self, key: int | str, args: Any, kwargs: Any) -> Any:
        self._budget.take()
        return Formatter.get_value(self, key, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        if _WIDE.search(format_spec):
            raise TemplateRuntimeError("it fills a place that is too wide")
        self._made += self._budget.size(value) + 4000
        self._budget.make(self._made)
        return super().format_field(value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._budget.make(4 * self._budget.size(value))
        return super().convert_field(value, conversion)
