"""Quantized formats as data: how a block lies in the file, and in which planes it lies on the GPU.

A format is one descriptor here and one WGSL fragment, `wgsl/formats/NAME.wgsl`, which defines

- `load32(i) -> Block`: weights 32 i to 32 i + 31 out of the planes, as q (8 times four), d and m with weight =
  d * q + m; `split` formats give a d and an m for each 16; in `packed` ones q comes from bytes_u8 or bytes_i8 alone;
- `repack(at, i)`: moves one unit of the file's blocks (`raw`, from byte `at` on) into the planes, where its first block
  is number i (formats whose planes differ from the file).

get_rows, matrix-vector, matrix-matrix and repack kernels are generated from these. Planes hold one kind of data each
in aligned units, so that neighbouring invocations read neighbouring words. For 32 weights, these orders recur:

- 4 bits a weight: a vec4<u32>; byte b (0 to 15) holds weight b in its low half, weight 16 + b in its high one;
- 2 bits: a vec2<u32>; bits 2 j and 2 j + 1 of byte k of word h belong to weight 16 h + 4 j + k;
- 1 bit: a u32; bit j of byte k belongs to weight 4 j + k;
- eight numbers of 6 bits, for the blocks of a superblock: the low four bits of number s in bits 4 s and on of a word,
  the others in bits 2 s and on of half a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from gguf import quants

from llamaweb.errors import UnsupportedError
from llamaweb.ggml import GGML_QUANT_SIZES, GGMLType

BLOCK = 32  # weights a `load32`


def whole_blocks(row: int) -> int:
    """What a row of so many numbers takes where kernels read it in blocks of 32."""
    return -(-row // BLOCK) * BLOCK


@dataclass(frozen=True)
class Plane:
    """One array of a weight on the GPU: `bytes` for each block of the file, seen by kernels as array<`type`>."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True)
class Codebook:
    """What the codes of a format stand for: `kvalues` or the grid of class `name` in gguf.quants.

    Kernels see it as `w_codes`, array<`type`>: single values as f32, the points of a grid as bytes.
    """

    name: str
    type: str

    def data(self) -> np.ndarray:
        return _codes(self.name)


@cache
def _codes(name: str) -> np.ndarray:
    source = getattr(quants, name)
    if hasattr(source, "kvalues"):
        return np.array(source.kvalues, np.float32)
    source.init_grid()
    return source.grid.astype(np.int8).reshape(-1).view(np.uint32)


