"""What a template's tree becomes before it is code: all that costs anything goes through filters, whose names no
template can write, and what Python would refuse of that code is refused as the template has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.visitor import NodeTransformer

from llamaweb.chat.code import SUM, added, may_be_text

NAME = 100
"""Letters of a name that is told."""
ROUNDS, WHOLE, INSIDE, HELD, SLICED, JOINED, SPREAD, KEY, ROOT, LOOP = (f"<{n}>" for n in range(10))
_LOOPS = 20  # within loops, as many as Python has in a function


def led(weights: dict[str | None, int], tree: nodes.Template) -> nodes.Template:
    """The template with all that costs anything led through filters of the environment's; `weights` are what is called
    by a name, with its steps."""
    return _Led(weights).visit(tree)


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
                raise TemplateSyntaxError(f"it has several arguments named {name[:NAME]!r}", node.lineno)

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
        self._weigh(ROOT, node)
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
                setattr(node, name, _through(SPREAD, getattr(node, name)))
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
        weight = self._weigh(LOOP, node, *tests) if node.recursive else _weight(*node.body, *tests)
        node.iter = _through(ROUNDS, node.iter, nodes.Const(1 + weight))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through(JOINED, *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides: list[Any] = [node, *node.ops]
        inside = [getattr(side, "op", "") in ("in", "notin") for side in sides]
        if any(inside) or not any(_quick(side.expr) for side in sides):
            for side, searched in zip(sides, inside, strict=True):
                if not _quick(side.expr):
                    side.expr = _through(INSIDE if searched and len(sides) == 2 else WHOLE, side.expr)
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.target, nodes.NSRef):
            node.node = _through(HELD, node.node)
        elif node.target.find(nodes.NSRef):
            node.node = _through(WHOLE, node.node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        return _through(SLICED, node.node, *(nodes.Const(None) if bound is None else bound for bound in bounds))

    def visit_List(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if _quick(node) or getattr(node, "ctx", "load") != "load" else _through(WHOLE, node)

    visit_Tuple = visit_List

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const) or not isinstance(pair.key.value, str):
                pair.key = _through(KEY, pair.key)
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
