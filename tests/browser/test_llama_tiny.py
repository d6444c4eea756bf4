"""Whole tiny models in the page against the numpy forward pass: every format, and every turn the llama family takes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from browser_page import Page

from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.io import SUBMITTED
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from tests.reference import ReferenceLlama, nmse
from tests.tiny import TinyLlama, tiny_llama, without_chat

pytestmark = pytest.mark.usefixtures("one_device")
LIMIT = 1e-6
N_UBATCH = 16
PROMPT = 2 * N_UBATCH + 13  # two full batches and a remainder
TOKENS = [int(token) for token in np.random.RandomState(6).randint(3, 290, PROMPT + 5)]

# What a model may have besides its format; each format is tested with one of these.
TURNS = (
    TinyLlama(bias=True),
    TinyLlama(tied=False),
    TinyLlama(rope_freqs=True, head_dim=24, n_embd=96, n_head=4),
    TinyLlama(scaling="linear", factor=2.5, n_head=3, n_head_kv=1, n_embd=96, n_ff=160),
    TinyLlama(scaling="yarn", factor=4.0, n_ctx_orig=16, rope_base=500.0, tied=False),
    TinyLlama(n_head=4, n_head_kv=4, bias=True, rms_eps=1e-2),
    TinyLlama(n_head=8, n_head_kv=2, head_dim=8, n_vocab=515),
    TinyLlama(n_layer=3, n_head=2, n_head_kv=1, n_embd=160, head_dim=80, rope_dims=32),
)
FORMAT_SPECS = {
    format.name: replace(TURNS[i % len(TURNS)], type=format.type.name)
    for i, format in enumerate(f for f in FORMATS.values() if f.block_size <= 32)
}
# Formats of larger blocks take larger matrices, so each of a model's matrices has one of its own.
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "token_embd")
_LARGE = [format.type.name for format in FORMATS.values() if format.block_size > 32]
for _names in (_LARGE[n : n + len(_MATRICES)] for n in range(0, len(_LARGE), len(_MATRICES))):
    FORMAT_SPECS[" ".join(_names).lower()] = TinyLlama(
        n_layer=1,
        n_embd=256,
        n_ff=512,
        type=_names[0],
        types={f"*{matrix}*": name for matrix, name in zip(_MATRICES, _names, strict=False)},
    )
MIXED = TinyLlama(type="Q4_0", types={"*attn_v*": "Q8_0", "*ffn_up*": "Q5_1", "token_embd*": "Q8_0"})
ODD_BIAS = TinyLlama(n_head=3, n_head_kv=1, n_embd=96, bias=True, type="F16")  # 5 blocks of biases of q, k and v


async def forward(data, tokens, n_prompt, n_ubatch, subgroups, packed=False, options=None, n_ctx=64):
    """Logits after the prompt's last token, and after each token decoded behind it."""
    import dataclasses

    import numpy as np

    from llamaweb import loading
    from llamaweb.gpu.device import Device
    from llamaweb.llama import Llama
    from llamaweb.sampling import Sampling

    opened, recognize = Device.open, loading.recognize

    async def as_it_says(device, pipelines): ...

    async def open_without_subgroups():
        device = await opened()
        device.profile = dataclasses.replace(device.profile, subgroup_size=0, packed_dot=packed, software=False)
        return device

    try:
        if not subgroups:
            Device.open, loading.recognize = open_without_subgroups, as_it_says
        llm = await Llama.load(data, n_ctx=n_ctx, n_ubatch=n_ubatch, tune="off", **(options or {}))
    finally:
        Device.open, loading.recognize = opened, recognize
    kernels = {d.kernel.template for phase in llm.plan.phases.values() for d in phase.dispatches}
    assert ("mul_mat_packed" in kernels) == packed
    assert ("mul_mat_id_packed" in kernels) == (packed and "sort_ids" in kernels)
    rows = []
    for n in range(n_prompt, len(tokens) + 1):
        _ = [token async for token in llm._generator.generate(tokens[:n], Sampling(temperature=0), 1)]
        phase = "prefill" if n == n_prompt else llm.plan.decode_phase(n - 1)
        rows.append(np.frombuffer(await llm._executor.read(llm.plan.logits[phase]), np.float32))
    sizes = {dict(d.kernel.constants).get("subgroup") for d in llm.plan.phases["decode"].dispatches}
    await llm.close()
    return np.stack(rows), sizes - {None}


def check(
    page: Page, spec: TinyLlama, subgroups: bool = True, packed: bool = False, limit: float = LIMIT, **options: str
) -> None:
    data = tiny_llama(spec)
    shape = {"n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": subgroups, "packed": packed, "options": options}
    found, sizes = page.run(forward, data=data, tokens=TOKENS, **shape)
    expected = ReferenceLlama(data, kv_f16=not options).logits(TOKENS)[PROMPT - 1 :]
    assert found.shape == expected.shape
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= limit, errors
    if not subgroups:
        assert sizes == {0}


@pytest.mark.parametrize("name", FORMAT_SPECS)
def test_logits_of_prefill_and_decode_equal_numpys(page: Page, name: str) -> None:
    check(page, FORMAT_SPECS[name])


def test_logits_of_siblings_in_different_formats(page: Page) -> None:
    check(page, MIXED)


def test_logits_with_biases_of_an_odd_number_of_blocks(page: Page) -> None:
    check(page, ODD_BIAS)


