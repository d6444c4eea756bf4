"""Weights in any format of GGUF, for tests: quantized where gguf can, else random blocks of about the values' size."""

from __future__ import annotations

import numpy as np

from llamaweb.ggml import GGMLType, quantize
from llamaweb.kernels.random_blocks import random_blocks


def quantized(values: np.ndarray, type: GGMLType) -> np.ndarray:
    """Rows of the format's bytes, uint8 (rows, bytes), for float32 values (rows, row length)."""
    try:
        return quantize(values, type)
    except NotImplementedError:
        spread = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        random = np.random.RandomState([type, values.size])
        return random_blocks(type, values.size, spread, random).reshape(*values.shape[:-1], -1)
