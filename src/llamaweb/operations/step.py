"""Steps: what one dispatch computes, before it has a kernel and bindings, and the values between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from llamaweb.graph import Tensor
from llamaweb.kernels.formats import whole_blocks
from llamaweb.kernels.mul_mat import quantized_bytes

STATES = ("state", "conv_state")  # slots of what is kept from token to token, which are read and written
WRITTEN = ("y", "sum")  # slots of values that a step writes; it reads the others
_BINDING = 256  # bytes of which a multiple is where a binding may begin, on every device


@dataclass(frozen=True, eq=False)
class Value:
    """Something computed: float32, or codes of 8 or 16 bits; (row, n_tokens) in ggml's order. It lives in the arena.

    in_blocks: what reads it takes whole blocks of 32, so that a row has room for them; behind its end there may be
    anything. planes: so many such values of float32, one behind the other, each where a binding may begin.
    """

    name: str
    row: int
    n_tokens: int
    bits: int = 32
    in_blocks: bool = True
    planes: int = 1

    @property
    def pitch(self) -> int:
        """Numbers from the beginning of a row to that of the next."""
        return whole_blocks(self.row) if self.in_blocks else self.row

    @property
    def plane_bytes(self) -> int:
        """From the beginning of a plane to that of the next."""
        return -(-4 * self.pitch * self.n_tokens // _BINDING) * _BINDING

    @property
    def bytes(self) -> int:
        if self.planes > 1:
            return self.planes * self.plane_bytes
        if self.bits == 32:
            return 4 * self.pitch * self.n_tokens
        return quantized_bytes(self.row, self.n_tokens, self.bits)


@dataclass(frozen=True)
class View:
    """Of each row of a value, `row` numbers from number `first` on: in one stretch, or with `apart`, in groups of
    `each`, which begin so many numbers apart. plane: of which plane; None: of all."""

    value: Value
    row: int
    first: int = 0
    plane: int | None = None
    each: int = 0
    apart: int = 0

    @classmethod
    def of(cls, value: Value) -> View:
        return cls(value, value.row)

    def part(self, first: int, row: int) -> View:
        """Of one in one stretch."""
        return replace(self, row=row, first=self.first + first)

    def groups(self, first: int, each: int, apart: int) -> View:
        """Of one in one stretch: of every `apart` numbers, `each` from number `first` on."""
        if self.row == apart or each == apart:
            return self.part(first, self.row // apart * each)
        return replace(self.part(first, self.row // apart * each), each=each, apart=apart)

    def within(self, view: View) -> View:
        """The same numbers, where all of the value lie in `view`."""
        if view.apart:
            return view
        return replace(view, row=self.row, first=view.first + self.first, each=self.each, apart=self.apart)

    @property
    def at(self) -> int:
        """Which number of the value is the first token's first."""
        return (self.plane or 0) * self.value.plane_bytes // 4 + self.first

    @property
    def whole(self) -> bool:
        return self.row == self.value.row and not self.apart

    @property
    def n_tokens(self) -> int:
        return self.value.n_tokens

    @property
    def pitch(self) -> int:
        return self.value.pitch


@dataclass(frozen=True)
class State:
    """What an operation keeps from token to token."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Step:
    """One dispatch to be: `values` by the kernel's slot names; `weights` are stacked tensors of the file by slot. head:
    it serves the logits alone."""

    op: str
    name: str
    values: dict[str, View]
    weights: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    head: bool = False

    @property
    def n_tokens(self) -> int:
        """Of the batch: what is read of one row of many counts as one."""
        return self.values["y"].n_tokens if "y" in self.values else next(iter(self.values.values())).n_tokens

    @property
    def states(self) -> dict[str, State]:
        """What it keeps, by its kernel's slot; "conv_state": of the convolution that it has taken in."""
        return {slot: self.params[slot] for slot in STATES if slot in self.params}

    @property
    def lane_order(self) -> frozenset[str]:
        """Slots whose values are in lane order (wgsl/common/lanes.wgsl)."""
        return self.params.get("lane_order", frozenset())

    def reads(self, value: Value) -> bool:
        also = ("y",) if self.params.get("epilogue") == "add" else ()
        return any(v.value is value for slot, v in self.values.items() if slot not in WRITTEN or slot in also)

    def writes(self, value: Value) -> bool:
        return any(v.value is value for slot, v in self.values.items() if slot in WRITTEN)

    def but(self, **changes: Any) -> Step:
        """The same with other params."""
        return replace(self, params={**self.params, **changes})
