"""The types of ggml's tensors: what they are called in a file, how their blocks lie there, what values these hold.

Most of it is the `gguf` package's; what llama.cpp has and no release of gguf knows yet stands here alone.
"""

from __future__ import annotations

from enum import IntEnum
from typing import cast

import gguf
import numpy as np
from gguf import quants


class GGMLType(IntEnum):
    """`enum ggml_type`: equal to gguf's GGMLQuantizationType where that has the number."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


# Weights and bytes of a block
GGML_QUANT_SIZES: dict[GGMLType, tuple[int, int]] = {
    **{GGMLType[type.name]: size for type, size in gguf.GGML_QUANT_SIZES.items() if type.name in GGMLType.__members__},
    GGMLType.Q1_0: (128, 2 + 16),
    GGMLType.Q2_0: (64, 2 + 16),
}

# What codes of 1 and of 2 bits stand for, in units of the f16 that the block begins with; a byte's first is its lowest.
_LEVELS = {
    GGMLType.Q1_0: np.array([-1, 1], np.float32),
    GGMLType.Q2_0: np.array([-1, 0, 1, 2], np.float32),
}


def dequantize(data: np.ndarray, type: GGMLType) -> np.ndarray:
    """Values of whole blocks, float32 (…, values), of uint8 (…, bytes)."""
    if type not in _LEVELS:
        return quants.dequantize(data, cast(gguf.GGMLQuantizationType, type))
    levels = _LEVELS[type]
    blocks = data.reshape(-1, GGML_QUANT_SIZES[type][1])
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    bits = len(levels).bit_length() - 1
    codes = (blocks[:, 2:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & (len(levels) - 1)
    return (scales * levels[codes].reshape(len(blocks), -1)).reshape(*data.shape[:-1], -1)


def quantize(values: np.ndarray, type: GGMLType) -> np.ndarray:
    """Blocks, uint8 (…, bytes), of float32 (…, values); raises NotImplementedError for what gguf only reads."""
    return quants.quantize(values, cast(gguf.GGMLQuantizationType, type))
