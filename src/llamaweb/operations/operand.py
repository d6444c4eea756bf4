"""Where a kernel finds the numbers of the values that a step reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamaweb.kernels.checks.case import Data, Expected, in_lane_order
from llamaweb.kernels.kernel import Slot, arena
from llamaweb.operations.step import Step, Value

# A number, an operand's index, or a function's name with expressions: ("add", 0, ("mul", 1, 0.5))
Expression = int | float | tuple[Any, ...]


@dataclass(frozen=True)
class Operand:
    """Number i of token t is number first + t * pitch + i % repeats of its slot; 0: it does not repeat. lanes: the
    length of a row that is in lane order, or 0. each, apart: where they are in groups of `each`, how far apart these
    begin."""

    slot: str
    first: int = 0
    pitch: int = 0
    repeats: int = 0
    lanes: int = 0
    each: int = 0
    apart: int = 0

    def data(self, values: np.ndarray) -> Data:
        """Values of tokens (T, n) there, for a case."""
        return Data(self.slot, *self._laid(values))

    def expected(self, values: np.ndarray) -> Expected:
        values = np.asarray(values, np.float32)
        return Expected(self.slot, *self._laid(in_lane_order(values[0])[None] if self.lanes else values))

    def _laid(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bytes where rows begin, and these."""
        groups = values.reshape(len(values), -1, self.each or values.shape[1])
        tokens, count, each = groups.shape
        at = self.first + self.pitch * np.arange(tokens)[:, None] + self.apart * np.arange(count)
        return 4 * at.reshape(-1), np.ascontiguousarray(groups).reshape(-1, each)


def operands(step: Step) -> dict[str, Operand]:
    """Of each slot; a value is bound once, as y or as the first slot that has it, whatever slots share it."""
    bound: dict[tuple[Value, int | None], str] = {}
    found = {}
    for slot in sorted(step.values, key=lambda slot: (slot != "y", slot)):
        view = step.values[slot]
        name = bound.setdefault((view.value, view.plane), slot)
        pitch = view.pitch if view.n_tokens > 1 else 0
        lanes = view.value.row if slot in step.lane_order else 0
        found[slot] = Operand(name, view.first, pitch, lanes=lanes, each=view.each, apart=view.apart)
    return found


def bound(operands: Mapping[str, Operand]) -> list[Slot]:
    """A kernel's slots of values but for y."""
    return [arena(name, "f32") for name in dict.fromkeys(o.slot for o in operands.values()) if name != "y"]
