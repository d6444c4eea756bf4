"""Chat templates: the jinja2 text in a model file that turns messages into a prompt, run in a sandbox.

Templates come from strangers: they are bounded in what they see (`sandbox`), in their text (`source`) and in what they
take (`budget`). Their environment is the one that Hugging Face's `apply_chat_template` gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2.exceptions import TemplateError

from llamaweb.chat.sandbox import Environment, led
from llamaweb.chat.source import check_source
from llamaweb.errors import LlamaWebError


@lru_cache(maxsize=8)
def _compile(source: str) -> tuple[Environment, Any]:
    environment = Environment()
    check_source(environment, source)
    return environment, environment.from_string(led(environment, environment.parse(source)))


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """The text of a template; LlamaWebError, in one sentence, if it cannot be read or rendered."""
    try:
        environment, template = _compile(source)
        environment.start()
        return template.render(variables)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise _failed(f"{error.message or type(error).__name__}{f' (line {line})' if line else ''}") from error
    except RecursionError as error:
        raise _failed("it calls itself without end") from error
    except MemoryError as error:
        raise _failed("it takes more memory than there is") from error
    except KeyError as error:
        raise _failed(f"there is no {error}") from error
    except Exception as error:  # a template's code can raise anything that Python can
        raise _failed(str(error) or type(error).__name__) from error


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
