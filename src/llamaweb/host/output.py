"""What a person or a script sees: answers on standard output, everything else on standard error.

Names, texts and errors come from files of strangers: whatever a terminal would obey is shown as an escape. All that is
written goes through `_write`, but the one JSON object, which is ASCII.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from typing import Any, TextIO

from llamaweb.errors import HostError, megabytes, said

_PHASES = {
    "header": "Reading the model's header",
    "weights": "Loading the weights",
    "tuning": "Timing kernel variants",
    "pipelines": "Compiling the kernels",
    "tokens": "Evaluating the text",
    "repetitions": "Measuring",
    "fusions": "Measuring without each fusion",
}


# C0 and C1 controls, those of Unicode's bidirectional text, and its separators of lines and paragraphs.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str, keep: str = "\n\t") -> str:
    """A text as a terminal may have it: control characters but those of `keep` are written as escapes."""
    return _CONTROLS.sub(lambda c: c[0] if c[0] in keep else repr(c[0])[1:-1], text.replace("\r\n", "\n"))


def _write(stream: TextIO, text: str, end: str = "\n") -> None:
    _send(stream, harmless(text) + end)


def _send(stream: TextIO, text: str) -> None:
    """Raises HostError if standard output does not take it, and BrokenPipeError if its reader has gone. What standard
    error does not take (a full disk) is said to nobody: the answer matters more."""
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


class Output:
    """One command's output. With `as_json`, standard output gets one JSON object at the end and nothing else."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._answered = False
        self._within_line = False  # of the answer
        self._warned: set[str] = set()
        self._label = ""
        self._bars: Any = None
        self._task: Any = None

    def report(self, label: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Progress: a bar where standard error is a terminal, else one line for each thing that is begun."""
        if sys.stderr.isatty():
            self._bar(label, done, total, unit)
        elif label != self._label:
            size = f" ({megabytes(total)})" if unit == "B" and total else ""
            _write(sys.stderr, f"{_one_line(label)}{size} …")
        self._label = label

    def event(self, event: dict[str, Any]) -> None:
        """An event of the page: progress, text or a warning."""
        if event["event"] == "text":
            self.text(event["text"])
        elif event["event"] == "progress":
            phase = event["phase"]
            label = _PHASES.get(phase, phase.capitalize())
            self.report(label, event.get("done", 0), event.get("total", 0), event.get("unit", ""))
        elif event["event"] == "warning":
            self.warn(said(event["message"], "command line"))

    def text(self, piece: str) -> None:
        """A piece of the answer, at once."""
        self.clear()
        if not self.as_json:
            _write(sys.stdout, piece, end="")
            self._within_line = bool(piece) and not piece.endswith("\n")

    def note(self, line: str) -> None:
        """A line for a person, beside the answer."""
        self.clear()
        _write(sys.stderr, _one_line(line))

    def warn(self, message: str) -> None:
        """A note that is made once, whoever finds it: a file's header is read here and in the page."""
        if message not in self._warned:
            self._warned.add(message)
            self.note(message)

    def result(self, result: dict[str, Any], text: str) -> None:
        """The command's result: the JSON object, or `text` for a person."""
        self.clear()
        if self.as_json:
            self._object(result)
        else:
            _write(sys.stdout, text)
            self._within_line = False

    def error(self, kind: str, message: str) -> None:
        """One sentence on standard error; with `as_json` an object on standard output as well, unless the result is
        there already. An answer that is broken off ends its line before."""
        self.clear()
        if self._within_line:
            _write(sys.stdout, "")
            self._within_line = False
        _write(sys.stderr, _one_line(message))
        if self.as_json and not self._answered:
            self._object({"error": {"type": kind, "message": message}})

    def _object(self, value: dict[str, Any]) -> None:
        """The one JSON object; in ASCII, which is the same in every encoding of standard output."""
        self._answered = True
        _send(sys.stdout, json.dumps(value) + "\n")

    def clear(self) -> None:
        """Take the progress bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _bar(self, label: str, done: int, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        if self._bars is None or label != self._label:
            self.clear()
            count = (TextColumn("{task.completed:.0f}/{task.total:.0f}"),)
            amount = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) if unit == "B" else count
            columns = [BarColumn(), *amount] if total else []
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                *columns,
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(harmless(_one_line(label)), total=total or None)
        self._bars.update(self._task, completed=done, total=total or None)


def _one_line(text: str) -> str:
    """A text that cannot be taken for several of ours."""
    return " ".join(text.replace("\r\n", "\n").split("\n"))


def memory_line(memory: dict[str, int]) -> str:
    """The memory report in one line; `total` is what the GPU holds."""
    parts = ", ".join(f"{name} {megabytes(memory[name])}" for name in ("weights", "kv", "arena", "io"))
    heap = f"; wasm heap {megabytes(memory['wasm_heap'])}" if memory.get("wasm_heap") else ""
    return f"GPU memory {megabytes(memory['total'])} ({parts}){heap}"


def timings_line(timings: dict[str, float]) -> str:
    """How long it took, in one line."""
    return (
        f"loaded in {timings['load_ms'] / 1e3:.1f} s; "
        f"prompt {timings['prompt_tokens']} tokens at {timings['prompt_per_second']:.1f}/s; "
        f"answer {timings['generated_tokens']} tokens at {timings['generated_per_second']:.1f}/s; "
        f"first token after {timings['first_token_ms'] / 1e3:.2f} s"
    )