@dataclass(frozen=True)
class Format:
    name: str
    type: GGMLType
    planes: tuple[Plane, ...]
    codebook: Codebook | None = None
    repacked: bool = True
    split: bool = False  # a scale for each 16 weights
    packed: bool = False  # `load32` finds the weights as bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of the file, of `block_size` weights."""
        return GGML_QUANT_SIZES[self.type][1]

    @property
    def block_size(self) -> int:
        return GGML_QUANT_SIZES[self.type][0]

    @property
    def unit(self) -> int:
        """Blocks of the file that fill whole words of every plane: what one invocation repacks."""
        return next(n for n in (1, 2, 4) if all(n * plane.bytes % 4 == 0 for plane in self.planes))

    def in_units(self, row: int, rows: int) -> bool:
        """Whether a matrix is whole units, so that another may be stacked behind it."""
        return not self.repacked or rows * (row // self.block_size) % self.unit == 0


# Planes by what they hold, for blocks of 32
_QS = Plane("qs", "vec4<u32>", 16)
_QH = Plane("qh", "u32", 4)
_D = Plane("d", "u32", 2)  # one f16 a block, two blocks a word
_DM = Plane("dm", "u32", 4)  # f16 scale and f16 minimum
# … and for superblocks of 256
_QS4 = Plane("qs", "vec4<u32>", 128)
_QS2 = Plane("qs", "vec2<u32>", 64)
_QH2 = Plane("qh", "vec2<u32>", 64)
_QH1 = Plane("qh", "u32", 32)
_SCALES = Plane("scales", "u32", 16)  # a byte for 16 weights
_DM6 = Plane("dm", "vec4<u32>", 16)  # f16 scale and minimum, and six bits of each for a block

_NL = Codebook("IQ4_NL", "f32")
_FP4 = Codebook("MXFP4", "f32")
_IQ1 = Codebook("IQ1_S", "vec2<u32>")

FORMATS = {
    f.type: f
    for f in (
        Format("f32", GGMLType.F32, (Plane("qs", "vec4<f32>", 4),), repacked=False),
        Format("f16", GGMLType.F16, (Plane("qs", "vec4<u32>", 2),), repacked=False),
        Format("bf16", GGMLType.BF16, (Plane("qs", "vec4<u32>", 2),), repacked=False),
        Format("q4_0", GGMLType.Q4_0, (_QS, _D), packed=True),
        Format("q4_1", GGMLType.Q4_1, (_QS, _DM), packed=True),
        Format("q5_0", GGMLType.Q5_0, (_QS, _QH, _D), packed=True),
        Format("q5_1", GGMLType.Q5_1, (_QS, _QH, _DM), packed=True),
        Format("q8_0", GGMLType.Q8_0, (Plane("qs", "vec4<u32>", 32), _D), packed=True),
        Format("q2_k", GGMLType.Q2_K, (_QS2, _SCALES, _DM), split=True, packed=True),
        Format("q3_k", GGMLType.Q3_K, (_QS2, _QH1, Plane("scales", "u32", 12), _D), split=True, packed=True),
        Format("q4_k", GGMLType.Q4_K, (_QS4, _DM6), packed=True),
        Format("q5_k", GGMLType.Q5_K, (_QS4, _QH1, _DM6), packed=True),
        Format("q6_k", GGMLType.Q6_K, (_QS4, _QH2, _SCALES, _D), split=True, packed=True),
        Format("iq4_nl", GGMLType.IQ4_NL, (_QS, _D), _NL),
        Format("iq4_xs", GGMLType.IQ4_XS, (_QS4, Plane("scales", "vec2<u32>", 8)), _NL),
        Format("mxfp4", GGMLType.MXFP4, (_QS, Plane("e", "u32", 1)), _FP4),
        Format("nvfp4", GGMLType.NVFP4, (Plane("qs", "vec4<u32>", 32), Plane("scales", "u32", 4)), _FP4),
        Format("iq2_xxs", GGMLType.IQ2_XXS, (_QS2, _D), Codebook("IQ2_XXS", "vec2<u32>")),
        Format("iq2_xs", GGMLType.IQ2_XS, (_QS2, Plane("scales", "u32", 8), _D), Codebook("IQ2_XS", "vec2<u32>")),
        Format("iq2_s", GGMLType.IQ2_S, (_QS2, _SCALES, _D), Codebook("IQ2_S", "vec2<u32>")),
        Format("iq3_xxs", GGMLType.IQ3_XXS, (_QS2, Plane("signs", "u32", 32), _D), Codebook("IQ3_XXS", "u32")),
        Format(
            "iq3_s",
            GGMLType.IQ3_S,
            (_QS2, Plane("signs", "u32", 32), Plane("scales", "u32", 14)),
            Codebook("IQ3_S", "u32"),
        ),
        Format("iq1_s", GGMLType.IQ1_S, (Plane("qs", "u32", 32), Plane("qh", "u32", 16), _D), _IQ1),
        Format(
            "iq1_m",
            GGMLType.IQ1_M,
            (Plane("qs", "u32", 32), Plane("qh", "u32", 16), Plane("scales", "vec2<u32>", 8)),
            _IQ1,
        ),
        Format("q1_0", GGMLType.Q1_0, (Plane("qs", "u32", 16), _D), packed=True),
        Format("q2_0", GGMLType.Q2_0, (Plane("qs", "vec2<u32>", 16), _D), packed=True),
        Format("tq1_0", GGMLType.TQ1_0, (Plane("qs", "u32", 52), _D), packed=True),
        Format("tq2_0", GGMLType.TQ2_0, (_QS2, _D), packed=True),
    )
}


def named(name: str) -> Format:
    return next(format for format in FORMATS.values() if format.name == name)


def format_of(type: GGMLType, tensor: str) -> Format:
    """The descriptor of a format; raises UnsupportedError that names the format and the tensor."""
    if type not in FORMATS:
        known = ", ".join(f.type.name for f in FORMATS.values())
        raise UnsupportedError(f"Tensor {tensor} is in {type.name}, which is not supported yet; use one of: {known}.")
    return FORMATS[type]
