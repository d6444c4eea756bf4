"""Conversations of the kinds that chat templates know, and jinja2's own sandbox to render them with, which is what a
template gives where nothing is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(number: int, arguments: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": f"call{number:05d}", "type": "function", "function": function}


def result(number: int, content: str) -> dict[str, Any]:
    return {"role": "tool", "name": "get_weather", "tool_call_id": f"call{number:05d}", "content": content}


SYSTEM = {"role": "system", "content": "You are a helpful <b>&assistant. Ü"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.\nReally.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City 'name'"},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "days": {"type": "array", "items": {"type": "integer"}},
                "o": {
                    "type": "object",
                    "properties": {"a": {"type": "number"}, "b": {"type": ["string", "null"], "default": "x"}},
                    "required": ["a"],
                },
            },
            "required": ["city"],
        },
        "return": {"type": "object"},
    },
}
NOW = {
    "type": "function",
    "function": {"name": "now", "description": "Time", "parameters": {"type": "object", "properties": {}}},
}
AGENT = [
    message
    for i in range(10)
    for message in (
        user(f"do {i}"),
        answer("thinking", reasoning_content="r", tool_calls=[call(i, {"city": f"c{i}"})]),
        result(i, "res"),
        answer("done"),
    )
]
LONG = [
    message
    for i in range(20)
    for message in (user(f"Question {i} " * 40), answer(f"<think>hm {i}</think>\n\nAnswer {i} " * 40))
]
# Messages, and what a template is given besides.
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one question": ([user("Hi")], {}),
    "a system prompt": ([SYSTEM, user("Hi  "), answer(" Hello "), user("Bye\n")], {}),
    "many turns": ([SYSTEM, *LONG, user("end")], {}),
    "a call": (
        [
            SYSTEM,
            user("Weather?"),
            answer(None, tool_calls=[call(1, {"city": "Köln", "days": [1, 2], "o": {"a": 1.5, "b": None}})]),
            result(1, '{"t": 20}'),
            answer("It's 20"),
            user("thanks"),
        ],
        {"tools": [WEATHER, NOW]},
    ),
    "calls with texts": (
        [
            user("Weather?"),
            answer("", tool_calls=[call(1, '{"city": "X"}'), call(2, '{"city": "Y"}')]),
            result(1, "1"),
            result(2, "2"),
            user("x"),
        ],
        {"tools": [WEATHER]},
    ),
    "reasons": (
        [
            user("a"),
            answer("b", reasoning_content="why", thinking="hm"),
            user("c"),
            answer("d", reasoning_content="why2"),
            user("e"),
        ],
        {},
    ),
    "documents": (
        [SYSTEM, user("a")],
        {"documents": [{"title": "T", "text": "X", "contents": "c"}, {"title": "T2", "text": "Y"}]},
    ),
    "tools": ([SYSTEM, user("a")], {"tools": [WEATHER, NOW]}),
    "parts": (
        [
            user([{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]),
            answer([{"type": "text", "text": "ok"}]),
            user("x"),
        ],
        {},
    ),
    "a developer": ([{"role": "developer", "content": "dev"}, user("x")], {}),
    "answers alone": ([answer("x"), answer("y")], {}),
    "an agent": ([SYSTEM, *AGENT, user("end")], {"tools": [WEATHER, NOW]}),
}


def variables(kind: str, add_generation_prompt: bool = True) -> dict[str, Any]:
    """What `render_chat` gives a template for this conversation."""
    messages, more = CONVERSATIONS[kind]
    given = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
    return {**given, "bos_token": "<s>", "eos_token": "</s>", **more}


class _Generation(Extension):
    tags = {"generation"}  # noqa: RUF012 (the extension's interface)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, **options: Any) -> str:
    allowed = {name: options[name] for name in ("separators", "sort_keys") if name in options}
    if isinstance(value, Iterator):  # tools | map(attribute='function') | tojson, as llama.cpp takes it
        value = list(value)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **allowed)


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(message)


@lru_cache(maxsize=1000)
def _compiled(source: str) -> Any:
    """In the environment of Hugging Face's `apply_chat_template`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment.from_string(source)


def jinja2s(source: str, given: Mapping[str, Any]) -> str:
    """What jinja2's own sandbox makes of a template; raises what that raises."""
    return _compiled(source).render(**given)