@pytest.mark.parametrize("spec", [FORMAT_SPECS["q4_1"], MIXED], ids=["q4_1", "mixed"])
def test_logits_without_subgroups(page: Page, spec: TinyLlama) -> None:
    check(page, spec, subgroups=False)


@pytest.mark.parametrize("left_out", ["attention", "copies", "siblings", "norm", "last_row", "residual"])
def test_logits_are_the_same_where_a_rule_of_fusion_is_left_out(page: Page, left_out: str) -> None:
    """Other rules: test_families_tiny.py."""
    assert changes(tiny_llama(MIXED), left_out)
    check(page, MIXED, unfused=[left_out])


def changes(data: bytes, left_out: str) -> bool:
    """Whether a model's plan is another one without a rule."""
    file = unfused(asyncio.run(read_header(BytesSource(data))))
    plans = [plan_model(file, n_ctx=64, n_ubatch=N_UBATCH, unfused=rules) for rules in ([], [left_out])]
    with_it, without = ([[d.kernel for d in phase.dispatches] for phase in plan.phases.values()] for plan in plans)
    return with_it != without


@pytest.mark.parametrize(("precision", "limit"), [("high", LIMIT), ("fast", 5e-4)])
def test_logits_of_a_batch_with_the_packed_dot(page: Page, precision: str, limit: float) -> None:
    check(page, FORMAT_SPECS["q4_1"], subgroups=False, packed=True, limit=limit, precision=precision)


# How far the rounding of keys and values to 8 and 4 bits may move the logits
CACHES = {"f32": 1e-9, "q8_0": 5e-4, "q4_0": 0.05}


@pytest.mark.parametrize("type", CACHES)
def test_logits_with_a_cache_of_another_format(page: Page, type: str) -> None:
    check(page, TinyLlama(head_dim=32, n_head=4, n_head_kv=2), limit=CACHES[type], type_k=type, type_v=type)


def test_log_probabilities_of_every_token_in_batches_with_a_remainder(page: Page) -> None:
    async def evaluate(data, tokens, n_ubatch):
        from llamaweb.llama import Llama

        llm = await Llama.load(data, n_ctx=64, n_ubatch=n_ubatch, logits_all=True)
        found = [await llm.log_probabilities(tokens[:n]) for n in (len(tokens), 2, n_ubatch + 1)]
        await llm.close()
        return found

    spec = TinyLlama(type="Q8_0")
    data = tiny_llama(spec)
    logits = ReferenceLlama(data).logits(TOKENS).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for n_ubatch in (16, 1):
        for log_probs, top in page.run(evaluate, data=data, tokens=TOKENS, n_ubatch=n_ubatch):
            n = len(top)
            np.testing.assert_allclose(log_probs, log_p[np.arange(n - 1), TOKENS[1:n]], atol=2e-3)
            np.testing.assert_array_equal(top, logits[:n].argmax(axis=-1))


def test_a_batch_of_one_token_and_a_context_of_one(page: Page) -> None:
    async def run(data, tokens, n_ctx, n_ubatch):

        from llamaweb.llama import Llama
        from llamaweb.sampling import Sampling

        llm = await Llama.load(data, n_ctx=n_ctx, n_ubatch=n_ubatch)
        got = [token async for token in llm._generator.generate(tokens, Sampling(temperature=0), 100)]
        await llm.close()
        return got

    data = tiny_llama(TinyLlama())
    reference = ReferenceLlama(data)
    for n_ctx, n_ubatch, prompt in ((1, 512, TOKENS[:1]), (12, 1, TOKENS[:9])):
        found = page.run(run, data=data, tokens=prompt, n_ctx=n_ctx, n_ubatch=n_ubatch)
        assert len(found) == n_ctx - len(prompt) + 1
        logits = reference.logits([*prompt, *found[:-1]])
        assert found == logits[len(prompt) - 1 :].argmax(axis=-1).tolist()


def test_tokens_that_are_submitted_together_are_read_one_by_one(page: Page) -> None:
    async def run(data, tokens):
        from llamaweb.llama import Llama
        from llamaweb.sampling import Sampling

        async with await Llama.load(data, n_ctx=40, n_ubatch=1) as llm:
            llm._generator._clock = lambda: 1.0  # a GPU that takes no time is given several tokens a submit
            repeats, sample = [], llm._executor.sample
            llm._executor.sample = lambda phase, n, repeat=1: (repeats.append(repeat), sample(phase, n, repeat))[1]
            return [token async for token in llm._generator.generate(tokens, Sampling(temperature=0), 100)], repeats

    data = tiny_llama(TinyLlama())
    found, repeats = page.run(run, data=data, tokens=TOKENS[:3])
    assert len(found) == 38 and max(repeats) == SUBMITTED
    logits = ReferenceLlama(data).logits([*TOKENS[:3], *found[:-1]])
    assert found == logits[2:].argmax(axis=-1).tolist()


@pytest.mark.parametrize("command", ["run", "load"])
def test_a_model_without_a_chat_template_is_refused_for_chat_before_its_weights_are_read(
    page: Page, command: str
) -> None:
    async def phases(command, data):
        from llamaweb.errors import UnsupportedError
        from llamaweb.page.commands import handle

        events = []
        try:
            await handle(command, {"prompt": "x", "chat": True}, events.append, data)
        except UnsupportedError as error:
            return str(error), {event.get("phase") for event in events}

    sentence, seen = page.run(phases, command=command, data=without_chat(tiny_llama()))
    assert "has no chat template" in sentence
    assert seen <= {"header"}
