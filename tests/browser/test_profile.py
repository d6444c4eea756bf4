"""The profiler and the bench in the page, on a small model; and, by ratios within one run, guards of its speed."""

from __future__ import annotations

from typing import Any

import pytest
from browser_page import Page

from tests.tiny import TinyLlama, tiny_llama

# Large enough that a product takes longer than a dispatch does by itself, small enough for the software adapter.
SMALL = TinyLlama(type="Q4_0", n_embd=512, n_ff=1024, n_head=8, n_head_kv=4, n_layer=2)
N_PROMPT, N_GENERATE, DEPTH = 24, 8, 16


@pytest.fixture(scope="module")
def data() -> bytes:
    return tiny_llama(SMALL)


async def measured(data, n_prompt, n_generate, depth, timestamps):
    """A profile's report and every dispatch of its phases; and the same answer before and after."""
    import dataclasses

    from llamaweb.llama import Llama

    llm = await Llama.load(data, n_ctx=128, n_ubatch=64)
    if not timestamps:
        llm._executor.device.profile = dataclasses.replace(llm._executor.device.profile, timestamp_query=False)
    options = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
    before = [piece async for piece in llm.stream("the king", **options)]
    live = llm._executor.device.live_bytes
    profile = await llm.profile(n_prompt=n_prompt, n_generate=n_generate, depth=depth)
    left = llm._executor.device.live_bytes - live
    after = [piece async for piece in llm.stream("the king", **options)]
    labels = {name: [d.label for d in phase.dispatches] for name, phase in llm.plan.phases.items()}
    timed = {phase.phase: [(d.label, d.us) for d in phase.dispatches] for phase in profile.phases}
    await llm.close()
    return {"report": profile.report(), "labels": labels, "timed": timed, "left": left, "same": before == after}


@pytest.fixture(scope="module")
def profiles(page: Page, data: bytes) -> dict[str, dict[str, Any]]:
    """By source; coarse timestamps would leave both to batches."""
    sizes = {"n_prompt": N_PROMPT, "n_generate": N_GENERATE, "depth": DEPTH}
    found = [page.run(measured, data=data, timestamps=timestamps, **sizes) for timestamps in (True, False)]
    return {profile["report"]["source"]: profile for profile in found}


@pytest.fixture(params=["timestamps", "batches"])
def profile(request: pytest.FixtureRequest, profiles: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return profiles[request.param]


def test_every_dispatch_of_a_token_and_of_a_batch_is_timed_once(profile: dict[str, Any]) -> None:
    for phase in ("prefill", "decode"):
        assert [label for label, _ in profile["timed"][phase]] == profile["labels"][phase]
    for phase in profile["report"]["phases"]:
        assert sum(k["count"] for k in phase["kernels"]) == phase["dispatches"]


def test_times_are_positive_and_their_shares_make_one(profile: dict[str, Any]) -> None:
    assert all(us > 0 for timed in profile["timed"].values() for _, us in timed)
    for phase in profile["report"]["phases"]:
        assert sum(k["share"] for k in phase["kernels"]) == pytest.approx(1)
        assert phase["whole_us"] > 0
    assert [(p["n_tokens"], p["n_past"]) for p in profile["report"]["phases"]] == [(N_PROMPT, DEPTH), (1, DEPTH + 4)]


def test_profiling_leaves_the_model_and_its_memory_as_they_were(profile: dict[str, Any]) -> None:
    assert profile["left"] == 0
    assert profile["same"]


def test_a_kernels_rate_is_below_the_devices_peak(profile: dict[str, Any]) -> None:
    peaks = profile["report"]["peaks"]
    assert peaks["bytes_per_second"] > 1e8 and peaks["flops_per_second"] > 1e8
    for phase in profile["report"]["phases"]:
        for k in phase["kernels"]:
            assert k["of_peak_flops"] < 2, k  # twice: the machine may have been busy when the peak was measured


def test_a_profile_longer_than_the_context_is_refused_in_a_sentence(page: Page, data: bytes) -> None:
    from llamaweb.errors import ContextError

    with pytest.raises(ContextError, match="120 tokens and 24 more do not fit the context of 128"):
        page.run(measured, data=data, timestamps=True, n_prompt=24, n_generate=8, depth=120)


# Guards: ratios within one run on the software adapter; beside each is what it was when it was written.


def phase(profiles: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return next(p for p in profiles["timestamps"]["report"]["phases"] if p["phase"] == name)


def test_a_token_takes_little_more_than_its_dispatches(profiles: dict[str, dict[str, Any]]) -> None:
    decode = phase(profiles, "decode")
    assert decode["whole_us"] < 3 * decode["dispatch_us"]  # 1.1; the machine may be busy in between


def test_tokens_in_a_batch_are_cheaper_than_one_by_one(profiles: dict[str, dict[str, Any]]) -> None:
    assert phase(profiles, "prefill")["whole_us"] < 1.5 * N_PROMPT * phase(profiles, "decode")["whole_us"]  # 0.7


def test_decoding_keeps_up_with_the_yardstick_of_its_shape(page: Page, data: bytes) -> None:
    async def benched(data):
        from llamaweb.llama import Llama
        from llamaweb.page.bench import bench, floor, with_floor

        llm = await Llama.load(data, n_ctx=128)
        result = await bench(llm, prompt_tokens=16, gen_tokens=24, reps=3, depth=5)
        await llm.close()
        return with_floor(result, await floor(llm.file))

    result = page.run(benched, data=data)
    assert len(result["prefill_all"]) == len(result["decode_all"]) == 3
    assert min(result["decode_all"]) <= result["decode_per_second"] <= max(result["decode_all"])
    assert result["floor"]["dispatches"] == 2 * 5 + 2
    assert result["floor_ratio"] > 0.15, result  # 0.41


def test_a_measurement_that_fails_is_one_sentence(page: Page) -> None:
    async def failing():
        import js

        from llamaweb.errors import LlamaWebError
        from llamaweb.gpu.yardstick import plain_load

        try:
            await plain_load([f"{js.location.origin}/no-such.gguf"])
        except LlamaWebError as error:
            return str(error)

    sentence = page.run(failing)
    assert sentence.startswith("A plain loop of fetch and writeBuffer could not be measured (")
    assert "/no-such.gguf answered 404" in sentence
