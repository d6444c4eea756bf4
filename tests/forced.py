"""Forced decoding: which tokens an engine finds likeliest behind those that llama.cpp's CPU chose one after the other
(tests/golden/make_greedy_golden.py)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CASES = json.loads((Path(__file__).parent / "golden" / "greedy.json").read_text())
LEAST = 0.95  # of the tokens agree, in the study of "Llamas on the Web"


@dataclass(frozen=True)
class Forced:
    """prompt: ids; chosen: those behind it."""

    prompt: list[int]
    chosen: list[int]

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.chosen]

    def agreement(self, likely: Sequence[int]) -> float:
        """Of the chosen tokens, the share that is likeliest; likely: behind each of `ids`."""
        return float(np.mean(np.array(likely)[len(self.prompt) - 1 : -1] == self.chosen))


FORCED = {name: Forced(**case) for name, case in _CASES.items()}
TINY = [name for name in FORCED if not name.startswith("the ")]
