"""The default model, end to end in the browser, against llama.cpp's numbers (tests/golden/make_golden.py).

llama.cpp on a CPU rounds activations to 8 bits for quantized weights; "exact" are its numbers for the same weights as
float32, which are what a float32 engine has to give, and "file" those for the file as it is. The perplexity is measured
in Firefox (tests/pages/test_in_firefox.py), whose software adapter is faster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser_page import Page
from packed_path import close_packed, load_packed

from tests.forced import FORCED, LEAST
from tests.models import smollm2_path

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "smollm2.json").read_text())
RAW = next(case for case in CASES["greedy"] if not case["messages"])
MiB = 1 << 20


@pytest.fixture(scope="module")
def loaded(page: Page) -> Iterator[dict]:
    """Loads the model as `llm` for all tests of this file; gives what was seen meanwhile."""

    async def load(url):
        import builtins

        import llamaweb
        from llamaweb.javascript import wasm_heap_bytes

        before = wasm_heap_bytes()
        seen = []
        llm = await llamaweb.Llama.load(
            url, n_ctx=512, n_ubatch=128, logits_all=True, progress=lambda p: seen.append((p.phase, p.done, p.total))
        )
        builtins.llm = llm
        device = llm._executor.device
        return {
            "heap_growth": wasm_heap_bytes() - before,
            "progress": seen,
            "memory": llm.memory,
            "live_bytes": device.live_bytes,
            "lower_bound": llm.plan.arena_lower_bound,
            "dispatches": llm.dispatches_per_token,
        }

    yield page.run(load, url=page.file_url(smollm2_path()))

    async def close():
        import builtins

        device = builtins.llm._executor.device
        await builtins.llm.close()
        del builtins.llm
        return device.live_bytes

    assert page.run(close) == 0


def test_weights_do_not_pass_the_wasm_heap(loaded: dict) -> None:
    assert loaded["heap_growth"] <= 48 * MiB


def test_planned_bytes_are_the_bytes_created(loaded: dict) -> None:
    assert loaded["live_bytes"] == loaded["memory"]["total"]
    assert loaded["memory"]["arena"] <= 1.10 * loaded["lower_bound"]


def test_a_layer_takes_five_dispatches(loaded: dict) -> None:
    assert loaded["dispatches"] == 30 * 5 + 3


def test_progress_reaches_its_end_in_each_phase(loaded: dict) -> None:
    phases = {phase: (done, total) for phase, done, total in loaded["progress"]}
    assert list(phases) == ["header", "weights", "pipelines"]
    for phase in ("weights", "pipelines"):
        assert phases[phase][0] == phases[phase][1] > 0


@pytest.fixture(scope="module")
def forced(page: Page, loaded: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities and most likely tokens of our engine for the golden texts."""

    async def evaluate(texts):
        return [await llm.log_probabilities(ids) for ids in texts]  # noqa: F821  # the fixture's

    return page.run(evaluate, texts=[case["ids"] for case in CASES["forced"]])


def test_most_likely_tokens_agree_with_llama_cpp(forced: list) -> None:
    ours = np.concatenate([top for _, top in forced])
    exact = np.concatenate([case["exact"]["top1"] for case in CASES["forced"]])
    assert np.mean(ours == exact) >= 0.99


def test_log_probabilities_agree_with_llama_cpp(forced: list) -> None:
    for (log_p, _), case in zip(forced, CASES["forced"], strict=True):
        np.testing.assert_allclose(log_p, case["exact"]["logprob"], atol=0.02)


@pytest.fixture(scope="module")
def packed_bits(page: Page, loaded: dict) -> Iterator[dict]:
    """The model once more, as `packed`, with the integer dot product that most GPUs have; gives its bits."""
    yield page.run(load_packed, url=page.file_url(smollm2_path()), n_ctx=256, n_ubatch=128, logits_all=True)
    page.run(close_packed)


def test_the_packed_dots_16_bits_are_as_good_as_float32(page: Page, packed_bits: dict, forced: list) -> None:
    assert packed_bits == {"prefill": {16}, "evaluate": {16}}

    async def evaluate(texts):
        return [await packed.log_probabilities(ids) for ids in texts]  # noqa: F821

    (log_p, top), (exact_p, exact_top) = page.run(evaluate, texts=[CASES["forced"][0]["ids"]])[0], forced[0]
    assert np.exp(np.mean(exact_p) - np.mean(log_p)) == pytest.approx(1, abs=1e-3)  # the ratio of perplexities
    np.testing.assert_allclose(log_p, exact_p, atol=0.02)
    assert np.mean(top == exact_top) >= 0.99


