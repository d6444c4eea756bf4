"""What a kernel is: a template, its constants and its bindings, and the workgroups it is launched with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

from llamaweb.kernels.formats import Format


@dataclass(frozen=True, slots=True)
class Slot:
    """One binding of a kernel: its variable's name in WGSL, the element type of its array, "read" or "read_write"."""

    name: str
    type: str
    access: str


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Kernel:
    """A shader to be compiled: equal kernels are one pipeline."""

    template: str
    constants: tuple[tuple[str, Any], ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Variant:
    """One of several ways to compute the same, of which tuning takes the fastest; its str() is for people. Those of an
    operation are a class of their own, and stored by their fields."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel and its workgroups for a full batch. With `token_tile`, the second count grows with the batch's tokens:
    ceil(tokens / token_tile)."""

    kernel: Kernel
    workgroups: tuple[int, int, int]
    token_tile: int = 0
    plain: Launch | None = None  # what does the same on any device, with the same bindings


_known: WeakKeyDictionary[Kernel, ref[Kernel]] = WeakKeyDictionary()  # each by itself: what is weak is both


def kernel(template: str, slots: list[Slot], **constants: Any) -> Kernel:
    """Equal kernels are one object: a layer's are those of the others, in every plan that tuning makes."""
    made = Kernel(template, tuple(sorted(constants.items())), tuple(slots))
    known = _known.setdefault(made, ref(made))()
    return made if known is None else known


def planes(format: Format, access: str = "read") -> list[Slot]:
    return [Slot(f"w_{plane.name}", plane.type, access) for plane in format.planes]


def weight(format: Format) -> list[Slot]:
    codes = [Slot("w_codes", format.codebook.type, "read")] if format.codebook else []
    return [*planes(format), *codes]


# The arena is one buffer, and WebGPU lets a dispatch use a buffer either read-only or writable as a whole:
# so everything in the arena is bound writable.
def arena(name: str, type: str = "vec4<f32>") -> Slot:
    return Slot(name, type, "read_write")


BATCH = Slot("batch", "u32", "read")
PHASES = Slot("phases", "u32", "read")
GLU = ("swiglu", "geglu", "swiglu_oai")  # epilogues that halve the rows: gate above up

NORM = Slot("norm_weight", "vec4<f32>", "read")
BIAS = Slot("bias", "f32", "read")
SCALES = Slot("tensor_scales", "f32", "read")


def spread(workgroups: int) -> tuple[int, int, int]:
    """Workgroups over two dimensions where one does not hold them (65,535); kernels count x + y * 65535."""
    return (workgroups, 1, 1) if workgroups <= 65535 else (65535, -(-workgroups // 65535), 1)
