"""Whole tiny models of every family, in the page against the numpy forward pass."""

from __future__ import annotations

from typing import Any

import pytest
from browser_page import Page
from test_llama_tiny import LIMIT, N_UBATCH, PROMPT, TOKENS, forward

from llamaweb.planner import FUSIONS
from tests.families import MODELS
from tests.reference import nmse
from tests.tiny import tiny_model


def check(page: Page, name: str, **options: Any) -> None:
    model = MODELS[name]
    data = tiny_model(model.spec)
    shape = {"n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": True, "options": options}
    found, _ = page.run(forward, data=data, tokens=TOKENS, **shape)
    expected = model.reference(data).logits(TOKENS)[PROMPT - 1 :]
    assert found.shape == expected.shape
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= LIMIT, errors


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_prefill_and_decode_equal_numpys(page: Page, name: str) -> None:
    check(page, name)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.spec.type == "F32"])
def test_logits_are_the_same_where_nothing_is_fused(page: Page, name: str) -> None:
    check(page, name, unfused=list(FUSIONS))