@pytest.mark.parametrize("case", CASES["greedy"], ids=["raw", "chat"])
def test_greedy_text_is_llama_cpps_with_the_packed_dot(page: Page, packed_bits: dict, case: dict) -> None:
    async def answer(messages, prompt, n):
        options = {"temperature": 0, "max_tokens": n}
        pieces = packed.chat_stream(messages, **options) if messages else packed.stream(prompt, **options)  # noqa: F821
        return "".join([piece async for piece in pieces])

    assert packed_bits == {"prefill": {16}, "evaluate": {16}}
    text = page.run(answer, messages=case["messages"], prompt=case["prompt"], n=8)
    assert case["exact"]["text"].startswith(text) and text
    assert case["messages"] is None or "Paris" in text  # what 8 bits get wrong


@pytest.mark.parametrize("case", CASES["greedy"], ids=["raw", "chat"])
def test_greedy_text_is_llama_cpps(page: Page, loaded: dict, case: dict) -> None:
    async def answer(messages, prompt, n):
        options = {"temperature": 0, "max_tokens": n}
        pieces = llm.chat_stream(messages, **options) if messages else llm.stream(prompt, **options)  # noqa: F821
        return "".join([piece async for piece in pieces]), llm.tokens  # noqa: F821

    n = min(len(case["exact"]["tokens"]), 12)
    text, tokens = page.run(answer, messages=case["messages"], prompt=case["prompt"], n=n)
    assert tokens == case["exact"]["tokens"][: len(tokens)]
    assert case["exact"]["text"].startswith(text) and text


def test_a_seed_gives_the_same_text_again_and_another_seed_another(page: Page, loaded: dict) -> None:
    async def sampled(seed):
        return "".join([p async for p in llm.stream("My favourite animal is", seed=seed, max_tokens=8)])  # noqa: F821

    first = page.run(sampled, seed=7)
    assert page.run(sampled, seed=7) == first
    assert page.run(sampled, seed=8) != first


def test_leaving_a_stream_early_leaves_the_model_usable(page: Page, loaded: dict) -> None:
    async def interrupted(prompt):
        options = {"temperature": 0, "max_tokens": 6}
        stream = llm.stream("The sun rises in the", **options)  # noqa: F821
        await anext(stream)
        await stream.aclose()
        async for _ in llm.stream(prompt, **options):  # noqa: F821
            pass
        return llm.tokens  # noqa: F821

    assert page.run(interrupted, prompt=RAW["prompt"]) == RAW["exact"]["tokens"][:6]


def test_a_stop_text_ends_the_answer_before_it(page: Page, loaded: dict) -> None:
    async def stopped():
        stream = llm.stream("One, two, three,", temperature=0, max_tokens=12, stop=[" five"])  # noqa: F821
        return "".join([p async for p in stream])

    text = page.run(stopped)
    assert "four" in text and "five" not in text


def test_the_blocking_form_answers(page: Page, loaded: dict) -> None:
    async def blocking(prompt):
        from llamaweb.sync import Llama

        return "".join(Llama.of(llm).stream(prompt, temperature=0, max_tokens=3))  # noqa: F821

    text = page.run(blocking, prompt=RAW["prompt"])
    assert text and RAW["exact"]["text"].startswith(text)


def test_a_prompt_longer_than_the_context_is_refused_in_a_sentence(page: Page, loaded: dict) -> None:
    from llamaweb.errors import ContextError

    async def too_long():
        return [p async for p in llm.stream([5] * 513)]  # noqa: F821

    with pytest.raises(ContextError, match="513 tokens, but the context holds 512"):
        page.run(too_long)


def test_tokens_that_llama_cpp_chose_are_the_likeliest(page: Page, loaded: dict) -> None:
    forced = FORCED["the smollm2 of the tests"]

    async def evaluate(ids):
        return (await llm.log_probabilities(ids))[1]  # noqa: F821

    assert len(forced.chosen) == 128
    assert forced.agreement(page.run(evaluate, ids=forced.ids)) >= LEAST
