"""The whole way on a device with the least that WebGPU promises, as on phones: the browser refuses what is more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from browser_page import Page
from test_gemma3_tiny import SPECS
from test_llama_tiny import CACHES, FORMAT_SPECS, LIMIT, N_UBATCH, PROMPT, TOKENS, forward

from llamaweb.kernels.formats import FORMATS
from llamaweb.profile import DeviceProfile
from tests.reference import ReferenceGemma3, ReferenceLlama, nmse
from tests.tiny import TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

# A device that is asked for nothing has the limits that WebGPU promises.
LEAST = """
const { gpu } = navigator, ask = gpu.requestAdapter.bind(gpu);
const { limits } = await (await ask()).requestDevice();
Object.defineProperty(gpu, "wgslLanguageFeatures", { value: new Set() });
gpu.requestAdapter = async (options) => {
  const adapter = await ask(options);
  return { limits, features: new Set(), requestDevice: (descriptor) => adapter.requestDevice(descriptor) };
};
"""
# Formats of small blocks, in two models; those of large ones are that way already.
_SMALL = [format.type.name for format in FORMATS.values() if format.block_size <= 32]
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "token_embd")
MODELS = {
    " ".join(names).lower(): TinyLlama(
        types={f"*{matrix}*": name for matrix, name in zip(_MATRICES, names, strict=False)}, bias=True, type=names[0]
    )
    for names in (_SMALL[: len(_MATRICES)], _SMALL[len(_MATRICES) :])
} | {name: spec for name, spec in FORMAT_SPECS.items() if " " in name}


@pytest.fixture(scope="module", autouse=True)
def least(page: Page) -> None:
    page.runner.run_js(LEAST)


def check(page: Page, spec: TinyLlama | TinyGemma3, limit: float = LIMIT, **options: str) -> None:
    llama = isinstance(spec, TinyLlama)
    data = tiny_llama(spec) if isinstance(spec, TinyLlama) else tiny_gemma3(spec)
    shape = {"n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": True, "options": options}
    found, sizes = page.run(forward, data=data, tokens=TOKENS, **shape)
    reference = ReferenceLlama(data, kv_f16=not options) if llama else ReferenceGemma3(data)
    expected = reference.logits(TOKENS)[PROMPT - 1 :]
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= limit, errors
    assert sizes == {0}


def test_the_device_has_what_webgpu_promises_and_nothing_else(page: Page) -> None:
    async def opened():
        from llamaweb.gpu.device import Device

        device = await Device.open()
        device.close()
        return device.profile, [str(feature) for feature in device.handle.features]

    profile, features = page.run(opened)
    assert profile == replace(DeviceProfile(), name="unnamed adapter")
    assert features in ([], ["core-features-and-limits"])


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_every_format_equal_numpys(page: Page, name: str) -> None:
    check(page, MODELS[name])


@pytest.mark.parametrize("name", ["window of one token", "heads and formats of the real one"])
def test_logits_of_gemma3_equal_numpys(page: Page, name: str) -> None:
    check(page, SPECS[name])


@pytest.mark.parametrize("type", CACHES)
def test_logits_with_a_cache_of_another_format(page: Page, type: str) -> None:
    check(page, TinyLlama(head_dim=32), limit=CACHES[type], type_k=type, type_v=type)


def test_answers_are_the_same_before_and_after_tuning(page: Page) -> None:
    async def answers(data, prompt, n):
        from llamaweb import loading
        from llamaweb.llama import Llama
        from llamaweb.sampling import Sampling

        async def as_it_says(device, pipelines): ...  # the CPU that it is would not be tuned

        recognize, loading.recognize = loading.recognize, as_it_says
        try:
            async with await Llama.load(data, n_ctx=64, n_ubatch=16) as llm:
                generate = llm._generator.generate
                found = [[token async for token in generate(prompt, Sampling(temperature=0), n)]]
                await llm.tuned()
                found.append([token async for token in generate([*prompt, 9], Sampling(temperature=0), n)])
                return found, len(llm.trials), all(trial.right for trial in llm.trials)
        finally:
            loading.recognize = recognize

    data = tiny_llama(TinyLlama(n_layer=1, type="Q4_0"))
    found, trials, right = page.run(answers, data=data, prompt=TOKENS[:20], n=5)
    assert trials > 10 and right
    for prompt, tokens in zip((TOKENS[:20], [*TOKENS[:20], 9]), found, strict=True):
        logits = ReferenceLlama(data).logits([*prompt, *tokens[:-1]])
        np.testing.assert_array_equal(tokens, logits[len(prompt) - 1 :].argmax(axis=-1))
