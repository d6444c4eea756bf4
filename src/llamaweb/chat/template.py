"""Chat templates: the jinja2 text in a model file that turns messages into a prompt, run in a sandbox.

Templates come from strangers. They see no Python objects beyond the messages, cannot change them, and stop after a
bounded amount of work. Their environment is the one that Hugging Face's `apply_chat_template` gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, reduce
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llamaweb.errors import LlamaWebError

MAX_STEPS = 1_000_000
"""Calls and rounds of loops in one rendering; a template takes a few for each message."""
MAX_DEPTH = 200
"""Calls within calls."""
MAX_LENGTH = 64 << 20
"""Characters of a text, or items of a list, that a template may build."""


class _Environment(ImmutableSandboxedEnvironment):
    """Counts calls and rounds, and builds nothing huge."""

    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.steps = self.depth = 0
        self.filters["counted"] = self._counted
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda format: datetime.now().strftime(format)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._count(1)
        if self.depth >= MAX_DEPTH:
            raise TemplateRuntimeError("it calls itself without end")
        self.depth += 1
        try:
            return super().call(context, function, *args, **kwargs)
        finally:
            self.depth -= 1

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            length = _length(left) + _length(right)
        elif operator == "*":
            length = _length(left) * (right if isinstance(right, int) else 1) or (
                _length(right) * (left if isinstance(left, int) else 1)
            )
        else:
            length = abs(right) << 20 if isinstance(right, int) else 0  # no power above 64
        if length > MAX_LENGTH:
            raise TemplateRuntimeError("it builds something too long")
        return super().call_binop(context, operator, left, right)

    def _counted(self, items: Iterable[Any]) -> list[Any]:
        """What a loop runs over, as a list; every loop's iterable goes through this."""
        listed = list(items)
        self._count(len(listed))
        return listed

    def _count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise TemplateRuntimeError(f"it takes more than {MAX_STEPS} steps")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


class _Bounded(NodeTransformer):
    """Leads through the environment what it would not see otherwise: the rounds of loops, and `a ~ b`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "counted", [], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        texts: list[nodes.Expr] = [nodes.Filter(part, "string", [], [], None, None) for part in node.nodes]
        return reduce(nodes.Add, texts)


class _Generation(Extension):
    """{% generation %}…{% endgeneration %}, which marks the assistant's words for training, is its content."""

    tags = {"generation"}  # noqa: RUF012 (the extension's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """JSON as templates expect it: jinja2's own filter would escape <, > and & for HTML."""
    allowed = {name: options[name] for name in ("separators", "sort_keys") if options.get(name) is not None}
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **allowed)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


@lru_cache(maxsize=8)
def _compile(source: str) -> tuple[_Environment, Any]:
    environment = _Environment()
    tree = _Bounded().visit(environment.parse(source))
    return environment, environment.from_string(tree)


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """The text of a template; LlamaWebError, in one sentence, if it cannot be read or rendered."""
    try:
        environment, template = _compile(source)
        environment.steps = environment.depth = 0
        text, length = [], 0
        for piece in template.generate(**variables):
            text.append(piece)
            length += len(piece)
            if length > MAX_LENGTH:
                raise TemplateRuntimeError(f"its text is longer than {MAX_LENGTH} characters")
        return "".join(text)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise _failed(f"{error.message or type(error).__name__}{f' (line {line})' if line else ''}") from error
    except RecursionError as error:
        raise _failed("it calls itself without end") from error
    except Exception as error:  # a template's code can raise anything that Python can
        raise _failed(f"{type(error).__name__}: {error}") from error


def _failed(reason: str) -> LlamaWebError:
    words = " ".join(reason.split())
    shown = words if len(words) <= 300 else words[:300] + "…"
    return LlamaWebError(
        f"The model's chat template cannot be applied to these messages: {shown.rstrip('.')}; "
        "change the messages or prompt the model without chat."
    )


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """LlamaWebError unless messages are a list of dicts that have a role."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise LlamaWebError(f"Messages are a list of dicts with role and content, not {type(messages).__name__}.")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise LlamaWebError(f"Message {index} has no role; write it as {{'role': 'user', 'content': '…'}}.")
