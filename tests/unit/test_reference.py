"""The numpy forward passes and the golden files: both agree with llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.reference import ReferenceGemma3, ReferenceLlama, nmse
from tests.tiny import TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "tiny.json").read_text())
LOGITS = np.load(GOLDEN / "tiny.npz")
GEMMA3_CASES = json.loads((GOLDEN / "tiny_gemma3.json").read_text())
GEMMA3_LOGITS = np.load(GOLDEN / "tiny_gemma3.npz")


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


@pytest.mark.parametrize("name", GEMMA3_CASES)
def test_gemma3_reference_equals_llama_cpp_where_only_the_gelu_is_rounded(name: str) -> None:
    case, expected = GEMMA3_CASES[name], GEMMA3_LOGITS[name]
    spec = TinyGemma3(**case["spec"])
    model = ReferenceGemma3(tiny_gemma3(spec), kv_f16=False, gelu_f16=True)
    found = model.logits(case["tokens"])[case["positions"]]
    assert found.argmax(axis=-1).tolist() == expected.argmax(axis=-1).tolist()
    # Where a value is at the edge between two of f16, both roundings happen; the more layers, the more that moves.
    assert nmse(found, expected) <= (5e-8 if spec.n_layer < 10 else 5e-6)


@pytest.mark.parametrize("name", GEMMA3_CASES)
def test_gemma3_reference_is_close_to_llama_cpp_with_all_that_it_rounds(name: str) -> None:
    case = GEMMA3_CASES[name]
    spec = TinyGemma3(**case["spec"])
    found = ReferenceGemma3(tiny_gemma3(spec)).logits(case["tokens"])[case["positions"]]
    limit = 1e-3 if spec.type != "F32" else 1e-6 if spec.n_layer < 10 else 2e-4
    assert nmse(found, GEMMA3_LOGITS[name + ".file"]) <= limit


def test_gemma3_logits_show_every_detail_of_the_computation() -> None:
    case = GEMMA3_CASES["bases"]
    spec = TinyGemma3(**case["spec"])
    exact = ReferenceGemma3(tiny_gemma3(spec), kv_f16=False).logits(case["tokens"])
    for change in (
        {"window": 7},
        {"window": 9},
        {"rope_base": 10000.0},
        {"rope_base_swa": None},
        {"factor": None},
        {"pattern": 0},
        {"rms_eps": 1e-2},
    ):
        other = ReferenceGemma3(tiny_gemma3(replace(spec, **change)), kv_f16=False).logits(case["tokens"])
        assert nmse(other, exact) > 1e-5, change


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
