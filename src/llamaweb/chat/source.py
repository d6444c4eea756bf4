"""Bounds of a chat template's text, looked at before anything reads it by recursion: jinja2's parser and compiler, and
then Python's, whose stack in WebAssembly is small."""

from __future__ import annotations

from math import isfinite

from jinja2 import Environment
from jinja2.exceptions import TemplateSyntaxError

# The largest of 74 templates of real models: 17,000 characters, 2,500 tokens, 12 blocks, 6 brackets, 30 operators.
MAX_CHARACTERS = 1 << 18
MAX_TOKENS = 20_000
MAX_BLOCKS = 32
"""Blocks ({% if %}, {% for %}, …) within blocks."""
MAX_BRANCHES = 300
"""{% elif %} of all blocks that are open: to Python, each is within the one before it."""
MAX_BRACKETS = 24
"""Brackets within brackets, of one tag."""
MAX_OPERATORS = 120
"""Operators, calls and attributes that an expression has one above the other, in about: those since the last comma, in
all brackets that are open."""
MAX_DIGITS = 1000
"""Of a whole number; Python takes the square of it."""

_BLOCKS = {"if", "for", "macro", "call", "filter", "set", "block", "with", "generation", "autoescape"}
_OPERATORS = {"not", "and", "or", "in", "is", "if", "else"}


def check_source(environment: Environment, source: str) -> None:
    """TemplateSyntaxError for a text that is too long or too deep."""
    if len(source) > MAX_CHARACTERS:
        raise TemplateSyntaxError(f"it is longer than {MAX_CHARACTERS} characters", 1)
    tokens = 0
    blocks = [0]  # branches of each that is open; the first one is the template
    levels, opens = [0], ""  # operators at each level of brackets; the block that the tag opens
    first = False
    for line, kind, text in environment.lex(source):
        if kind in ("whitespace", "data", "comment"):
            continue
        tokens += 1
        if (kind == "integer" and len(text) > MAX_DIGITS) or (
            kind == "float" and not isfinite(float(text.replace("_", "")))  # jinja2 would write it as a name, inf
        ):
            raise TemplateSyntaxError("it has a number that is too large", line)
        if kind in ("block_begin", "variable_begin"):
            levels, opens, first = [0], "", kind == "block_begin"
            continue
        if first:
            first = False
            opens = text if text in _BLOCKS else ""
            if text == "elif":
                blocks[-1] += 1
            elif text.startswith("end"):
                blocks = blocks[:-1] or [0]
        elif kind == "block_end":
            blocks += [0] if opens else []
        elif kind == "operator" and text in (")", "]", "}"):
            levels = levels[:-1] or [0]
        elif kind == "operator" and text == ",":
            levels[-1] = 0
        elif kind == "operator" or text in _OPERATORS:
            levels[-1] += 1
            if text == "=" and opens == "set" and len(levels) == 1:
                opens = ""  # {% set x = … %}, without an end
            elif text in ("(", "[", "{"):
                levels.append(0)
        if tokens > MAX_TOKENS:
            raise TemplateSyntaxError(f"it has more than {MAX_TOKENS} words and signs", line)
        if (
            len(blocks) > MAX_BLOCKS + 1
            or sum(blocks) > MAX_BRANCHES
            or len(levels) > MAX_BRACKETS + 1
            or sum(levels) > MAX_OPERATORS
        ):
            raise TemplateSyntaxError("it is nested too deep", line)
