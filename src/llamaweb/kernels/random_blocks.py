"""Random weights in any format of GGUF: blocks of random bits, but for their scales."""

from __future__ import annotations

import numpy as np
from gguf import quants

from llamaweb.ggml import GGML_QUANT_SIZES, dequantize
from llamaweb.ggml import GGMLType as T

FLOATS = (T.F32, T.F16, T.BF16)
# Where a block has its f16 scales: random ones would give weights that are huge or not numbers.
_SCALES = {
    T.Q4_0: (0,),
    T.Q4_1: (0, 2),
    T.Q5_0: (0,),
    T.Q5_1: (0, 2),
    T.Q8_0: (0,),
    T.Q2_K: (80, 82),
    T.Q3_K: (108,),
    T.Q4_K: (0, 2),
    T.Q5_K: (0, 2),
    T.Q6_K: (208,),
    T.IQ1_S: (0,),
    T.IQ2_XXS: (0,),
    T.IQ2_XS: (0,),
    T.IQ2_S: (0,),
    T.IQ3_XXS: (0,),
    T.IQ3_S: (0,),
    T.IQ4_NL: (0,),
    T.IQ4_XS: (0,),
    T.TQ1_0: (52,),
    T.TQ2_0: (64,),
    T.Q1_0: (0,),
    T.Q2_0: (0,),
}
TYPES = (*FLOATS, *_SCALES, T.IQ1_M, T.MXFP4, T.NVFP4)
_SAMPLE = 256  # blocks that tell how large weights are for a scale of one


def random_blocks(
    type: T, n_weights: int, spread: float, random: np.random.Generator | np.random.RandomState
) -> np.ndarray:
    """Blocks of the format, uint8 (blocks, bytes of one).

    The weights' root mean square is `spread` (at least 0.01 for NVFP4, whose scales end there), from block to block by
    up to a factor of two more or less. A RandomState gives the same blocks with any numpy.
    """
    block, size = GGML_QUANT_SIZES[type]
    count = n_weights // block
    if type in FLOATS:
        return _floats(type, spread * random.standard_normal(count)).view(np.uint8).reshape(count, size)
    data = np.frombuffer(random.bytes(count * size), np.uint8).reshape(count, size).copy()
    # For each of the block's scales, of which NVFP4 has four.
    scales = np.float32(2) ** random.uniform(-1, 1, (count, 4)).astype(np.float32)
    sample = data[:_SAMPLE].copy()
    _set_scales(sample, type, np.ones((len(sample), 4), np.float32))
    unit = _size(dequantize(sample, type)) * _size(scales)
    _set_scales(data, type, scales * np.float32(spread / unit))
    return data


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _floats(type: T, values: np.ndarray) -> np.ndarray:
    if type == T.BF16:
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    return values.astype("<f2" if type == T.F16 else "<f4")


def _set_scales(data: np.ndarray, type: T, scales: np.ndarray) -> None:
    if type == T.MXFP4:  # an exponent; gguf's values are doubled, as are NVFP4's
        data[:, 0] = 128 + np.round(np.log2(scales[:, 0]))
    elif type == T.NVFP4:
        data[:, :4] = quants.NVFP4.fp32_to_ue4m3(2 * scales)
    elif type == T.IQ1_M:  # four bits in each of the last four u16
        words = data[:, 48:].copy().view("<u2") & 0xFFF
        words |= (scales[:, :1].astype("<f2").view("<u2") >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
        data[:, 48:] = words.view(np.uint8)
    else:
        for n, at in enumerate(_SCALES[type]):
            data[:, at : at + 2] = scales[:, n : n + 1].astype("<f2").view(np.uint8)
