"""The sandbox that chat templates run in: jinja2's, where every operation asks the budget before it begins.

Templates see no Python objects beyond the messages, and cannot change them. Lists and dicts hold plain data alone, and
a namespace holds no objects of templates either, so that the depth of a value is known from where it is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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
    TemplateSyntaxError,
    UndefinedError,
)
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import Markup
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import MAX_RANGE, ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace, missing
from jinja2.visitor import NodeTransformer

from llamaweb.chat.budget import ITEM, LENGTH, MAX_BITS, SIMPLE, UNREAD, Budget, list_size, text_size, whole_size
from llamaweb.chat.code import ATTRIBUTES, SHORT, SUM, Inline, added, may_be_text
from llamaweb.chat.filters import filters, listed, tests, written
from llamaweb.chat.methods import METHODS, Format, call_method, percent

_SLOT = {"_loop_vars", "_block_vars"}  # what jinja2's compiler adds to a call
_AT_ONCE = 16  # rounds of a loop whose steps are taken before the first of them
_LOOPS = 20  # within loops, as many as Python has in a function
_NAME = 100  # letters of one that is told
_EMPTY: dict[type, Any] = {dict: {}, list: [], tuple: (), str: "", int: 0, type(None): None}


class _Undefined(Undefined):
    """Keeps neither the object that has no such attribute nor a name that is none: they might hold another such. Nor a
    long name, which jinja2 writes into a sentence at once."""

    __slots__ = ()

    def __init__(self, hint: Any = None, obj: Any = missing, name: Any = None, exc: Any = UndefinedError) -> None:
        if name is not None and not isinstance(name, str | int):
            name = type(name).__name__
        elif isinstance(name, str) and len(name) > _NAME:
            name = name[:_NAME] + "…"
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
            _ROUNDS: self._rounds,
            _WHOLE: budget.read,
            _INSIDE: self._inside,
            _HELD: self._held,
            _SLICED: self._sliced,
            _JOINED: self._joined,
            _SPREAD: self._spread,
            _KEY: budget.key,
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
        self.budget.take(self.weights.get(_ROOT, 0))

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
                args = (self._rounds(args[0], 1 + self.weights.get(_LOOP, 0)), *args[1:]) if args else args
            elif kind is MethodType and isinstance(function.__self__, LoopContext | Cycler):
                self._plain(args, kwargs)
            elif function is Namespace:
                self._plain(args, {})
                self._keys(*args)
                for value in kwargs.keys() - _SLOT:
                    self._held(kwargs[value])
            elif kind in (BlockReference, Joiner, Format) or function in self.globals.values():
                self.budget.take(self.weights[_ROOT] if kind is BlockReference else 0)
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

    # What `_Led` puts around nodes.

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
# Names that no template can write.
_ROUNDS, _WHOLE, _INSIDE, _HELD, _SLICED, _JOINED, _SPREAD, _KEY, _ROOT, _LOOP = (f"<{n}>" for n in range(10))


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


def led(environment: Environment, tree: nodes.Template) -> nodes.Template:
    """The template with all that costs anything led through the environment, which is told what calls cost."""
    return _Led(environment.weights).visit(tree)


class _Led(NodeTransformer):
    """Leads through the environment what it would not see otherwise."""

    def __init__(self, weights: dict[str | None, int]) -> None:
        self._weights = weights
        self._loops = 0  # that are open, where a break leaves one

    def _function(self, node: Any) -> None:
        """What becomes a function in Python, which no break leaves."""
        loops, self._loops = self._loops, 0
        self.generic_visit(node)
        self._loops = loops

    def _distinct(self, node: nodes.Node, names: Iterable[str]) -> None:
        for name, times in Counter(names).items():
            if times > 1:
                raise TemplateSyntaxError(f"it has several arguments named {name[:_NAME]!r}", node.lineno)

    def visit_Call(self, node: Any) -> nodes.Node:
        self._distinct(node, (given.key for given in node.kwargs))
        return self.generic_visit(node)

    visit_Filter = visit_Test = visit_Call

    def visit_Break(self, node: Any) -> nodes.Node:
        if not self._loops:
            raise TemplateSyntaxError("it leaves a loop where there is none", node.lineno)
        return node

    visit_Continue = visit_Break

    def _weigh(self, name: str | None, node: Any, *more: nodes.Node) -> int:
        """The most steps of what has this name, which are taken where a round or a call begins."""
        weight = _weight(*node.body, *more)
        self._weights[name] = max(weight, self._weights.get(name, 0))
        return weight

    def visit_Template(self, node: nodes.Template) -> nodes.Node:
        self.generic_visit(node)
        self._weigh(_ROOT, node)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self._distinct(node, (arg.name for arg in node.args))
        self._function(node)
        self._weigh(node.name, node, *node.defaults)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self._distinct(node, (arg.name for arg in node.args))
        self._function(node)
        self._weigh(None, node, *node.defaults)  # its callers have no name
        return node

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        for name in ("dyn_args", "dyn_kwargs"):
            if getattr(node, name, None) is not None:
                setattr(node, name, _through(_SPREAD, getattr(node, name)))
        return node

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        self._function(node)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if self._loops == _LOOPS:
            raise TemplateSyntaxError("it is nested too deep", node.lineno)
        after, node.else_ = node.else_, []
        self._loops += 1
        self.generic_visit(node)
        self._loops -= 1
        node.else_ = [self.visit(part) for part in after]
        tests = [node.test] if node.test else []
        weight = self._weigh(_LOOP, node, *tests) if node.recursive else _weight(*node.body, *tests)
        node.iter = _through(_ROUNDS, node.iter, nodes.Const(1 + weight))
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

    visit_Tuple = visit_List

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const) or not isinstance(pair.key.value, str):
                pair.key = _through(_KEY, pair.key)
        return self.visit_List(node)

    def _refused(self, node: nodes.Node) -> NoReturn:
        raise TemplateSyntaxError("it is made of several templates, or for a web page", node.lineno)

    visit_Extends = visit_Include = visit_Import = visit_FromImport = visit_ScopedEvalContextModifier = _refused


def _weight(*parts: nodes.Node) -> int:
    """Steps of what is written and of texts that are added in place, but for what takes its steps by itself."""
    count = 0
    for node in parts:
        below: Iterable[nodes.Node] = node.iter_child_nodes()
        if isinstance(node, nodes.Output):
            count += sum(not isinstance(part, nodes.Literal) for part in node.nodes)
        elif isinstance(node, nodes.For):
            below = (node.iter, *node.else_)
        elif isinstance(node, nodes.CallBlock):
            below = (node.call,)
        elif isinstance(node, nodes.Macro):
            below = ()
        elif isinstance(node, nodes.Add):
            below = values = added(node)
            count += SUM if may_be_text(values) else 0
        count += _weight(*below)
    return count


def _through(name: str, node: Any, *args: Any) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


def _quick(node: nodes.Node) -> bool:
    """Whether an expression's value is as small as its text, so that nothing takes long with it."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(isinstance(item, nodes.Const) for item in node.items)
    if isinstance(node, nodes.Dict):
        return all(isinstance(part, nodes.Const) for pair in node.items for part in (pair.key, pair.value))
    return isinstance(node, nodes.Const | nodes.Compare | nodes.Test | nodes.Not)


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
