"""What a person or a script sees: answers on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from typing import Any

from llamaweb.errors import megabytes, said
from llamaweb.host.terminal import one_line, write, write_json
from llamaweb.secrets import in_sentence

_PHASES = {
    "header": "Reading the model's header",
    "weights": "Loading the weights",
    "tuning": "Timing kernel variants",
    "pipelines": "Compiling the kernels",
    "tokens": "Evaluating the text",
    "repetitions": "Measuring",
    "fusions": "Measuring without each fusion",
}


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
            write(sys.stderr, f"{one_line(label)}{size} …")
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
            write(sys.stdout, piece, end="", keep="\n\t")
            self._within_line = bool(piece) and not piece.endswith("\n")

    def note(self, line: str) -> None:
        """A line for a person, beside the answer."""
        self.clear()
        write(sys.stderr, one_line(in_sentence(line)))

    def warn(self, message: str) -> None:
        """A note that is made once, whoever finds it: a file's header is read here and in the page."""
        if message not in self._warned:
            self._warned.add(message)
            self.note(message)

    def result(self, result: dict[str, Any], text: str) -> None:
        """The command's result: the JSON object, or `text` for a person, in which what is not ours is in one line."""
        self.clear()
        if self.as_json:
            self._object(result)
        else:
            write(sys.stdout, text)
            self._within_line = False

    def error(self, kind: str, message: str) -> None:
        """One sentence on standard error; with `as_json` an object on standard output as well, unless the result is
        there already. An answer that is broken off ends its line before."""
        message = in_sentence(message)  # of an error that is not ours
        self.clear()
        if self._within_line:
            write(sys.stdout, "")
            self._within_line = False
        write(sys.stderr, one_line(message))
        if self.as_json and not self._answered:
            self._object({"error": {"type": kind, "message": message}})

    def _object(self, value: dict[str, Any]) -> None:
        """The one JSON object."""
        self._answered = True
        write_json(sys.stdout, value)

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
            self._task = self._bars.add_task(one_line(label), total=total or None)
        self._bars.update(self._task, completed=done, total=total or None)


def memory_line(memory: dict[str, int]) -> str:
    """The memory report in one line; `total` is what the GPU holds."""
    names = (name for name in ("weights", "kv", "state", "tables", "arena", "io") if name in memory)
    parts = ", ".join(f"{name} {megabytes(memory[name])}" for name in names)
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
