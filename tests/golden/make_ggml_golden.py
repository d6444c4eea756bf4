"""Write tests/golden/ggml.json: the types of tensors that llama.cpp has, and the values it reads out of their blocks.

From the repository's top:

    python -m tests.golden.make_ggml_golden

version, date: llama.cpp's; types: by name the number, the weights of a block and its bytes; values: by name, for the
formats of weights, the SHA-256 of the float32 values of `blocks`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from llamaweb.ggml import GGMLType
from llamaweb.kernels.random_blocks import TYPES, random_blocks
from tests.golden import llamacpp

PATH = Path(__file__).parent / "ggml.json"


def blocks(type: GGMLType) -> np.ndarray:
    """Blocks of a format, the same ones again each time."""
    return random_blocks(type, 4096, 1.0, np.random.RandomState(type))


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def main() -> None:
    values = {type.name: sha256(llamacpp.dequantize(blocks(type), type)) for type in TYPES if type != GGMLType.F32}
    golden = {"version": llamacpp.VERSION, "date": llamacpp.DATE, "types": llamacpp.types(), "values": values}
    PATH.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
