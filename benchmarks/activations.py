"""How far rounding activations moves a model's answers, by the bits and where: perplexity and Kullback-Leibler
divergence from float32, in numpy (tests/reference.py), on a text. What precision="high" is was chosen by it.

usage: activations.py [smollm2|gemma3] [FILE] [TOKENS_A_CHUNK]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from llamaweb.model.gguf_file import read_header  # noqa: E402
from llamaweb.model.source import FileSource  # noqa: E402
from llamaweb.tokenizer import load_tokenizer  # noqa: E402
from tests.models import gemma3_path, smollm2_path  # noqa: E402
from tests.reference import ReferenceGemma3, ReferenceLlama  # noqa: E402

MODELS: dict[str, tuple[Callable[[], Path], Any]] = {
    "smollm2": (smollm2_path, ReferenceLlama),
    "gemma3": (gemma3_path, ReferenceGemma3),
}
PRODUCTS = {
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "attn_output": ("attn_output",),
    "ffn_up": ("ffn_gate", "ffn_up"),
    "ffn_down": ("ffn_down",),
    "output": ("output",),
}


def rounded(x: np.ndarray, bits: int, block: int = 32) -> np.ndarray:
    """Each block of a row to integers with a scale of its own; of 16 bits as wgsl/quantize.wgsl has them."""
    largest = 32512 if bits == 16 else 2 ** (bits - 1) - 1
    blocks = x.reshape(len(x), -1, block)
    d = np.abs(blocks).max(axis=-1, keepdims=True) / largest
    return (np.round(blocks / np.where(d > 0, d, 1)) * d).reshape(x.shape).astype(np.float32)


def roundings() -> dict[str, Callable[[np.ndarray, str], np.ndarray]]:
    """By name: an input and the product that reads it, to that input as it is read."""
    found: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
        "float32": lambda x, name: x,
        "float16": lambda x, name: x.astype(np.float16).astype(np.float32),
    }
    for bits, block in ((8, 32), (8, 16), (8, 8), (9, 32), (10, 32), (12, 32), (16, 32)):
        found[f"{bits} bits, blocks of {block}"] = lambda x, name, bits=bits, block=block: rounded(x, bits, block)
    for product, names in PRODUCTS.items():
        found[f"8 bits for {product} alone"] = lambda x, name, names=names: rounded(x, 8) if name in names else x
    return found


def rounding_model(base: Any) -> Any:
    class Model(base):  # type: ignore[misc]
        """The reference, whose products read rounded inputs; weights are dequantized once."""

        def __init__(self, path: Path) -> None:
            self._kept: dict[str, np.ndarray] = {}
            super().__init__(path)

        def weight(self, name: str) -> np.ndarray:
            if name not in self._kept:
                self._kept[name] = super().weight(name)
            return self._kept[name]

        def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
            return super()._linear(self.round(x, name.split(".")[-1]), name)

        def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
            y = super()._norm(x, name)
            return self.round(y, "output") if name == "output_norm.weight" else y

    return Model


def main(which: str = "smollm2", file: str = str(ROOT / "tests/golden/prose.txt"), chunk: str = "512") -> None:
    path, base = MODELS[which][0](), MODELS[which][1]
    tokenizer = load_tokenizer(asyncio.run(read_header(FileSource(path))).metadata)
    ids = tokenizer.encode_to_evaluate(Path(file).read_bytes())
    chunks = [ids[at : at + int(chunk)] for at in range(0, len(ids), int(chunk))]
    chunks = [part for part in chunks if len(part) > 1]
    model, exact, perplexity = rounding_model(base)(path), [], 0.0
    for name, rounding in roundings().items():
        model.round = rounding
        loss, divergence, count = 0.0, 0.0, 0
        for i, part in enumerate(chunks):
            logits = model.logits(part)[:-1].astype(np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            if len(exact) == i:
                exact.append(log_p.astype(np.float32))
            loss -= float(log_p[np.arange(len(log_p)), part[1:]].sum())
            divergence += float((np.exp(exact[i], dtype=np.float64) * (exact[i] - log_p)).sum())
            count += len(log_p)
        found = float(np.exp(loss / count))
        perplexity = perplexity or found
        print(f"{name:28} {found:9.4f} {found / perplexity - 1:+9.3%}  divergence {divergence / count:.1e}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
