"""Whole tiny models of every family, in the page against the numpy forward pass."""

from __future__ import annotations

from typing import Any

import pytest
from browser_page import Page
from test_llama_tiny import LIMIT, N_UBATCH, PROMPT, TOKENS, changes, forward

from llamaweb.planner import FUSIONS
from tests.families import MODELS
from tests.forced import FORCED, LEAST, TINY
from tests.reference import nmse
from tests.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_device")


def check(page: Page, name: str, packed: bool = False, **options: Any) -> None:
    """packed: on a device that has the packed dot and no subgroups."""
    model = MODELS[name]
    data = tiny_model(model.spec)
    shape = {"n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": not packed, "packed": packed, "options": options}
    found, _ = page.run(forward, data=data, tokens=TOKENS, **shape)
    expected = model.reference(data).logits(TOKENS)[PROMPT - 1 :]
    assert found.shape == expected.shape
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= LIMIT, errors


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_prefill_and_decode_equal_numpys(page: Page, name: str) -> None:
    check(page, name)


# A model whose plan a rule of fusion changes; the rest of the rules: test_llama_tiny.py.
RULES = {
    "norms": "olmo2",
    "experts": "qwen3moe",
    "epilogue": "nemotron",
    "results": "nemotron_h",
    "inputs": "lfm2",
    "convolutions": "mamba2",
    "scale": "minicpm",
    "post_norm": "glm4",
    "scales": "bitnet",
    "chains": "minicpm, experts",
    "planes": "rwkv7",
}


@pytest.mark.parametrize("left_out", RULES)
def test_logits_are_the_same_where_a_rule_of_fusion_is_left_out(page: Page, left_out: str) -> None:
    assert changes(tiny_model(MODELS[RULES[left_out]].spec), left_out)
    check(page, RULES[left_out], unfused=[left_out])


@pytest.mark.parametrize("name", ["gemma4", "qwen2, odd and untied"])
def test_logits_are_the_same_where_tables_are_on_the_host(page: Page, name: str) -> None:
    check(page, name, offload="embeddings")


IN_FLOATS = [name for name, model in MODELS.items() if model.spec.type == "F32"]
OTHERS = {model.spec.family: name for name, model in MODELS.items()}  # of each family a model, …
for _name in IN_FLOATS:  # … that has none of these
    OTHERS.pop(MODELS[_name].spec.family, None)


@pytest.mark.parametrize("name", [*IN_FLOATS, *OTHERS.values()])
def test_logits_are_the_same_where_nothing_is_fused(page: Page, name: str) -> None:
    check(page, name, unfused=list(FUSIONS))


@pytest.mark.parametrize("name", ["qwen2moe, Q4_0", "llama, experts, Q8_0"])
def test_logits_of_experts_with_the_packed_dot(page: Page, name: str) -> None:
    check(page, name, packed=True)


async def profiled(data):
    """Microseconds of the dispatches, by kernel and phase."""
    from llamaweb.llama import Llama

    llm = await Llama.load(data, n_ctx=64, n_ubatch=16, tune="off")
    try:
        profile = await llm.profile(n_prompt=16, n_generate=2, repetitions=1)
        return [[phase.phase, each.kernel.template, each.us] for phase in profile.phases for each in phase.dispatches]
    finally:
        await llm.close()


def test_a_profile_times_experts_behind_the_routes_of_its_tokens(page: Page) -> None:
    """What the routes' place holds between two layers would be tiles without an end."""
    times = page.run(profiled, data=tiny_model(MODELS["qwen3moe"].spec))
    assert {"top_k", "sort_ids", "mul_mat_id_tiles"} <= {kernel for phase, kernel, _ in times if phase == "prefill"}
    assert {"top_k", "mul_mat_id"} <= {kernel for phase, kernel, _ in times if phase == "decode"}
    assert all(us > 0 for _, _, us in times)


async def likeliest(data, ids):
    """Behind each of the tokens."""
    from llamaweb.llama import Llama

    llm = await Llama.load(data, n_ctx=256, n_ubatch=64, logits_all=True, tune="off")
    try:
        return (await llm.log_probabilities(ids))[1]
    finally:
        await llm.close()


@pytest.mark.parametrize("name", TINY)
def test_tokens_that_llama_cpp_chose_are_the_likeliest(page: Page, name: str) -> None:
    forced = FORCED[name]
    assert len(forced.chosen) == 128
    likely = page.run(likeliest, data=tiny_model(MODELS[name].spec), ids=forced.ids)
    assert forced.agreement(likely) >= LEAST


async def turns(data, prompt, stop_after):
    """What follows a prompt, a stopped answer and a few tokens more: behind the stop, and computed anew."""
    from llamaweb.llama import Llama
    from llamaweb.sampling import Sampling

    llm = await Llama.load(data, n_ctx=256, n_ubatch=16, tune="off")

    async def take(tokens, n, stop_after=None):
        found = []
        generation = llm._generator.generate(tokens, Sampling(temperature=0), n)
        async for token in generation:
            found.append(token)
            if len(found) == stop_after:
                break
        await generation.aclose()
        return found

    tokens = [*prompt, *await take(prompt, 120, stop_after), 5, 6, 7]
    behind = await take(tokens, 12)
    async with llm._generator.alone():
        pass
    anew = await take(tokens, 12)
    memory = llm.memory
    await llm.close()
    return behind, anew, memory


@pytest.mark.parametrize("stop_after", [3, 50])
def test_a_recurrent_model_goes_on_behind_a_stop_as_if_it_had_read_everything(page: Page, stop_after: int) -> None:
    data = tiny_model(MODELS["granitehybrid"].spec)
    behind, anew, memory = page.run(turns, data=data, prompt=TOKENS[:21], stop_after=stop_after)
    assert behind == anew and len(anew) == 12
    assert memory["state"] > 0
