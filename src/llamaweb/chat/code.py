"""The Python that templates become: what they do most is looked at in place, and done where it is as plain as it mostly
is: a text that is written, short texts that are added, a key of a dict, a small number.

A call takes as long as ten such looks. All else goes through the environment.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

from llamaweb.chat.budget import STEP, UNREAD

SHORT = 2048
"""Letters of texts that are added without asking the budget."""
SUM = 4 * SHORT // STEP
"""Steps of such a sum, however wide its letters are; they are taken where a round or a call begins."""
SMALL = 1 << 30
"""Whole numbers that are, too."""
ATTRIBUTES = frozenset(dir(dict))
"""Names that are no keys behind a point."""
_DEEPEST = 16  # looks within looks: Python reads no more than 200 brackets within brackets
_WRITTEN = "t_written"


class Inline(CodeGenerator):
    """jinja2's compiler, but for {{ x }}, a + b + …, a.b, a['b'] and a % 2."""

    environment: Any

    _deep = 0
    _nodes = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """jinja2 looks through loops within loops again for each of them, so that this has its time, too."""
        self._nodes += 1
        if self._nodes % UNREAD == 0:
            self.environment.budget.look()
        return super().visit(node, *args, **kwargs)

    def _look(self, name: str, node: nodes.Expr, frame: Frame) -> None:
        """The type of a value, which has this name from here on."""
        self._deep += 1
        self.write(f"type({name} := ")
        self.visit(node, frame)
        self.write(")")
        self._deep -= 1

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        """Text is written as it is; what has to be computed is so in a rendering, which asks the budget."""
        if not isinstance(node, nodes.TemplateData | nodes.Const):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(f"({_WRITTEN} if type({_WRITTEN} := ")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(f") is str else environment.shown({_WRITTEN}))")

    def visit_Add(self, node: nodes.BinExpr, frame: Frame) -> None:
        values = added(node)
        texts = [_constant(value) for value in values]
        if self._deep >= _DEEPEST or not may_be_text(values):
            return self._counted("+", node, frame)
        names = {index: self.temporary_identifier() for index, text in enumerate(texts) if text is None}
        if not names:
            return self._counted("+", node, frame)
        places = {index: f"{{{name}}}" for index, name in names.items()}
        whole = "".join(places.get(index) or _braced(text) for index, text in enumerate(texts))
        self.write(f"(f{whole!r} if ")
        for number, (index, name) in enumerate(names.items()):
            self.write(" & (" if number else "(")  # each is to be had, whatever the others are
            self._look(name, values[index], frame)
            self.write(" is str)")
        self.write(f" and {' + '.join(f'len({name})' for name in names.values())} < {SHORT}")
        given = (names.get(index) or repr(text) for index, text in enumerate(texts))
        self.write(f" else environment.added(context, {', '.join(given)}))")

    def visit_Sub(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._counted("-", node, frame)

    def visit_Mod(self, node: nodes.BinExpr, frame: Frame) -> None:
        self._counted("%", node, frame)

    def _counted(self, operator: str, node: nodes.BinExpr, frame: Frame) -> None:
        """Two values; in place if they are whole numbers, as in loop.index0 % 2."""
        number = _constant(node.right)
        if type(number) is int and 0 < number < SMALL and self._deep < _DEEPEST:
            name = self.temporary_identifier()
            self.write(f"({name} {operator} {number} if ")
            self._look(name, node.left, frame)
            self.write(f" is int and -{SMALL} < {name} < {SMALL}")
            self.write(f" else environment.call_binop(context, {operator!r}, {name}, {number}))")
        else:
            self.write(f"environment.call_binop(context, {operator!r}, ")
            self.visit(node.left, frame)
            self.write(", ")
            self.visit(node.right, frame)
            self.write(")")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        if node.attr in ATTRIBUTES or not self._found("getattr", node.node, node.attr, frame):
            super().visit_Getattr(node, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        key = _constant(node.arg)
        if type(key) is not str or not self._found("getitem", node.node, key, frame):
            super().visit_Getitem(node, frame)

    def _found(self, how: str, node: nodes.Expr, key: str, frame: Frame) -> bool:
        """A key of what is mostly a dict that has it; False where nothing was written."""
        if self._deep >= _DEEPEST:
            return False
        name = self.temporary_identifier()
        self.write(f"({name}[{key!r}] if ")
        self._look(name, node, frame)
        self.write(f" is dict and {key!r} in {name} else environment.{how}({name}, {key!r}))")
        return True


def added(node: nodes.Expr) -> list[nodes.Expr]:
    """What is added, from the left."""
    return [*added(node.left), node.right] if isinstance(node, nodes.Add) else [node]


def may_be_text(values: list[nodes.Expr]) -> bool:
    return all(value is None or type(value) is str for value in map(_constant, values))


def _constant(node: nodes.Expr) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


def _braced(text: str) -> str:
    """A text as it stands in an f-string."""
    return text.replace("{", "{{").replace("}", "}}")
