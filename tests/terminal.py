"""What a terminal gets of a command, and models of strangers who would like to command it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tty
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import numpy as np
from gguf import GGUFValueType, TokenType

from tests import tiny
from tests.crafted import ARRAY, crafted

# Begun by a mark, so that they are told from what rich draws: C0, C1, DEL, bidirectional controls, ends of lines, the
# title, the screen, markup.
ATTACK = "".join(
    f"EVIL{each}"
    for each in (
        *map(chr, range(1, 32)),
        *map(chr, range(127, 160)),
        *"\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufff9\U000e0041",
        "\x1b[2J\x1b[31m",
        "\x1b]0;title\x07",
        "\x1bP1\x1b\\",
        "[bold]markup[/]",
        "[link=x]",
    )
)
NAME = ATTACK.replace("/", "")[:180]  # of a file
_OF_RICH = re.compile(r"\x1b\[[0-9;?]*[mhlAKGJ]|\r|\x1b\[\?25[hl]")
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\U000e0041]"
)


LLAMAWEB = (sys.executable, "-m", "llamaweb.host.cli")


def on_a_terminal(*arguments: object, command: Sequence[str] = LLAMAWEB, seconds: float = 300) -> tuple[int, str]:
    """The exit code of a command, and all that its terminal was sent."""
    ours, its = pty.openpty()
    tty.setraw(its)  # what is sent is what is read: no \r\n for \n
    sent = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # the other end has gone
                return
            sent.extend(piece)

    reader = Thread(target=read, daemon=True)
    reader.start()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environment
    )
    os.close(its)
    try:
        code = process.wait(seconds)
    finally:
        process.kill()
    reader.join(10)
    os.close(ours)
    return code, sent.decode(errors="surrogateescape")


def check_obeys_nobody(sent: str, its_lines: bool = False) -> None:
    """Of what a terminal was sent, nothing but rich's own drawing commands it; nor is a line (but of an answer or a
    traceback: `its_lines`) or a tab the stranger's."""
    also = "" if its_lines else "|[\n\t]"
    found = re.search(f"EVIL(?:{_COMMANDS.pattern}{also})", sent)
    assert not found, repr(sent[max(0, found.start() - 80) : found.end() + 40])
    rest = _OF_RICH.sub("", sent)
    left = _COMMANDS.search(rest)
    assert not left, repr(rest[max(0, left.start() - 80) : left.end() + 40])


def hostile_model() -> bytes:
    """A model whose every string that may be anything is an attack, and that answers in nothing else."""
    tokens, _ = tiny.vocabulary()
    types = [int(TokenType.CONTROL if token in tiny.SPECIAL else TokenType.NORMAL) for token in tokens]
    more = [f"{ATTACK}{number}" for number in range(2)]
    text = GGUFValueType.STRING

    def answer(name: str, data: np.ndarray) -> np.ndarray:
        if name == "output.weight":  # whatever the state is, one of both is the likeliest
            data = np.zeros_like(data)
            data[-2:] = np.array([[1.0], [-1.0]]) * np.arange(1, 1 + data.shape[1])
        return data

    return crafted(
        {
            "general.name": (ATTACK, text),
            f"general.{ATTACK}": (ATTACK, text),
            "general.tags": ([ATTACK, ATTACK], ARRAY, text),
            "general.license": (ATTACK, text),
            "tokenizer.chat_template": ("{{ raise_exception(messages[0].content) }}", text),
            "tokenizer.ggml.eos_token_id": (2, GGUFValueType.UINT32),
            "tokenizer.ggml.token_type": ([*types, 4, 4], ARRAY, GGUFValueType.INT32),
        },
        spec=tiny.TinyLlama(tied=False),
        more_tokens=more,
        change=answer,
    )


def write_hostile(folder: Path) -> Path:
    path = folder / f"{NAME}.gguf"
    path.write_bytes(hostile_model())
    return path
