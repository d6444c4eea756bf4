"""The messages of a chat: what callers may write, and what is said of what they may not."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest

from llamaweb.chat.messages import plain_messages
from llamaweb.errors import LlamaWebError

WRITE = "write it as {'role': 'user', 'content': '…'}."
PLAIN: dict[str, tuple[Any, Any]] = {
    "a text": ({"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}),
    "bytes": ({"role": "user", "content": "ä".encode()}, {"role": "user", "content": "ä"}),
    "a bytearray": ({"role": "user", "content": bytearray(b"Hi")}, {"role": "user", "content": "Hi"}),
    "no part": ({"role": "user", "content": []}, {"role": "user", "content": ""}),
    "parts": (
        {"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"type": "text", "text": ""}]},
        {"role": "user", "content": "a\nb\n"},
    ),
    "a tuple of parts": ({"role": "tool", "content": ("a", "b")}, {"role": "tool", "content": "a\nb"}),
    "no words of an assistant": ({"role": "assistant"}, {"role": "assistant"}),
    "None of an assistant": ({"role": "assistant", "content": None}, {"role": "assistant", "content": None}),
    "what else it holds": (
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ),
    "another mapping": (UserDict(role="user", content="Hi", name="A"), {"role": "user", "content": "Hi", "name": "A"}),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_message_has_one_text_and_all_else_that_it_had(kind: str) -> None:
    given, plain = PLAIN[kind]
    before = dict(given)
    (found,) = plain_messages([given])
    assert (found, type(found)) == (plain, dict)
    assert dict(given) == before and found is not given


def test_messages_stay_in_their_order_whatever_sequence_they_are_in() -> None:
    assert [m["content"] for m in plain_messages(tuple({"role": "user", "content": c} for c in "abc"))] == [
        "a",
        "b",
        "c",
    ]


def message(**more: Any) -> list[dict[str, Any]]:
    """A sound message, and one with these."""
    return [{"role": "user", "content": "Hi"}, more]


REFUSED: dict[str, tuple[Any, str]] = {
    "a text": ("Hi", "messages is 'Hi'; it must be a list of dicts, as [{'role': 'user', 'content': '…'}]."),
    "bytes": (b"Hi", "messages is b'Hi'; it must be a list of dicts, as [{'role': 'user', 'content': '…'}]."),
    "one": ({"a": 1}, "messages is {'a': 1}; it must be a list of dicts, as [{'role': 'user', 'content': '…'}]."),
    "a number": (1, "messages is 1; it must be a list of dicts, as [{'role': 'user', 'content': '…'}]."),
    "none": ([], "messages is empty; give at least one, as [{'role': 'user', 'content': '…'}]."),
    "no role": (message(content="Hi"), f"Message 1 has no role; {WRITE}"),
    "a role that is no text": (message(role=1, content="Hi"), f"Message 1 has no role; {WRITE}"),
    "no message": (["Hi"], f"Message 0 has no role; {WRITE}"),
    "no content": (message(role="user"), f"Message 1 has no content; {WRITE}"),
    "None": (message(role="tool", content=None), f"Message 1 has no content; {WRITE}"),
    "a number as content": (message(role="user", content=1), "The content of message 1 is 1; it must be a text."),
    "a dict as content": (
        message(role="assistant", content={"a": 1}),
        "The content of message 1 is {'a': 1}; it must be a text.",
    ),
    "other bytes": (
        message(role="user", content=b"\xff"),
        "The content of message 1 is no UTF-8 (invalid start byte); give a text.",
    ),
    "an image": (
        message(role="user", content=["a", {"type": "image_url", "text": "a"}]),
        "Message 1 has a part of type 'image_url'; models here read text alone, so leave it out.",
    ),
    "a number as a part": (
        message(role="user", content=[1]),
        "Message 1 has a part that is 1; models here read text alone, so leave it out.",
    ),
    "a part of no type": (
        message(role="user", content=[{"text": "a"}]),
        "Message 1 has a part that is {'text': 'a'}; models here read text alone, so leave it out.",
    ),
    "a part without a text": (
        message(role="user", content=[{"type": "text", "text": 1}]),
        "Message 1 has a part without a text; write it as {'type': 'text', 'text': '…'}.",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_message_is_told_by_its_number(kind: str) -> None:
    given, sentence = REFUSED[kind]
    with pytest.raises(LlamaWebError) as error:
        plain_messages(given)
    assert str(error.value) == sentence
