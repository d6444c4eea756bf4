"""Whole tiny gemma3 models in the page against the numpy forward pass: every turn the family takes, behind prompts that
are longer than its windows and than a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from browser_page import Page
from test_llama_tiny import LIMIT, N_UBATCH, PROMPT, TOKENS, forward

from llamaweb.planner import FUSIONS
from tests.reference import ReferenceGemma3, nmse
from tests.tiny import TinyGemma3, tiny_gemma3

pytestmark = pytest.mark.usefixtures("one_device")

SPECS = {
    "plain": TinyGemma3(),
    "no window": TinyGemma3(n_layer=2, window=None, tied=False),
    "window of two batches": TinyGemma3(n_layer=2, window=2 * N_UBATCH, n_head_kv=2, type="F16"),
    "window of one token": TinyGemma3(n_layer=2, window=1, n_head_kv=4, n_vocab=515, type="Q4_0", bias=True),
    "pattern by number": TinyGemma3(n_layer=4, window=5, pattern=2, rope_base=500.0, rope_base_swa=20000.0, factor=8.0),
    "pattern by layer": TinyGemma3(n_layer=3, n_embd=96, head_dim=16, pattern=[False, True, True], rms_eps=1e-2),
    "heads and formats of the real one": TinyGemma3(
        n_layer=2,
        n_embd=256,
        n_head=2,
        n_ff=512,
        head_dim=256,
        pattern=2,
        type="Q5_0",
        types={"token_embd*": "Q8_0", "*.0.attn_v*": "Q8_0", "*attn_output*": "Q4_K", "*ffn_down*": "Q6_K"},
    ),
}


def check(
    page: Page,
    spec: TinyGemma3,
    *,
    tokens: Sequence[int] = TOKENS,
    n_prompt: int = PROMPT,
    n_ubatch: int = N_UBATCH,
    subgroups: bool = True,
    **options: Any,
) -> None:
    data = tiny_gemma3(spec)
    shape = {"n_prompt": n_prompt, "n_ubatch": n_ubatch, "subgroups": subgroups, "n_ctx": len(tokens) + 3}
    shape["options"] = options
    found, _ = page.run(forward, data=data, tokens=tokens, **shape)
    expected = ReferenceGemma3(data).logits(tokens)[n_prompt - 1 :]
    assert found.shape == expected.shape
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= LIMIT, errors


@pytest.mark.parametrize("name", SPECS)
def test_logits_of_prefill_and_decode_equal_numpys(page: Page, name: str) -> None:
    check(page, SPECS[name])


def test_logits_behind_more_tokens_than_the_window_of_the_real_one(page: Page) -> None:
    spec = TinyGemma3(n_layer=2, n_embd=128, head_dim=256, n_ctx=1024, pattern=2, window=512)
    tokens = [int(token) for token in np.random.RandomState(7).randint(3, 290, 578)]
    check(page, spec, tokens=tokens, n_prompt=575, n_ubatch=128)


@pytest.mark.parametrize("unfused", [["post_norm"], ["norm", "attention"], list(FUSIONS)], ids=",".join)
def test_logits_are_the_same_whatever_is_left_unfused(page: Page, unfused: list[str]) -> None:
    check(page, TinyGemma3(n_layer=2, window=9), unfused=unfused)


def test_logits_without_subgroups(page: Page) -> None:
    check(page, TinyGemma3(n_layer=1, type="Q8_0"), subgroups=False)


def test_log_probabilities_of_every_token_in_batches_with_a_remainder(page: Page) -> None:
    async def evaluate(data, tokens, n_ubatch):
        from llamaweb.llama import Llama

        llm = await Llama.load(data, n_ctx=64, n_ubatch=n_ubatch, logits_all=True)
        found = await llm.log_probabilities(tokens)
        await llm.close()
        return found

    data = tiny_gemma3(TinyGemma3(n_layer=2, pattern=2, type="Q4_0"))
    logits = ReferenceGemma3(data).logits(TOKENS).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    log_probs, top = page.run(evaluate, data=data, tokens=TOKENS, n_ubatch=N_UBATCH)
    np.testing.assert_allclose(log_probs, log_p[np.arange(len(TOKENS) - 1), TOKENS[1:]], atol=2e-3)
    np.testing.assert_array_equal(top, logits.argmax(axis=-1))


def test_logits_after_going_back_behind_what_the_ring_of_a_window_holds(page: Page) -> None:
    async def turns(data, turns, type_k):
        import numpy as np

        from llamaweb.llama import Llama
        from llamaweb.sampling import Sampling

        llm = await Llama.load(data, n_ctx=100, n_ubatch=4, type_k=type_k)
        assert [(ring.window, ring.rows) for ring in llm.plan.rings] == [(8, 40)]
        rows = []
        for tokens in turns:
            _ = [token async for token in llm._generator.generate(tokens, Sampling(temperature=0), 1)]
            phase = "decode" if len(tokens) % 4 == 1 else "prefill"
            rows.append(np.frombuffer(await llm._executor.read(llm.plan.logits[phase]), np.float32))
        await llm.close()
        return np.stack(rows)

    data = tiny_gemma3(TinyGemma3(n_layer=2, pattern=2, head_dim=32))
    first = [*TOKENS, *TOKENS[:31]]  # 81 tokens, twice around the ring
    other = [*TOKENS[:20], *TOKENS[30:]]  # 40: from token 20 on new, which the ring does not hold any more
    follow = [*other[:39], 9, 8, 7, 6, 5, 4, 3]  # 46, behind one that is taken back
    reference = ReferenceGemma3(data)
    expected = [reference.logits(tokens)[-1] for tokens in (first, other, follow)]
    for type_k, limit in (("f16", LIMIT), ("q8_0", 5e-4)):
        found = page.run(turns, data=data, turns=[first, other, follow], type_k=type_k)
        errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
        assert max(errors) <= limit, errors
