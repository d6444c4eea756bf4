"""Chat templates: the jinja2 text in a model file that turns messages into a prompt, run in a sandbox.

Templates come from strangers: they are bounded in what they see (`sandbox`), in their text (`source`) and in what they
take (`budget`). Their environment is the one that Hugging Face's `apply_chat_template` gives them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from llamaweb.chat.led import led
from llamaweb.chat.sandbox import Environment
from llamaweb.chat.source import check_source
from llamaweb.errors import LlamaWebError


@lru_cache(maxsize=8)
def _compile(source: str) -> tuple[Environment, Any]:
    environment = Environment()
    check_source(environment, source)
    return environment, environment.from_string(led(environment.weights, environment.parse(source)))


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """The text of a template; LlamaWebError, in one sentence, if it cannot be read or rendered."""
    try:
        environment, template = _compile(source)
        environment.start()
        return template.render(variables)
    except Exception as error:  # a template's code can raise anything that Python can
        raise _failed(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Why, in words of templates where Python's are about the code that they became."""
    words = str(error)
    if isinstance(error, TemplateError):
        line = getattr(error, "lineno", None)
        return f"{error.message or type(error).__name__}{f' (line {line})' if line else ''}"
    if isinstance(error, TypeError) and _SIGNATURE.search(words):
        return "it calls a filter, a test or a function with other arguments than it takes"
    if isinstance(error, TypeError) and _INSIDE.search(words):
        return "it does something with a value that is not of the kind for it"
    if isinstance(error, KeyError):
        return f"there is no {error}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return words or type(error).__name__


# What Python says of a call that does not fit, but not jinja2 of a macro, and where it says its own names.
_SIGNATURE = re.compile(
    r"^(?!macro ).*(missing \d+ required|takes .*arguments?\b|expected .*\d arguments?\b"
    r"|keyword argument|argument after \*|after \* must|keywords must be strings)"
)
_INSIDE = re.compile(r"__\w+__|JSON serializable")
_REASONS: dict[type[Exception], str] = {
    RecursionError: "it calls itself without end",
    MemoryError: "it takes more memory than there is",
    OverflowError: "it counts with numbers that are too large",
    ZeroDivisionError: "it divides by zero",
    IndexError: "it asks for an item that is not there",
    SyntaxError: "it is written in a way that no code can be made of",
}


def _failed(reason: str) -> LlamaWebError:
    words = " ".join(reason[:2000].split())
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
