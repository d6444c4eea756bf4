"""A case of a self-check: kernels over small made data, and what they must leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from llamaweb.ggml import GGMLType, dequantize
from llamaweb.kernels.formats import FORMATS, Format
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.random_blocks import random_blocks

# Normalized mean squared errors that are allowed: of float32, and of products in f16.
LIMIT = 1e-6
LIMIT_F16 = 1e-5
_ROWS = 5  # different rows of a made weight, and …
_BLOCKS = 7  # … different blocks of such a row; of neither are there a power of two, as of lanes and tiles


@dataclass(frozen=True)
class Data:
    """Rows of values in a slot: row i is written, or read, from byte at[i] on. Rows are whole words."""

    slot: str
    at: np.ndarray
    rows: np.ndarray

    @property
    def end(self) -> int:
        """One past its last byte."""
        return int(self.at.max()) + self.row_bytes

    @property
    def row_bytes(self) -> int:
        return self.rows.nbytes // len(self.rows)


@dataclass(frozen=True)
class Expected(Data):
    """What must be there afterwards, within a normalized mean squared error. of: what is compared is this of what is
    found (rows as here, of type `dtype`)."""

    limit: float = LIMIT
    dtype: type = np.float32
    of: Callable[[np.ndarray], np.ndarray] | None = None
    words: int = 0  # of a found row; 0: as many as there are expected

    @property
    def row_bytes(self) -> int:
        return 4 * self.words or self.rows.shape[1] * np.dtype(self.dtype).itemsize

    def holds(self, found: bytes) -> bool:
        values: np.ndarray = np.frombuffer(found, self.dtype).reshape(len(self.at), -1)
        values = (self.of(values) if self.of else values).astype(np.float64)
        expected = self.rows.astype(np.float64).reshape(values.shape)
        norm = float(np.sum(expected**2))
        return bool(np.sum((values - expected) ** 2) <= self.limit * norm)  # of a NaN, nothing is true


@dataclass(frozen=True)
class Weight:
    """A made matrix of rows of k, in the file's format; only `groups` of its rows (the first, and how many) are there.
    raw and dense: the rows of all groups, one group behind the other."""

    format: Format
    k: int
    groups: tuple[tuple[int, int], ...]
    raw: np.ndarray
    dense: np.ndarray


@dataclass(frozen=True)
class Run:
    """A kernel and its workgroups. renamed: slots that are another kernel's of the case, by the name that they have
    there."""

    kernel: Kernel
    workgroups: tuple[int, int, int]
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Kernels one behind the other. reach: the least bytes of slots of which a kernel uses more than data tells."""

    runs: tuple[Run, ...]
    data: tuple[Data, ...]
    expected: tuple[Expected, ...]
    weight: Weight | None = None
    reach: Mapping[str, int] = field(default_factory=dict)

    @property
    def slots(self) -> dict[str, int]:
        """Bytes of each slot, but for those of the weight."""
        found = dict(self.reach)
        for part in (*self.data, *self.expected):
            found[part.slot] = max(found.get(part.slot, 0), part.end)
        return found


def whole(slot: str, values: np.ndarray, at: int = 0) -> Data:
    """One stretch of values."""
    return Data(slot, np.array([at]), np.ascontiguousarray(values).reshape(1, -1))


def batch(n_tokens: int, n_past: int = 0, **words: int) -> Data:
    """The head of the I/O region; words by IOLayout's names."""
    found = np.zeros(IO.tokens + 4, np.uint32)
    for name, value in {"n_tokens": n_tokens, "n_past": n_past, **words}.items():
        found[getattr(IO, name)] = value
    return whole("batch", found)


def rng(kernel: Kernel) -> np.random.Generator:
    return np.random.default_rng(len(kernel.constants))


def weight(format: Format, k: int, groups: tuple[tuple[int, int], ...], columns: int = 0) -> Weight:
    """Rows of groups are the same few ones in turn, those of each group from another one on. columns: those of the k
    that come before zeros; 0: all."""
    raw, dense = _made(format.type)
    at = np.arange(k // format.block_size) % _BLOCKS
    which = np.concatenate([(np.arange(count) + 2 * group) % _ROWS for group, (_, count) in enumerate(groups)])
    raw, dense = raw[:, at].reshape(_ROWS, -1), dense[:, at].reshape(_ROWS, k)
    if columns and columns < k:  # in formats of single numbers alone
        raw[:, columns * format.block_bytes :] = 0
        dense[:, columns:] = 0
    return Weight(format, k, groups, raw[which], dense[which])


@cache
def _made(type: GGMLType) -> tuple[np.ndarray, np.ndarray]:
    """Different rows and blocks of a format: bytes (rows, blocks, bytes of one), and values (rows, blocks, weights)."""
    format = FORMATS[type]
    raw = random_blocks(type, _ROWS * _BLOCKS * format.block_size, 0.25, np.random.default_rng(int(type)))
    raw = raw.reshape(_ROWS, _BLOCKS, format.block_bytes)
    return raw, dequantize(raw.reshape(-1), format.type).reshape(_ROWS, _BLOCKS, -1).astype(np.float32)


def in_lane_order(vector: np.ndarray) -> np.ndarray:
    """A vector as matrix-vector products read it (wgsl/common/lanes.wgsl), with zeros up to a whole block of 32."""
    vector = np.pad(vector, (0, -len(vector) % 32))
    return np.ascontiguousarray(vector.reshape(-1, 8, 4).swapaxes(0, 1)).reshape(-1)


def lane_place(i: np.ndarray, n: int) -> np.ndarray:
    """Where values i of a vector of n lie in lane order."""
    return (i % 32 // 4 * (n // 32) + i // 32) * 4 + i % 4


def rms_normed(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def swish(x: np.ndarray, slope: float) -> np.ndarray:
    return x / (1 + np.exp(-slope * x))


def silu(x: np.ndarray) -> np.ndarray:
    return swish(x, 1)


def gelu(x: np.ndarray) -> np.ndarray:
    """Its tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "mul": np.multiply,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "silu": silu,
    "gelu": gelu,
    "relu_sqr": lambda x: np.square(np.maximum(x, 0)),
    "swiglu": lambda x, y: silu(x) * y,
    "geglu": lambda x, y: gelu(x) * y,
    "swiglu_oai": lambda x, y: swish(np.minimum(x, 7), 1.702) * (np.clip(y, -7, 7) + 1),
}


def evaluated(expression: int | float | tuple[Any, ...], values: Sequence[np.ndarray]) -> np.ndarray:
    """An elementwise operation's expression (wgsl/common/functions.wgsl) over the values of its operands."""
    if isinstance(expression, int):
        return values[expression]
    if isinstance(expression, float):
        return np.array(expression)
    name, *parts = expression
    if name not in _FUNCTIONS:
        raise NotImplementedError(f"The function {name} has no formula in numpy yet; add it to kernels/checks/case.py.")
    return _FUNCTIONS[name](*(evaluated(part, values) for part in parts))
