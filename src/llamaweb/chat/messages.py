"""The messages of a chat as callers write them, checked, with each content as one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamaweb.errors import LlamaWebError, short


def plain_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages, in OpenAI's form, with text parts of a content joined by line ends, as llama.cpp does; what else a
    message holds goes to the template as it is. Raises LlamaWebError for what is no message, and for parts that are no
    text."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise LlamaWebError(
            f"messages is {short(messages)}; it must be a list of dicts, as [{{'role': 'user', 'content': '…'}}]."
        )
    if not messages:
        raise LlamaWebError("messages is empty; give at least one, as [{'role': 'user', 'content': '…'}].")
    return [_plain(number, message) for number, message in enumerate(messages)]


def _plain(number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise LlamaWebError(f"Message {number} has no role; write it as {{'role': 'user', 'content': '…'}}.")
    content = message.get("content")
    if content is None and message["role"] != "assistant":  # whose tool calls need no words
        raise LlamaWebError(f"Message {number} has no content; write it as {{'role': 'user', 'content': '…'}}.")
    if isinstance(content, bytes | bytearray):
        content = _decoded(number, bytes(content))
    elif isinstance(content, Sequence) and not isinstance(content, str):
        content = "\n".join(_text(number, part) for part in content)
    elif content is not None and not isinstance(content, str):
        raise LlamaWebError(f"The content of message {number} is {short(content)}; it must be a text.")
    return {**message, "content": content} if "content" in message else dict(message)


def _text(number: int, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        what = f"of type {short(kind)}" if kind else f"that is {short(part)}"
        raise LlamaWebError(f"Message {number} has a part {what}; models here read text alone, so leave it out.")
    if not isinstance(part.get("text"), str):
        raise LlamaWebError(f"Message {number} has a part without a text; write it as {{'type': 'text', 'text': '…'}}.")
    return part["text"]


def _decoded(number: int, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise LlamaWebError(f"The content of message {number} is no UTF-8 ({error.reason}); give a text.") from None
