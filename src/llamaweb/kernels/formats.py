"""Quantized formats as data: how a block lies in the file, and in which planes it lies on the GPU.

A format is one descriptor here and one WGSL fragment, `wgsl/formats/NAME.wgsl`, which defines

- `load32(i) -> Block`: the 32 weights of block i out of the planes, as q (8 vec4), d and m with weight = d * q + m;
- `repack(i, first)`: moves pair i of the file's blocks (`raw`) into the planes, where its first block is number
  first + 2 i (formats whose planes differ from the file).

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
    """One array of a weight on the GPU: `bytes` for each block of the file, seen by kernels as array<`type`>."""

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
_QS_K = Plane("qs", "vec4<u32>", 128)
_SCALES_K = Plane("scales", "vec4<u32>", 16)  # f16 scale and minimum, and six bits of each for 8 blocks of 32

FORMATS = {
    f.type: f
    for f in (
        Format("f32", GGMLType.F32, (Plane("qs", "vec4<f32>", 4),), repacked=False),
        Format("f16", GGMLType.F16, (Plane("qs", "vec4<u32>", 2),), repacked=False),
        Format("bf16", GGMLType.BF16, (Plane("qs", "vec4<u32>", 2),), repacked=False),
        Format("q4_0", GGMLType.Q4_0, (_QS, _D)),
        Format("q4_1", GGMLType.Q4_1, (_QS, _DM)),
        Format("q5_0", GGMLType.Q5_0, (_QS, _QH, _D)),
        Format("q5_1", GGMLType.Q5_1, (_QS, _QH, _DM)),
        Format("q8_0", GGMLType.Q8_0, (Plane("qs", "vec4<u32>", 32), _D)),
        Format("q4_k", GGMLType.Q4_K, (_QS_K, _SCALES_K)),
        Format("q5_k", GGMLType.Q5_K, (_QS_K, Plane("qh", "u32", 32), _SCALES_K)),
        Format("q6_k", GGMLType.Q6_K, (_QS_K, Plane("qh", "vec2<u32>", 64), Plane("scales", "u32", 16), _D)),
    )
}


def format_of(type: GGMLType, tensor: str) -> Format:
    """The descriptor of a format; raises UnsupportedError that names the format and the tensor."""
    if type not in FORMATS:
        known = ", ".join(f.type.name for f in FORMATS.values())
        raise UnsupportedError(f"Tensor {tensor} is in {type.name}, which is not supported yet; use one of: {known}.")
    return FORMATS[type]
