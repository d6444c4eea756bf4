"""Tiny models of every family in the page, against their graphs computed in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from browser_page import Page
from test_llama_tiny import LIMIT, N_UBATCH, PROMPT, TOKENS, forward

from llamaweb.planner import FUSIONS
from tests.family_models import MODELS, model
from tests.graph_reference import GraphReference
from tests.reference import nmse

N_CTX = 64


def check(page: Page, name: str, **options: Any) -> None:
    data = model(MODELS[name])
    options |= {"type_k": "f32", "type_v": "f32"}
    shape = {"n_prompt": PROMPT, "n_ubatch": N_UBATCH, "subgroups": True, "options": options, "n_ctx": N_CTX}
    found, _ = page.run(forward, data=data, tokens=TOKENS, **shape)
    expected = GraphReference(data, N_CTX).logits(TOKENS)[PROMPT - 1 :]
    assert found.shape == expected.shape and float(np.std(expected)) > 0.05
    errors = [nmse(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(errors) <= LIMIT, errors


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_prefill_and_decode_are_those_of_the_graph(page: Page, name: str) -> None:
    check(page, name)


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.type == "F32"])
def test_logits_are_the_same_where_nothing_is_fused(page: Page, name: str) -> None:
    check(page, name, unfused=list(FUSIONS))
