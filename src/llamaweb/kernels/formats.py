"""Quantized formats as data: how a block lies in the file, and in which planes it lies on the GPU.

A format is one descriptor here and one WGSL fragment, `wgsl/formats/NAME.wgsl`, which defines

- `load32(i) -> Block`: the 32 weights of block i out of the planes, as q (8 vec4), d and m with weight = d * q + m;
- `repack(i)`: moves block pair i from the file's layout (`raw`) into the planes (formats whose planes differ from it).

get_rows, matrix-vector, matrix-matrix and repack kernels are generated from these. Planes hold one kind of data each
(quants, scales) in aligned units, so that neighbouring invocations read neighbouring words.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as GGMLType

from llamaweb.errors import UnsupportedError

BLOCK = 32  # weights a `load32`


@dataclass(frozen=True)
class Plane:
    """One array of a weight on the GPU: `bytes` for each block of 32 weights, seen by kernels as array<`type`>."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True)
class Format:
    name: str
    type: GGMLType
    planes: tuple[Plane, ...]
    repacked: bool = True

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the file, of `block_size` weights."""
        return GGML_QUANT_SIZES[self.type][1]

    @property
    def block_size(self) -> int:
        return GGML_QUANT_SIZES[self.type][0]


_QS = Plane("qs", "vec4<u32>", 16)
_QH = Plane("qh", "u32", 4)
_D = Plane("d", "u32", 2)  # one f16 a block, two blocks a word
_DM = Plane("dm", "u32", 4)  # f16 scale and f16 minimum

FORMATS = {
    f.type: f
    for f in (
        Format("f32", GGMLType.F32, (Plane("qs", "vec4<f32>", 128),), repacked=False),
        Format("f16", GGMLType.F16, (Plane("qs", "vec4<u32>", 64),), repacked=False),
        Format("bf16", GGMLType.BF16, (Plane("qs", "vec4<u32>", 64),), repacked=False),
        Format("q4_0", GGMLType.Q4_0, (_QS, _D)),
        Format("q4_1", GGMLType.Q4_1, (_QS, _DM)),
        Format("q5_0", GGMLType.Q5_0, (_QS, _QH, _D)),
        Format("q5_1", GGMLType.Q5_1, (_QS, _QH, _DM)),
        Format("q8_0", GGMLType.Q8_0, (Plane("qs", "vec4<u32>", 32), _D)),
    )
}


def format_of(type: GGMLType, tensor: str) -> Format:
    """The descriptor of a format; raises UnsupportedError that names the format and the tensor."""
    if type not in FORMATS:
        known = ", ".join(f.type.name for f in FORMATS.values())
        raise UnsupportedError(f"Tensor {tensor} is in {type.name}, which is not supported yet; use one of: {known}.")
    return FORMATS[type]
