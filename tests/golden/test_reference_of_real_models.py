"""The numpy forward passes of real models agree with llama.cpp; those of tiny ones: tests/unit/test_reference.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.models import gemma3_path, smollm2_path
from tests.reference import ReferenceGemma3, ReferenceLlama

GOLDEN = Path(__file__).parent


def test_reference_equals_llama_cpp_on_smollm2() -> None:
    case = json.loads((GOLDEN / "smollm2.json").read_text())["forced"][2]
    ids, exact = case["ids"], case["exact"]
    logits = ReferenceLlama(smollm2_path()).logits(ids).astype(np.float64)
    assert logits.argmax(axis=-1).tolist() == exact["top1"]
    log_prob = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(log_prob[np.arange(len(ids) - 1), ids[1:]], exact["logprob"], atol=0.01)


@pytest.fixture(scope="module")
def gemma3() -> ReferenceGemma3:
    return ReferenceGemma3(gemma3_path(), kv_f16=False, gelu_f16=True)


def test_reference_equals_llama_cpp_on_gemma3(gemma3: ReferenceGemma3) -> None:
    case = json.loads((GOLDEN / "gemma3.json").read_text())["forced"][1]
    ids, exact = case["ids"], case["exact"]
    logits = gemma3.logits(ids).astype(np.float64)
    assert logits.argmax(axis=-1).tolist() == exact["top1"]
    log_prob = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(log_prob[np.arange(len(ids) - 1), ids[1:]], exact["logprob"], atol=0.01)


def test_reference_equals_llama_cpp_on_gemma3_behind_its_window(gemma3: ReferenceGemma3) -> None:
    case = json.loads((GOLDEN / "gemma3.json").read_text())["long"]
    assert len(case["ids"]) > 512
    top, expected = np.array(case["exact"]["top"]), np.array(case["exact"]["logit"])
    logits = gemma3.logits(case["ids"], last=len(top))
    assert logits.argmax(axis=-1).tolist() == top[:, 0].tolist()
    np.testing.assert_allclose(np.take_along_axis(logits, top, axis=-1), expected, atol=0.01)
