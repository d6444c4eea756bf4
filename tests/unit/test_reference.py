"""The numpy forward pass and the golden files: both agree with llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.models import smollm2_path
from tests.reference import ReferenceLlama, nmse
from tests.tiny import TinyLlama, tiny_llama

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "tiny.json").read_text())
LOGITS = np.load(GOLDEN / "tiny.npz")


@pytest.mark.parametrize("name", CASES)
def test_reference_equals_llama_cpp_where_nothing_is_rounded(name: str) -> None:
    case = CASES[name]
    model = ReferenceLlama(tiny_llama(TinyLlama(**case["spec"])), kv_f16=False)
    assert nmse(model.logits(case["tokens"])[case["positions"]], LOGITS[name]) <= 1e-10


@pytest.mark.parametrize("name", CASES)
def test_reference_is_close_to_llama_cpp_with_its_rounded_activations(name: str) -> None:
    case = CASES[name]
    spec = TinyLlama(**case["spec"])
    found = ReferenceLlama(tiny_llama(spec)).logits(case["tokens"])[case["positions"]]
    limit = {"F32": 1e-6, "F16": 1e-6, "BF16": 5e-5}.get(spec.type, 5e-4)
    assert nmse(found, LOGITS[name + ".file"]) <= limit


def test_f16_cache_moves_the_logits_a_little() -> None:
    case = CASES["plain"]
    data = tiny_llama(TinyLlama(**case["spec"]))
    rounded, exact = (ReferenceLlama(data, kv_f16=kv_f16).logits(case["tokens"]) for kv_f16 in (True, False))
    assert 0 < nmse(rounded, exact) < 1e-6


def test_rope_turns_only_the_named_dimensions() -> None:
    data = tiny_llama(TinyLlama(n_layer=1, rope_dims=8))
    states: dict[str, np.ndarray] = {}
    model = ReferenceLlama(data, kv_f16=False)
    model.logits([7, 7, 7], states)
    assert model.rope_table(3)[0].shape == (3, 4)
    key = states["blk.0.attn_k"]
    np.testing.assert_allclose(key[2, :, 8:], key[0, :, 8:], rtol=1e-5)
    assert np.abs(key[2, :, :8] - key[0, :, :8]).max() > 0.1


def test_reference_equals_llama_cpp_on_smollm2() -> None:
    case = json.loads((GOLDEN / "smollm2.json").read_text())["forced"][2]
    ids, exact = case["ids"], case["exact"]
    logits = ReferenceLlama(smollm2_path()).logits(ids).astype(np.float64)
    assert logits.argmax(axis=-1).tolist() == exact["top1"]
    log_prob = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(log_prob[np.arange(len(ids) - 1), ids[1:]], exact["logprob"], atol=0.01)
