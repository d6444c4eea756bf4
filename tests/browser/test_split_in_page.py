"""Models whose tensors are larger than the device's bindings and buffers compute the same numbers, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from browser_page import Page

from tests.tiny import Tiny, TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

TOKENS = [int(token) for token in np.random.RandomState(8).randint(3, 290, 24)]

# Every piece is a kernel to compile: limits are no smaller than it takes to split all that is large.
CASES: dict[str, tuple[Tiny, int]] = {
    "f32, biased": (TinyLlama(n_layer=1, bias=True), 24 << 10),
    "f32, many heads": (TinyLlama(n_layer=1, n_head=6, n_head_kv=3, n_embd=96, head_dim=16), 24 << 10),
    "mixed": (TinyLlama(type="Q4_0", types={"*attn_v*": "Q8_0", "*ffn_up*": "Q5_1", "token_embd*": "Q8_0"}), 10 << 10),
    "superblocks": (TinyLlama(n_layer=1, n_embd=256, n_ff=512, type="Q4_K", types={"*attn*": "Q6_K"}), 48 << 10),
    "gemma3, biased": (TinyGemma3(n_layer=2, type="Q8_0", bias=True), 10 << 10),
}


# A context whose keys, of three heads or of two, are more than a binding, and of one head are not
LONG = {"f32, many heads": 500, "mixed": 200}


async def forward(data, tokens, limit, n_ctx):
    """Logits behind a prompt and behind a token after it, log-probabilities, and facts of the plan."""
    import dataclasses

    import numpy as np

    from llamaweb.gpu.device import Device
    from llamaweb.llama import Llama
    from llamaweb.sampling import Sampling

    opened = Device.open

    async def limited():
        device = await opened()
        limits = {"max_buffer_size": limit, "max_storage_buffer_binding_size": limit}
        device.profile = dataclasses.replace(device.profile, **limits)
        return device

    Device.open = limited if limit else opened
    try:
        options = {"logits_all": True, "tune": "off", "self_check": False}  # a check takes more at once
        llm = await Llama.load(data, n_ctx=n_ctx, n_ubatch=6, **options)
    finally:
        Device.open = opened
    rows = []
    for n in (len(tokens) - 1, len(tokens)):
        _ = [token async for token in llm._generator.generate(tokens[:n], Sampling(temperature=0), 1)]
        phase = "decode" if n == len(tokens) else "prefill"
        rows.append(np.frombuffer(await llm._executor.read(llm.plan.logits[phase]), np.float32))
    log_p, top = await llm.log_probabilities(tokens)
    buffers = {region: int(buffer.size) for region, buffer in llm._executor.buffers.items()}
    pieces = {dict(d.kernel.constants).get("first_kv", 0) for d in llm.plan.phases["prefill"].dispatches}
    facts = (buffers, llm.dispatches_per_token, llm.memory["total"] == llm._executor.device.live_bytes, len(pieces))
    await llm.close()
    return np.stack(rows), log_p, top, facts


@pytest.mark.parametrize("name", CASES)
def test_numbers_of_split_tensors_are_the_unsplit_ones(page: Page, name: str) -> None:
    spec, limit = CASES[name]
    data = tiny_llama(spec) if isinstance(spec, TinyLlama) else tiny_gemma3(spec)
    same = {"data": data, "tokens": TOKENS, "n_ctx": LONG.get(name, 60)}
    *whole, (buffers, dispatches, _, caches) = page.run(forward, limit=0, **same)
    *split, (pieces, more, counted, parts) = page.run(forward, limit=limit, **same)
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_array_equal(a, b)
    assert counted and max(pieces.values()) <= limit
    assert max(buffers.values()) > limit and len(pieces) > len(buffers) and more > dispatches
    assert ("kv.1" in pieces) == (name in LONG)
    assert caches == 1 and (parts > 1) == (name in LONG)
