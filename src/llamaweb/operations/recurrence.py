"""What recurrences share: a state of a matrix a head, whose rows are spread over workgroups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamaweb.kernels.checks.case import Expected

MOST_CHUNK = 16  # tokens at a time, …
_CHUNK_BYTES = 14 << 10  # … for which workgroup memory has room; it has 16 KiB on any device


@dataclass(frozen=True)
class Spread:
    """A workgroup has `rows` rows; `parts` invocations share each, and hold `fours` vec4 of it in registers."""

    fours: int
    parts: int
    rows: int

    @classmethod
    def of(cls, row: int, workgroup: int, parts: int) -> Spread:
        """row: numbers of one; parts: most of it."""
        fours = in_fours(row) // 4
        parts = min(parts, 1 << (fours - 1).bit_length())
        return cls(-(-fours // parts), parts, workgroup // parts)

    @property
    def held(self) -> int:
        """vec4 of a row, with room for zeros behind its end."""
        return self.fours * self.parts


def chunk(token_bytes: int) -> int:
    """Tokens at a time, each of which takes so much workgroup memory."""
    return min(max(_CHUNK_BYTES // token_bytes, 1), MOST_CHUNK)


def in_fours(row: int) -> int:
    """Numbers of a row in whole vec4."""
    return -(-row // 4) * 4


def padded(state: np.ndarray) -> np.ndarray:
    """A state (heads, rows, row length), its rows in whole vec4."""
    return np.pad(state, ((0, 0), (0, 0), (0, -state.shape[-1] % 4)))


def expected_state(state: np.ndarray, slot: str = "state") -> Expected:
    return Expected(slot, np.array([0]), state.astype(np.float32).reshape(1, -1))
