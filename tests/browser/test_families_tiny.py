"""Whole tiny models of the families that are near to llama, in the page against the numpy forward pass."""

from __future__ import annotations

from typing import Any

import pytest
from browser_page import Page
from test_llama_tiny import LIMIT, N_UBATCH, PROMPT, TOKENS, forward

from llamaweb.planner import FUSIONS
from tests.reference import ReferenceLlama, ReferenceQwen, ReferenceSeedOss, ReferenceSmolLM3, nmse
from tests.tiny import TinyLlama, tiny_llama

MODELS: dict[str, tuple[type[ReferenceLlama], TinyLlama]] = {
    "qwen2": (ReferenceQwen, TinyLlama("qwen2", bias=True, n_head=3, n_head_kv=1, n_embd=96)),
    "qwen2, odd and untied": (
        ReferenceQwen,
        TinyLlama("qwen2", n_embd=50, head_dim=10, n_ff=86, tied=False, type="F16"),
    ),
    "qwen2vl": (ReferenceQwen, TinyLlama("qwen2vl", bias=True, type="Q8_0")),
    "qwen3": (ReferenceQwen, TinyLlama("qwen3", head_norms=True, head_dim=32, type="Q4_0")),
    "qwen3, scaled": (
        ReferenceQwen,
        TinyLlama("qwen3", head_norms=True, scaling="yarn", factor=4.0, n_ctx_orig=16, n_head_kv=4, tied=False),
    ),
    "qwen3vl": (ReferenceQwen, TinyLlama("qwen3vl", head_norms=True, n_layer=1, n_embd=256, n_ff=512, type="Q4_K")),
    "seed_oss": (ReferenceSeedOss, TinyLlama("seed_oss", bias=True, n_layer=3, rms_eps=1e-2)),
    "smollm3": (ReferenceSmolLM3, TinyLlama("smollm3", n_layer=5, rope_base=5e6)),
    "smollm3, quantized": (ReferenceSmolLM3, TinyLlama("smollm3", n_layer=4, n_head=2, tied=False, type="Q5_0")),
}


def check(page: Page, name: str, **options: Any) -> None:
    reference, spec = MODELS[name]
    data = tiny_llama(spec)
    shape = {"n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": True, "options": options}
    found, _ = page.run(forward, data=data, tokens=TOKENS, **shape)
    expected = reference(data).logits(TOKENS)[PROMPT - 1 :]
    assert found.shape == expected.shape
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= LIMIT, errors


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_prefill_and_decode_equal_numpys(page: Page, name: str) -> None:
    check(page, name)


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_logits_are_the_same_where_nothing_is_fused(page: Page, name: str) -> None:
    check(page, name, unfused=list(FUSIONS))
