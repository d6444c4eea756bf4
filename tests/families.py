"""Tiny models of every family, each with what is peculiar to it once there and once not, in odd sizes and formats.

What the page computes is compared with numpy's forward pass (`tests/browser/test_families_tiny.py`), and that with
llama.cpp's logits (`tests/unit/test_golden_families.py`), which `tests/golden/make_families_golden.py` keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.reference import (
    Reference,
    ReferenceGemma3,
    ReferenceLlama,
    ReferenceQwen,
    ReferenceSeedOss,
    ReferenceSmolLM3,
)
from tests.tiny import Tiny, TinyGemma3, TinyLlama

FOLDER = Path(__file__).parent / "golden" / "families"
TOKENS: list[int] = np.random.RandomState(7).randint(3, 290, 40).tolist()
POSITIONS = [4, 21, 39]  # of TOKENS, at which logits are kept


@dataclass(frozen=True)
class Model:
    """A spec, and the forward pass that is its family's. limit: how far from llama.cpp it may be, as normalized mean
    squared error of the logits; more than float32 takes where llama.cpp looks up a GELU in a table of f16."""

    reference: type[Reference]
    spec: Tiny
    limit: float = 1e-10

    @property
    def golden(self) -> Path:
        """The file with llama.cpp's logits of the family's models by their names, float32 (positions, n_vocab)."""
        return FOLDER / f"{self.spec.family}.npz"


MODELS: dict[str, Model] = {
    "llama": Model(ReferenceLlama, TinyLlama(bias=True, ffn_bias=True, n_head=3, n_head_kv=1, n_embd=96, type="Q5_1")),
    "gemma3": Model(ReferenceGemma3, TinyGemma3(n_layer=3, pattern=2, factor=8.0, type="Q8_0"), limit=1e-5),
    "qwen2": Model(ReferenceQwen, TinyLlama("qwen2", bias=True, n_head=3, n_head_kv=1, n_embd=96)),
    "qwen2, odd and untied": Model(
        ReferenceQwen,
        TinyLlama("qwen2", n_embd=50, n_head=5, n_head_kv=1, n_ff=86, tied=False, type="F16"),
    ),
    "qwen2, of two bits": Model(ReferenceQwen, TinyLlama("qwen2", bias=True, n_ff=192, type="Q2_0")),
    # Of this family, llama.cpp v0.5.0 does not read the norms' epsilon: it is too small to matter.
    "qwen2vl": Model(ReferenceQwen, TinyLlama("qwen2vl", bias=True, sections=(2, 3, 3, 0), type="Q8_0", rms_eps=1e-8)),
    "qwen3": Model(ReferenceQwen, TinyLlama("qwen3", head_norms=True, head_dim=32, type="Q4_0")),
    "qwen3, scaled": Model(
        ReferenceQwen,
        TinyLlama("qwen3", head_norms=True, scaling="yarn", factor=4.0, n_ctx_orig=16, n_head_kv=4, tied=False),
    ),
    "qwen3, of one bit": Model(
        ReferenceQwen, TinyLlama("qwen3", head_norms=True, n_embd=128, n_ff=384, tied=False, type="Q1_0")
    ),
    "qwen3vl": Model(
        ReferenceQwen,
        TinyLlama("qwen3vl", head_norms=True, sections=(16, 8, 8, 0), n_layer=1, n_embd=256, n_ff=512, type="Q4_K"),
    ),
    "seed_oss": Model(ReferenceSeedOss, TinyLlama("seed_oss", bias=True, n_layer=3, rms_eps=1e-2)),
    "seed_oss, without biases": Model(
        ReferenceSeedOss, TinyLlama("seed_oss", n_embd=96, n_head=3, n_head_kv=1, head_dim=16, tied=False, type="BF16")
    ),
    "smollm3": Model(ReferenceSmolLM3, TinyLlama("smollm3", n_layer=5, rope_base=5e6)),
    "smollm3, quantized": Model(ReferenceSmolLM3, TinyLlama("smollm3", n_layer=4, n_head=2, tied=False, type="Q5_0")),
}
