"""The sandbox that chat templates run in: jinja2's, where every operation asks the budget before it begins.

Templates see no Python objects beyond the messages, and cannot change them. Lists and dicts hold plain data alone, and
a namespace holds no objects of templates either, so that the depth of a value is known from where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import (
    SecurityError,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    UndefinedError,
)
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import Markup
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace, missing
from jinja2.visitor import NodeTransformer

from llamaweb.chat.budget import ITEM, MAX_BITS, SIMPLE, Budget, list_size, text_size
from llamaweb.chat.filters import compared, filters, listed, searched_in, tests, written
from llamaweb.chat.methods import METHODS, Format, call_method, percent

_SLOT = {"_loop_vars", "_block_vars"}  # what jinja2's compiler adds to a call
_DICT = frozenset(dir(dict))
_EMPTY: dict[type, Any] = {dict: {}, list: [], tuple: (), str: "", int: 0, type(None): None}


class _Undefined(Undefined):
    """Keeps neither the object that has no such attribute nor a name that is none: they might hold another such."""

    __slots__ = ()

    def __init__(self, hint: Any = None, obj: Any = missing, name: Any = None, exc: Any = UndefinedError) -> None:
        if name is not None and not isinstance(name, str | int):
            name = type(name).__name__
        if obj is not missing and type(obj) not in _EMPTY:
            hint = hint or f"{type(obj).__name__!r} has no attribute {name!r}"
        super().__init__(hint, obj if obj is missing else _EMPTY.get(type(obj)), name, exc)


class Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox on a budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, undefined=_Undefined, extensions=[_Generation, loopcontrols]
        )
        self.budget = budget = Budget()
        self.filters: Any = {
            **filters(budget),
            _ROUNDS: self._rounds,
            _WHOLE: lambda value: compared(budget, value),
            _INSIDE: lambda value: searched_in(budget, value),
            _HELD: self._held,
            _SHOWN: self._shown,
            _SLICED: self._sliced,
            _JOINED: self._joined,
            _SPREAD: self._spread,
        }
        self.tests: Any = tests(budget)
        self.globals = {name: self.globals[name] for name in ("cycler", "dict", "joiner", "namespace", "range")}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

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
                if function.catch_varargs or function.catch_kwargs:
                    self._plain(args, kwargs, ("caller",))
                for name in _SLOT & kwargs.keys():
                    del kwargs[name]
                return function(context.eval_ctx, *args, **kwargs)
            if kind is LoopContext:
                args = (self._rounds(args[0]), *args[1:]) if args else args
            elif kind is MethodType and isinstance(function.__self__, LoopContext | Cycler):
                self._plain(args, kwargs)
            elif function is Namespace:
                self._plain(args, {})
                for value in kwargs.keys() - _SLOT:
                    self._held(kwargs[value])
            elif kind in (BlockReference, Joiner, Format) or function in self.globals.values():
                self._plain(args, kwargs)
            elif not isinstance(function, Undefined):
                raise SecurityError(f"{written(self.budget, kind.__name__)} is not safely callable")
            return context.call(function, *args, **kwargs)
        finally:
            self.budget.leave()

    def _plain(self, args: Any, kwargs: dict[str, Any], but: tuple[str, ...] = ()) -> None:
        for value in args:
            self.budget.size(value, 1)
        for name, value in kwargs.items():
            if name not in _SLOT and name not in but:
                self.budget.size(value, 1)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            if len(left) + len(right) > 1000:  # one marked as safe escapes the other
                escaped = 1 if type(left) is type(right) is str else 5
                self.budget.make(escaped * (text_size(left) + text_size(right)))
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

    def concat(self, parts: Any) -> str:
        parts = parts if type(parts) is list else list(parts)
        if sum(map(len, parts)) > 1000:
            self.budget.make(sum(map(text_size, parts)))
        return "".join(parts)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _DICT:  # the same, without an exception
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if attribute in METHODS.get(type(obj), ()):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if type(argument) is not str and type(argument) is not int:
            compared(self.budget, argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Any:
        if not isinstance(value, MethodType | BuiltinMethodType) or value.__name__ not in ("format", "format_map"):
            return None
        owner = value.__self__
        if isinstance(owner, Markup) or not isinstance(owner, str):
            return None
        return Format(self.budget, self, owner, value.__name__ == "format_map")

    # What `_Led` puts around nodes.

    def _rounds(self, items: Any) -> _Rounds:
        """What a loop goes over, as a list that counts its rounds."""
        self.budget.make(list_size(items))
        return _Rounds(self.budget, listed(self.budget, items))

    def _held(self, value: Any) -> Any:
        """What a namespace may hold."""
        if not isinstance(value, _HOLDABLE):
            raise TemplateRuntimeError(f"it keeps a {type(value).__name__} in a namespace")
        return value

    def _shown(self, value: Any) -> Any:
        if type(value) is str:
            self.budget.take(1 + len(value) // 512)
        elif isinstance(value, Namespace):
            self.budget.size(value._Namespace__attrs)
        elif isinstance(value, (list, tuple, dict, *_VIEWS)):
            self.budget.make(4 * self.budget.size(value))
        return value

    def _sliced(self, value: Any, *bounds: Any) -> Any:
        self.budget.make(_length(value))
        return value[slice(*bounds)]

    def _joined(self, *values: Any) -> str:
        texts = [value if type(value) is str else str(written(self.budget, value)) for value in values]
        self.budget.make(sum(map(text_size, texts)))
        return "".join(texts)

    def _spread(self, values: Any) -> Any:
        """What is given as *values or **values."""
        self.budget.make(list_size(values))
        return listed(self.budget, values)


class _Rounds(list):
    def __init__(self, budget: Budget, items: Any) -> None:
        super().__init__(items)
        self._take = budget.take

    def __iter__(self) -> Iterator[Any]:
        take = self._take
        for item in super().__iter__():
            take()
            yield item


_VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
_HOLDABLE: Any = (str, *SIMPLE, list, tuple, dict, range, Undefined, type(iter([])), *_VIEWS)
# Names that no template can write.
_ROUNDS, _WHOLE, _INSIDE, _HELD, _SHOWN, _SLICED, _JOINED, _SPREAD = (f"<{n}>" for n in range(8))


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


def led(tree: nodes.Template) -> nodes.Template:
    """The template with all that costs anything led through an `Environment`."""
    return _Led().visit(tree)


class _Led(NodeTransformer):
    """Leads through the environment what it would not see otherwise."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        for name in ("dyn_args", "dyn_kwargs"):
            if getattr(node, name, None) is not None:
                setattr(node, name, _through(_SPREAD, getattr(node, name)))
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through(_ROUNDS, node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(_JOINED, *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides: list[Any] = [node, *node.ops]
        inside = [getattr(side, "op", "") in ("in", "notin") for side in sides]
        if any(inside) or not any(_quick(side.expr) for side in sides):
            for side, searched in zip(sides, inside, strict=True):
                if not _quick(side.expr):
                    side.expr = _through(_INSIDE if searched and len(sides) == 2 else _WHOLE, side.expr)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [part if isinstance(part, nodes.Literal) else _through(_SHOWN, part) for part in node.nodes]
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.target, nodes.NSRef):
            node.node = _through(_HELD, node.node)
        elif node.target.find(nodes.NSRef):
            node.node = _through(_WHOLE, node.node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _through(_SLICED, node.node, *(nodes.Const(None) if bound is None else bound for bound in bounds))

    def visit_List(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if _quick(node) or getattr(node, "ctx", "load") != "load" else _through(_WHOLE, node)

    visit_Tuple = visit_Dict = visit_List

    def _refused(self, node: nodes.Node) -> NoReturn:
        raise TemplateSyntaxError("it is made of several templates, or for a web page", node.lineno)

    visit_Extends = visit_Include = visit_Import = visit_FromImport = visit_ScopedEvalContextModifier = _refused


def _through(name: str, node: Any, *args: Any) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _quick(node: nodes.Node) -> bool:
    """Whether an expression's value is as small as its text, so that nothing takes long with it."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const | nodes.Compare | nodes.Test | nodes.Not)


class _Generation(Extension):
    """{% generation %}…{% endgeneration %}, which marks the assistant's words for training, is its content."""

    tags = {"generation"}  # noqa: RUF012 (the extension's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    if len(format) > ITEM or any(part.isdigit() for part in format):
        raise TemplateRuntimeError("it writes the time in too long a way")
    return datetime.now().strftime(format)
