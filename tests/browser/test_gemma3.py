"""Gemma 3 270M, end to end in the browser, against llama.cpp's numbers (tests/golden/make_golden.py).

"exact" are llama.cpp's numbers for the same weights as float32, and "file" those for the file as it is, whose products
round activations to 8 bits: that moves the most likely token of this model in one of twenty places, so that closeness
is asked to the exact ones. On a software adapter a token takes half a second; what is evaluated serves several tests.
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
from tests.models import gemma3_path

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "gemma3.json").read_text())
PROSE, CHAT = CASES["forced"]
N_LAYER = 18
N_PACKED = 48  # tokens of the prose that the packed dot reads, too


@pytest.fixture(scope="module")
def loaded(page: Page) -> Iterator[dict]:
    """Loads the model as `llm` for all tests of this file, with the chat template that a base model's file lacks."""

    async def load(url, template):
        import builtins

        import llamaweb

        llm = await llamaweb.Llama.load(url, n_ctx=256, n_ubatch=128, logits_all=True)
        llm.file.metadata["tokenizer.chat_template"] = template
        builtins.llm = llm
        return {
            "memory": llm.memory,
            "live_bytes": llm._executor.device.live_bytes,
            "lower_bound": llm.plan.arena_lower_bound,
            "dispatches": llm.dispatches_per_token,
        }

    yield page.run(load, url=page.file_url(gemma3_path()), template=(GOLDEN / "gemma3.jinja").read_text())

    async def close():
        import builtins

        device = builtins.llm._executor.device
        await builtins.llm.close()
        del builtins.llm
        return device.live_bytes

    assert page.run(close) == 0


def test_planned_bytes_are_the_bytes_created(loaded: dict) -> None:
    assert loaded["live_bytes"] == loaded["memory"]["total"]
    assert loaded["memory"]["arena"] <= 1.10 * loaded["lower_bound"]


def test_a_layer_takes_at_most_six_dispatches(loaded: dict) -> None:
    assert loaded["dispatches"] <= N_LAYER * 6 + 3


@pytest.fixture(scope="module")
def evaluated(page: Page, loaded: dict) -> dict:
    """The perplexity of the prose, and log-probabilities and most likely tokens of the prose and of a chat."""

    async def evaluate(prose, chat):
        evaluated = []
        evaluate = llm.log_probabilities  # noqa: F821  # the fixture's

        async def kept(tokens):
            evaluated.append(await evaluate(tokens))
            return evaluated[-1]

        llm.log_probabilities = kept  # noqa: F821
        try:
            found = await llm.perplexity(prose, n_ctx=128)  # noqa: F821
        finally:
            del llm.log_probabilities  # noqa: F821
        return {"perplexity": (found.perplexity, found.tokens), "forced": [*evaluated, await evaluate(chat)]}

    return page.run(evaluate, prose=PROSE["text"], chat=CHAT["ids"])


def test_perplexity_is_within_half_a_percent_of_llama_cpp(evaluated: dict) -> None:
    perplexity, tokens = evaluated["perplexity"]
    for mode, limit in (("exact", 0.005), ("file", 0.01)):
        golden = CASES["perplexity"][mode]["128"]
        assert tokens == golden["tokens"]
        assert perplexity == pytest.approx(golden["perplexity"], rel=limit)


def test_most_likely_tokens_agree_with_llama_cpp(evaluated: dict) -> None:
    ours = np.concatenate([top for _, top in evaluated["forced"]])
    exact = np.concatenate([case["exact"]["top1"] for case in (PROSE, CHAT)])
    assert np.mean(ours == exact) >= 0.99


def test_log_probabilities_agree_with_llama_cpp(evaluated: dict) -> None:
    for (log_p, _), case in zip(evaluated["forced"], (PROSE, CHAT), strict=True):
        np.testing.assert_allclose(log_p, case["exact"]["logprob"], atol=0.02)


@pytest.mark.parametrize("case", CASES["greedy"], ids=["raw", "chat"])
def test_greedy_text_is_llama_cpps(page: Page, loaded: dict, case: dict) -> None:
    async def answer(messages, prompt):
        options = {"temperature": 0, "max_tokens": 6}
        pieces = llm.chat_stream(messages, **options) if messages else llm.stream(prompt, **options)  # noqa: F821
        return "".join([piece async for piece in pieces]), llm.tokens  # noqa: F821

    text, tokens = page.run(answer, messages=case["messages"], prompt=case["prompt"])
    assert tokens == case["exact"]["tokens"][:6]
    assert case["exact"]["text"].startswith(text) and text


def test_the_packed_dots_16_bits_are_as_good_as_float32(page: Page, evaluated: dict) -> None:
    async def evaluate(ids):
        return await packed.log_probabilities(ids)  # noqa: F821  # as load_packed leaves it

    bits = page.run(load_packed, url=page.file_url(gemma3_path()), n_ctx=128, n_ubatch=128, logits_all=True)
    assert bits == {"prefill": {16}, "evaluate": {16}}
    try:
        log_p, top = page.run(evaluate, ids=PROSE["ids"][:N_PACKED])
    finally:
        page.run(close_packed)
    exact_p, exact_top = (found[: len(of)] for found, of in zip(evaluated["forced"][0], (log_p, top), strict=True))
    assert np.exp(np.mean(exact_p) - np.mean(log_p)) == pytest.approx(1, abs=1e-3)  # the ratio of perplexities
    np.testing.assert_allclose(log_p, exact_p, atol=0.02)
    assert np.mean(top == exact_top) >= 0.99


def test_tokens_that_llama_cpp_chose_are_the_likeliest(page: Page, loaded: dict) -> None:
    forced = FORCED["the gemma3 of the tests"]

    async def evaluate(ids):
        return (await llm.log_probabilities(ids))[1]  # noqa: F821

    assert len(forced.chosen) == 128
    assert forced.agreement(page.run(evaluate, ids=forced.ids)) >= LEAST
