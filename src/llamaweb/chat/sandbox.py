"""The sandbox that chat templates run in: jinja2's, where every operation asks the budget before it begins.

Templates see no Python objects beyond the messages, and cannot change them. Lists and dicts hold plain data alone, and
a namespace holds no objects of templates either, so that the depth of a value is known from where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import reduce
from itertools import chain
from operator import add
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import (
    SecurityError,
    TemplateError,
    TemplateRuntimeError,
    UndefinedError,
)
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import Markup
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace, missing

from llamaweb.chat.budget import ITEM, LENGTH, MAX_BITS, SIMPLE, UNREAD, Budget, list_size, text_size, whole_size
from llamaweb.chat.code import ATTRIBUTES, SHORT, Inline
from llamaweb.chat.filters import filters, listed, tests, written
from llamaweb.chat.led import HELD, INSIDE, JOINED, KEY, LOOP, NAME, ROOT, ROUNDS, SLICED, SPREAD, WHOLE
from llamaweb.chat.methods import METHODS, Format, call_method, percent

_SLOT = {"_loop_vars", "_block_vars"}  # what jinja2's compiler adds to a call
_AT_ONCE = 16  # rounds of a loop whose steps are taken before the first of them
_EMPTY: dict[type, Any] = {dict: {}, list: [], tuple: (), str: "", int: 0, type(None): None}


class _Undefined(Undefined):
    """Keeps neither the object that has no such attribute nor a name that is none: they might hold another such. Nor a
    long name, which jinja2 writes into a sentence at once."""

    __slots__ = ()

    def __init__(self, hint: Any = None, obj: Any = missing, name: Any = None, exc: Any = UndefinedError) -> None:
        if name is not None and not isinstance(name, str | int):
            name = type(name).__name__
        elif isinstance(name, str) and len(name) > NAME:
            name = name[:NAME] + "…"
        if obj is not missing and type(obj) not in _EMPTY:
            hint = hint or f"{type(obj).__name__!r} has no attribute {name!r}"
        super().__init__(hint, obj if obj is missing else _EMPTY.get(type(obj)), name, exc)


class Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox on a budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))
    code_generator_class = Inline

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=_Undefined,
            extensions=[_Generation, loopcontrols],
            optimized=False,  # which redoes all that is below an operator for each one above it
        )
        self.budget = budget = Budget()
        self.filters: Any = {
            **filters(budget),
            ROUNDS: self._rounds,
            WHOLE: budget.read,
            INSIDE: self._inside,
            HELD: self._held,
            SLICED: self._sliced,
            JOINED: self._joined,
            SPREAD: self._spread,
            KEY: budget.key,
        }
        self.tests: Any = tests(budget)
        self.weights: dict[str | None, int] = {}  # steps of what is called by a name: `led` counts them
        self.globals = {name: self.globals[name] for name in ("cycler", "dict", "joiner", "namespace")}
        self.globals |= {"raise_exception": _raise_exception, "range": _range, "strftime_now": _strftime_now}

    def make_globals(self, d: Any) -> dict[str, Any]:
        """As one dict, which each rendering copies: jinja2's two in a chain take longer than a short template."""
        return {**self.globals, **(d or {})}

    def start(self) -> None:
        """Before a rendering."""
        self.budget.start()
        self.budget.take(self.weights.get(ROOT, 0))

    # What jinja2 calls in place of Python's own operations.

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        kind = type(function)
        if kind is BuiltinMethodType or (kind is MethodType and isinstance(function.__self__, Markup)):
            for name in _SLOT & kwargs.keys():
                del kwargs[name]
            return call_method(self.budget, function, args, kwargs)
        self.budget.enter()
        try:
            if kind is Macro:
                self.budget.take(self.weights.get(function.name, 0))
                if function.catch_varargs or function.catch_kwargs:
                    self._plain(args, kwargs, ("caller",))
                for name in _SLOT & kwargs.keys():
                    del kwargs[name]
                return function(context.eval_ctx, *args, **kwargs)
            if kind is LoopContext:
                args = (self._rounds(args[0], 1 + self.weights.get(LOOP, 0)), *args[1:]) if args else args
            elif kind is MethodType and isinstance(function.__self__, LoopContext | Cycler):
                self._plain(args, kwargs)
            elif function is Namespace:
                self._plain(args, {})
                self._keys(*args)
                for value in kwargs.keys() - _SLOT:
                    self._held(kwargs[value])
            elif kind in (BlockReference, Joiner, Format) or function in self.globals.values():
                self.budget.take(self.weights[ROOT] if kind is BlockReference else 0)
                self._plain(args, kwargs)
                if function is dict:
                    self._keys(*args)
            elif not isinstance(function, Undefined):
                raise SecurityError(f"{kind.__name__} is not safely callable")
            return context.call(function, *args, **kwargs)
        finally:
            self.budget.leave()

    def _plain(self, args: Any, kwargs: dict[str, Any], but: tuple[str, ...] = ()) -> None:
        for value in args:
            self.budget.size(value, 1)
        for name, value in kwargs.items():
            if name not in _SLOT and name not in but:
                self.budget.size(value, 1)

    def _keys(self, pairs: Any = (), *_: Any) -> None:
        """Before a dict is made of pairs, or of what Python refuses."""
        if isinstance(pairs, _LISTED):
            for pair in pairs:
                if isinstance(pair, list | tuple | range) and pair:
                    self.budget.key(pair[0])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            # One marked as safe escapes the other.
            escaped = 1 if type(left) is type(right) is str else 5
            self.budget.make(escaped * whole_size((left, right)))
            return left + right
        if isinstance(left, SIMPLE) and isinstance(right, SIMPLE):
            self.budget.take()
            if _bits(operator, left, right) > MAX_BITS:
                raise TemplateRuntimeError("it counts with numbers that are too long")
        elif operator == "%" and isinstance(left, str):
            return percent(self.budget, left, right)
        elif operator == "+":
            self.budget.make(_length(left) + _length(right))
        elif operator == "*":
            times = [abs(value) for value in (left, right) if isinstance(value, int)]
            self.budget.make((_length(left) or _length(right)) * (times or [1])[0])
        elif isinstance(left, (type({}.keys()), type({}.items()))):
            raise TypeError(f"unsupported operand type(s) for {operator}: {type(left).__name__!r}")
        else:
            self.budget.take()
        return self.binop_table[operator](left, right)

    def added(self, context: Context, *values: Any) -> Any:
        """a + b + …: texts that are long together, or marked as safe, or what is no text."""
        if all([isinstance(value, str) for value in values]):
            if sum(map(len, values)) < SHORT:  # one marked as safe escapes the others
                self.budget.take()
                return reduce(add, values)
            if all([type(value) is str for value in values]):
                return self.concat(values)
        return reduce(lambda left, right: self.call_binop(context, "+", left, right), values)

    def shown(self, value: Any) -> str:
        """What is written and is no text."""
        self.budget.take()
        if isinstance(value, Namespace):
            self.budget.size(value._Namespace__attrs)
        elif isinstance(value, str):
            self.budget.make(text_size(value))
        elif isinstance(value, (list, tuple, dict, *_VIEWS)):
            return written(self.budget, value)
        return str(value)

    def concat(self, parts: Any) -> str:
        parts = parts if type(parts) is list or type(parts) is tuple else list(parts)
        self.budget.make(whole_size(parts))
        return "".join(parts)

    def getattr(self, obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict and attribute not in ATTRIBUTES:  # the same, without an exception
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if kind is Namespace and not attribute.startswith("_"):
            held = obj._Namespace__attrs
            return held[attribute] if attribute in held else self.undefined(obj=obj, name=attribute)
        if attribute in METHODS.get(kind, ()):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        kind = type(argument)
        if kind is str or kind is int:
            if kind is str and len(argument) > LENGTH:
                self.budget.read(argument)
            if type(obj) is dict and argument not in obj and argument not in ATTRIBUTES:  # without exceptions
                return self.undefined(obj=obj, name=argument)
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        else:
            self.budget.read(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Any:
        if not isinstance(value, MethodType | BuiltinMethodType) or value.__name__ not in ("format", "format_map"):
            return None
        owner = value.__self__
        if isinstance(owner, Markup) or not isinstance(owner, str):
            return None
        return Format(self.budget, self, owner, value.__name__ == "format_map")

    # What `led` puts around nodes.

    def _rounds(self, items: Any, weight: int) -> list[Any]:
        """What a loop goes over, as a list whose rounds take `weight` steps each."""
        if type(items) is not list:
            self.budget.make(list_size(items))
            items = list(listed(self.budget, items))
        if len(items) > max(_AT_ONCE, UNREAD // weight):
            return _Rounds(self.budget, items, weight)
        self.budget.take(len(items) * weight)
        return items

    def _inside(self, value: Any) -> Any:
        """What is looked through by `in`: a dict only at one place."""
        return value if type(value) is dict else self.budget.read(value)

    def _held(self, value: Any) -> Any:
        """What a namespace may hold."""
        if not isinstance(value, _HOLDABLE):
            raise TemplateRuntimeError(f"it keeps a {type(value).__name__} in a namespace")
        return value

    def _sliced(self, value: Any, *bounds: Any) -> Any:
        self.budget.make(_length(value))
        return value[slice(*bounds)]

    def _joined(self, *values: Any) -> str:
        texts = [written(self.budget, value) for value in values]
        self.budget.make(whole_size(texts))
        return "".join(texts)

    def _spread(self, values: Any) -> Any:
        """What is given as *values or **values."""
        self.budget.make(list_size(values))
        return listed(self.budget, values)


class _Rounds(list):
    """Takes the steps of some rounds at once, before they begin."""

    def __init__(self, budget: Budget, items: Any, weight: int) -> None:
        super().__init__(items)
        self._budget, self._weight = budget, weight

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._parts())

    def _parts(self) -> Iterator[list[Any]]:
        rounds = max(_AT_ONCE, UNREAD // self._weight)
        for first in range(0, len(self), rounds):
            part = self[first : first + rounds]
            self._budget.take(len(part) * self._weight)
            yield part


_VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
_LISTED: Any = (list, tuple, range, *_VIEWS)
_HOLDABLE: Any = (str, *SIMPLE, list, tuple, dict, range, Undefined, type(iter([])), *_VIEWS)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return text_size(value)
    return list_size(value) if isinstance(value, (list, tuple, range)) else 0


def _bits(operator: str, left: Any, right: Any) -> int:
    """At most, of the whole number that is the result."""
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    one, other = left.bit_length(), right.bit_length()
    if operator == "**":
        return one * max(0, right) if one > 1 else one
    return one + other if operator == "*" else max(one, other) + 1


class _Generation(Extension):
    """{% generation %}…{% endgeneration %}, which marks the assistant's words for training, is its content."""

    tags = {"generation"}  # noqa: RUF012 (the extension's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _range(*args: Any) -> range:
    found = range(*args)
    if found[MAX_RANGE:]:  # whose length may be too large for Python
        raise TemplateRuntimeError(f"it asks for a range of more than {MAX_RANGE} numbers")
    return found


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > ITEM or any(part.isdigit() for part in format):
        raise TemplateRuntimeError("it writes the time in too long a way")
    return datetime.now().strftime(format)
