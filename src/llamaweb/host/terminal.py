"""The one place through which all lines for a terminal go.

Names, texts and errors come from files and servers of strangers: whatever a terminal would obey, and what makes a line
look like several or like another one, is shown as an escape.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from contextlib import suppress
from typing import Any, TextIO

from llamaweb.errors import HostError
from llamaweb.secrets import in_sentence

# C0 and C1 controls with DEL, those of Unicode's bidirectional text (deprecated ones, too), its separators of lines and
# paragraphs, and what marks text that is not to be seen: annotations and tags.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def harmless(text: str, keep: str = "\n\t") -> str:
    """A text as a terminal may have it: control characters but those of `keep` are written as escapes."""
    return _CONTROLS.sub(lambda c: c[0] if c[0] in keep else repr(c[0])[1:-1], text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same of a text that cannot be taken for several lines of ours, nor for columns of a table."""
    return harmless(" ".join(text.replace("\r\n", "\n").replace("\t", "\n").split("\n")))


def in_lines(value: Any) -> Any:
    """The same with each of its texts in one line: what a result of JSON says to a person."""
    if isinstance(value, dict):
        return {key: in_lines(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_lines(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def write(stream: TextIO, text: str, end: str = "\n", keep: str = "\n") -> None:
    """Raises HostError if standard output does not take it, and BrokenPipeError if its reader has gone. What standard
    error does not take (a full disk) is said to nobody: the answer matters more."""
    _send(stream, harmless(text, keep) + end)


def write_json(stream: TextIO, value: dict[str, Any]) -> None:
    """In ASCII without control characters, which is the same in every encoding of the stream. Numbers that JSON has not
    (a file's metadata may be infinite) are null."""
    _send(stream, json.dumps(_finite(value), allow_nan=False).replace("\x7f", "\\u007f") + "\n")  # DEL is ASCII, too


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _send(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        to_nobody(stream)
        if stream is not sys.stderr:
            raise HostError(f"Standard output cannot be written ({error.strerror}); send it elsewhere.") from error


def to_nobody(stream: TextIO) -> None:
    """From now on, what is written to it, and what waits in it, goes nowhere: Python flushes it at its exit, too."""
    with suppress(OSError):  # of a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Logged(logging.Handler):
    """What libraries log, which may repeat what a server sent, or the address that was asked for."""

    def emit(self, record: logging.LogRecord) -> None:
        write(sys.stderr, in_sentence(self.format(record)))
