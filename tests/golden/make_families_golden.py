"""Write tests/golden/families/FAMILY.npz: llama.cpp's logits, or embeddings, of the tiny models in tests/families.py.

From the repository's top, for all or some families:

    python -m tests.golden.make_families_golden [qwen3] [smollm3]

Weights are dequantized to F32 and the cache is float32, so that llama.cpp rounds nothing, but where it looks up a GELU
in a table of f16. A family's file is as tests.families.Model.golden says.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.families import EMBEDDERS, FOLDER, MODELS, POSITIONS, TEXTS, TOKENS, Model
from tests.golden import llamacpp
from tests.tiny import tiny_model


def computed(name: str, model: Model) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        path.write_bytes(tiny_model(model.spec, dequantized=True))
        if name in EMBEDDERS:
            return np.vstack([llamacpp.embedding(path, text) for text in TEXTS])
        return llamacpp.logits(path, TOKENS)[POSITIONS]


def main(families: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    known = MODELS | EMBEDDERS
    for family in families or dict.fromkeys(model.spec.family for model in known.values()):
        models = {name: model for name, model in known.items() if model.spec.family == family}
        np.savez_compressed(FOLDER / f"{family}.npz", **{name: computed(name, model) for name, model in models.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
