"""Weights in any format of GGUF, for tests: quantized where gguf can, else random blocks of about the values' size."""

from __future__ import annotations

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGMLType

# Where a block has its f16 scales, in the formats that gguf reads but does not write.
_F16 = {
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q6_K: (208,),
    GGMLType.IQ4_NL: (0,),
    GGMLType.IQ4_XS: (0,),
    GGMLType.IQ2_XXS: (0,),
    GGMLType.IQ2_XS: (0,),
    GGMLType.IQ2_S: (0,),
    GGMLType.IQ3_XXS: (0,),
    GGMLType.IQ3_S: (0,),
    GGMLType.IQ1_S: (0,),
}


def quantized(values: np.ndarray, type: GGMLType) -> np.ndarray:
    """Rows of the format's bytes, uint8 (rows, bytes), for float32 values (rows, row length)."""
    try:
        return gguf.quants.quantize(values, type)
    except NotImplementedError:
        spread = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        return random_blocks(type, values.size, spread).reshape(*values.shape[:-1], -1)


def random_blocks(type: GGMLType, n_weights: int, spread: float) -> np.ndarray:
    """Blocks of random bits but for their scales, uint8 (blocks, bytes); weights spread as asked, from block to block
    by up to a factor of two more or less. The same with any numpy."""
    size, n_bytes = gguf.GGML_QUANT_SIZES[type]
    rng = np.random.RandomState([type, n_weights])
    data = rng.randint(0, 256, (n_weights // size, n_bytes)).astype(np.uint8)
    scales = np.float32(2) ** rng.uniform(-1, 1, len(data)).astype(np.float32)
    if type == GGMLType.NVFP4:  # four scales of 8 bits: exponents from 2^-3 to 2^3 around the spread
        exponent = 7 + round(np.log2(spread / 3))
        data[:, :4] = rng.randint(8 * (exponent - 1), 8 * (exponent + 2), (len(data), 4))
        return data
    _set_scale(data, type, np.ones_like(scales))
    unit = np.sqrt(np.mean(np.square(gguf.quants.dequantize(data, type), dtype=np.float64)))
    _set_scale(data, type, scales * np.float32(spread / unit))
    return data


def _set_scale(data: np.ndarray, type: GGMLType, scales: np.ndarray) -> None:
    halves = scales.astype("<f2")
    if type == GGMLType.IQ1_M:  # four bits in each of the last four u16
        words = data[:, 48:].copy().view("<u2") & 0xFFF
        words |= (halves.view("<u2")[:, None] >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
        data[:, 48:] = words.view(np.uint8)
        return
    for at in _F16[type]:
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
