"""Whole tiny models of every shape that the families allow against the numpy forward pass: heads of any even size, rows
that are no whole blocks of 32, siblings that cannot be stacked, vectors in F16 and BF16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from browser_page import Page
from test_llama_tiny import LIMIT, N_UBATCH, PROMPT, TOKENS, forward

from llamaweb.planner import FUSIONS
from tests.reference import ReferenceGemma3, ReferenceLlama, nmse
from tests.tiny import Tiny, TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

STORIES_260K = TinyLlama(n_layer=5, n_embd=64, n_head=8, n_head_kv=4, n_ff=172, n_vocab=512)
HEADS_OF_100 = TinyLlama(n_embd=400, n_head=4, n_head_kv=4, n_ff=344, type="F16", tied=False)
ODD_SIBLINGS = TinyLlama(n_embd=96, n_head=6, n_head_kv=3, n_ff=173, type="Q8_0", types={"*ffn_down*": "F16"})
GEMMA = TinyGemma3(
    n_layer=2, n_embd=100, n_head=3, head_dim=36, n_ff=172, pattern=2, type="F16", vectors="F16", bias=True
)
SHAPES: dict[str, Tiny] = {
    "stories260K": STORIES_260K,
    "heads and rows of OpenLLaMA 3B": HEADS_OF_100,
    "heads of 100, quantized": TinyLlama(n_embd=96, n_head=8, n_head_kv=2, head_dim=100, type="Q4_0"),
    "siblings of no whole units": ODD_SIBLINGS,
    "heads of 10, bf16": TinyLlama(n_embd=50, n_head=5, n_head_kv=1, n_ff=70, type="BF16", vectors="BF16", bias=True),
    "heads of 6, a part rotated": TinyLlama(n_embd=36, n_head=6, n_head_kv=2, n_ff=100, rope_dims=4, n_vocab=517),
    "heads of 2": TinyLlama(n_embd=24, n_head=12, n_head_kv=1, n_ff=48, type="F16", vectors="F16", rope_freqs=True),
    "one head of 510": TinyLlama(
        n_layer=1, n_embd=66, n_head=1, n_head_kv=1, head_dim=510, scaling="linear", factor=2.0
    ),
    "heads of 512": TinyLlama(n_layer=1, n_head=3, n_head_kv=1, head_dim=512, types={"*attn_output*": "Q4_0"}),
    "gemma3": GEMMA,
    "gemma3, heads of 320": TinyGemma3(n_layer=1, n_embd=70, n_head=2, head_dim=320, vectors="BF16", n_vocab=515),
}


def check(page: Page, spec: Tiny, *, subgroups: bool = True, tokens=TOKENS, n_prompt: int = PROMPT, **options) -> None:  # type: ignore[no-untyped-def]
    gemma3 = isinstance(spec, TinyGemma3)
    data = tiny_gemma3(spec) if gemma3 else tiny_llama(spec)
    shape = {"n_prompt": n_prompt, "n_ubatch": N_UBATCH, "subgroups": subgroups, "n_ctx": len(tokens) + 3}
    found, _ = page.run(forward, data=data, tokens=tokens, options=options, **shape)
    reference = (ReferenceGemma3 if gemma3 else ReferenceLlama)(data, kv_f16="type_k" not in options)
    expected = reference.logits(tokens)[n_prompt - 1 :]
    assert found.shape == expected.shape
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= (1e-9 if options.get("type_k") == "f32" else LIMIT), errors


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_prefill_and_decode_equal_numpys(page: Page, name: str) -> None:
    check(page, SHAPES[name])


BIASED = TinyLlama(bias=True, ffn_bias=True, type="Q4_0", vectors="F16")
SOME_BIASES = ("*.attn_k.bias", "blk.0.ffn_up.bias", "blk.1.ffn_gate.bias", "blk.1.ffn_down.bias")


@pytest.mark.parametrize(
    "spec",
    [
        BIASED,
        replace(BIASED, without=SOME_BIASES),
        replace(BIASED, without=SOME_BIASES, n_embd=96, n_head=6, n_head_kv=3, n_ff=173, type="F16"),
    ],
    ids=["all", "some", "some of odd rows"],
)
@pytest.mark.parametrize("unfused", [(), FUSIONS], ids=["fused", "unfused"])
def test_logits_with_biases_of_any_of_the_products(page: Page, spec: TinyLlama, unfused: Sequence[str]) -> None:
    check(page, spec, unfused=list(unfused))


@pytest.mark.parametrize("spec", [BIASED, replace(BIASED, n_embd=50, n_head=5, n_head_kv=1, n_ff=70, type="BF16")])
def test_q_k_and_v_in_one_tensor_give_the_same_tokens_as_apart(page: Page, spec: TinyLlama) -> None:
    shape = {"tokens": TOKENS, "n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": True, "n_ctx": len(TOKENS) + 3}
    apart, together = (page.run(forward, data=tiny_llama(replace(spec, fused=f)), **shape)[0] for f in (False, True))
    assert np.array_equal(together, apart)


@pytest.mark.parametrize("spec", [HEADS_OF_100, GEMMA], ids=["llama", "gemma3"])
def test_logits_with_a_cache_of_float32_and_without_subgroups(page: Page, spec: Tiny) -> None:
    check(page, spec, subgroups=False, type_k="f32", type_v="f32")


@pytest.mark.parametrize("spec", [ODD_SIBLINGS, GEMMA], ids=["llama", "gemma3"])
def test_logits_are_the_same_where_nothing_is_fused(page: Page, spec: Tiny) -> None:
    check(page, spec, unfused=list(FUSIONS))


def test_logits_where_the_attention_of_a_long_context_is_split(page: Page) -> None:
    tokens = [int(token) for token in np.random.RandomState(8).randint(3, 290, 523)]
    spec = TinyLlama(n_layer=1, n_embd=50, n_head=5, n_head_kv=1, n_ff=70, n_ctx=1024, type="F16")
    check(page, spec, subgroups=False, tokens=tokens, n_prompt=520)


def test_tuning_finds_every_variant_right_and_changes_no_token(page: Page) -> None:
    async def tune(data):
        from llamaweb import Llama
        from llamaweb.gpu import trials as module
        from llamaweb.planner import sizes

        def few(shape, profile, mode):  # each variant is a shader to compile
            return list(dict.fromkeys([(found := kept(shape, profile, mode))[0], found[-1]]))

        async def answer(mode):
            async with await Llama.load(data, n_ctx=600, n_ubatch=4, tune=mode) as llm:
                async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=6):
                    pass
                return llm.tokens, [(str(t.shape), str(t.variant), t.right) for t in llm.trials]

        kept, splits = module.candidates, sizes.attention_splits
        module.candidates, sizes.attention_splits = few, lambda n_head, profile: 8
        try:
            return await answer("off"), await answer("full")
        finally:
            module.candidates, sizes.attention_splits = kept, splits

    data = tiny_llama(TinyLlama(n_layer=1, n_embd=50, n_head=5, n_head_kv=1, n_ff=70, n_ctx=600, type="F16"))
    (plain, _), (tokens, trials) = page.run(tune, data=data)
    assert tokens == plain
    assert len(trials) >= 16 and [trial for trial in trials if not trial[-1]] == []
