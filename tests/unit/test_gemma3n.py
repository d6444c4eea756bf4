"""Gemma 3n: what its metadata mean, what is refused of them, and what its streams become on the way to a plan."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from llamaweb.errors import LlamaWebError
from llamaweb.families import gemma3n
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.planner.fusion import fuse
from tests.families import MODELS
from tests.tiny import tiny_model

SMALL, SHARED = "gemma3n", "gemma3n, with shared keys"


@cache
def plain_header(name: str) -> GGUFFile:
    return asyncio.run(read_header(BytesSource(tiny_model(MODELS[name].spec))))


def header(name: str = SMALL, **keys: Any) -> GGUFFile:
    """Of a tiny model, with some keys, in which __ stands for a dot; None: without."""
    file = plain_header(name)
    new = {f"gemma3n.{key.replace('__', '.')}": value for key, value in keys.items()}
    metadata = {key: value for key, value in {**file.metadata, **new}.items() if value is not None}
    return replace(file, metadata=metadata)


def bound(plan: ModelPlan, phase: str, label: str) -> dict[str, tuple[int, int]]:
    """By slot, where it begins, and bytes."""
    d = next(d for d in plan.phases[phase].dispatches if d.label == label)
    return {s.name: (b.offset, b.size) for s, b in zip(d.kernel.slots, d.bindings, strict=True)}


def test_what_the_file_does_not_tell_is_as_llama_cpp_has_it() -> None:
    told = ("attention__shared_kv_layers", "activation_sparsity_scale")
    silent = gemma3n.hyperparameters(header(SHARED, **dict.fromkeys(told)))
    assert (silent.n_stream, silent.n_own, silent.cap) == (4, 256, 30.0)
    assert [layer.cache for layer in silent.layers] == [*range(20), 18, 19]
    assert [layer.deviations for layer in silent.layers] == [pytest.approx(1.6448536)] * 10 + [None] * 12
    assert {layer.rope.base for layer in silent.layers if layer.window} == {1e4}
    assert {layer.rope.base for layer in silent.layers if not layer.window} == {1e5}


def test_what_the_file_tells_holds() -> None:
    scales = np.array([-math.inf, 0.5, 2.0], np.float32)
    told = {"altup__num_inputs": 3, "embedding_length_per_layer_input": 32, "final_logit_softcapping": 20.0}
    hparams = gemma3n.hyperparameters(header(activation_sparsity_scale=scales, rope__freq_base_swa=500.0, **told))
    assert [layer.deviations for layer in hparams.layers] == [None, 0.5, 2.0]
    assert [layer.rope.base for layer in hparams.layers] == [500.0, 1e5, 500.0]
    assert (hparams.n_stream, hparams.n_own, hparams.cap) == (3, 32, 30.0)  # llama.cpp reads no other cap
    of_window = gemma3n.hyperparameters(header(rope__scaling__attn_factor=0.5, rope__dimension_count_swa=4)).layers[0]
    assert (of_window.rope.attn_factor, of_window.rope.n_dims) == (0.5, 4)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"altup__active_idx": 1}, "gemma3n.altup.active_idx is 1; 0 alone is supported"),
        ({"altup__num_inputs": 0}, "gemma3n.altup.num_inputs is 0, not a whole number from 1 to 4"),
        ({"altup__num_inputs": 5}, "gemma3n.altup.num_inputs is 5, not a whole number from 1 to 4"),
        ({"altup__num_inputs": 1}, r"altup_proj.weight has shape .*asks for \[40, 40, 0\]"),
        ({"altup__num_inputs": 3}, r"altup_proj.weight has shape \[40, 40, 3\], .*asks for \[40, 40, 2\]"),
        ({"embedding_length_per_layer_input": 0}, "embedding_length_per_layer_input is 0, not a whole number"),
        ({"embedding_length_per_layer_input": 128}, r"per_layer_token_embd.weight has shape \[768, .*\[384, "),
        ({"attention__shared_kv_layers": 2}, "shared_kv_layers is 2, but of 3 layers at least 2 must"),
        ({"attention__shared_kv_layers": 9}, "shared_kv_layers is 9, but of 3 layers at least 2 must"),
        (
            {"attention__shared_kv_layers": 1, "attention__sliding_window_pattern": np.array([False, False, True])},
            "Layer 2 is to read the keys and values of layer 0, whose window differs",
        ),
        ({"attention__shared_kv_layers": "two"}, "attention.shared_kv_layers is 'two', not a whole number from 0"),
        ({"activation_sparsity_scale": 1.6}, "activation_sparsity_scale is 1.6, not a number for each of 3 layers"),
        ({"activation_sparsity_scale": np.float32([1.6] * 4)}, "not a number for each of 3 layers"),
        ({"activation_sparsity_scale": np.float32([1, math.nan, 1])}, "not a number for each of 3 layers"),
        ({"activation_sparsity_scale": np.float32([1, math.inf, 1])}, "not a number for each of 3 layers"),
        ({"activation_sparsity_scale": np.array([1, 2, 3])}, "not a number for each of 3 layers"),
        ({"rope__freq_base_swa": 0.5}, "gemma3n.rope.freq_base_swa is 0.5, not a number from 1 to "),
    ],
)
def test_metadata_that_cannot_be_meant_are_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LlamaWebError, match=sentence):
        plan_model(header(**keys))


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_streams_lie_one_behind_the_other_and_products_read_theirs(phase: str) -> None:
    plan = plan_model(header(), n_ubatch=12)
    begin, size = bound(plan, phase, "blk.1.altup_correct")["y"]
    plane = size // 5
    assert plane == 4 * 64 * (12 if phase == "prefill" else 1)
    assert bound(plan, phase, "blk.1.inp_gate")["x"] == (begin + 4 * plane, plane)
    assert bound(plan, phase, "blk.2.altup_predict")["x"] == (begin, size)
    begin = bound(plan, phase, "altup_unembd_streams")["y"][0]
    merged = bound(plan, phase, "altup_merged")
    assert [merged[f"x{i}"] for i in range(4)] == [(begin + i * plane, plane) for i in range(4)]


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_what_the_streams_are_projected_of_is_written_side_by_side(n_tokens: int) -> None:
    file = header(SHARED)
    graph = Graph(file.tensors, n_tokens)
    gemma3n.build(graph, gemma3n.hyperparameters(file))
    steps = [step for step in fuse(graph).steps if step.name.startswith(("altup_residual", "altup_unembd"))]
    *sums, product, stack = steps
    assert [step.op for step in (*sums, product, stack)] == ["elementwise"] * 3 + ["mul_mat_heads", "altup_stack"]
    assert [step.values["y"] for step in sums] == [product.values["x"].part(64 * i, 64) for i in range(3)]
    assert stack.values["others"] == product.values["y"]


def test_keys_that_a_layer_does_not_use_are_no_weights() -> None:
    names = {name for weight in plan_model(header(SHARED)).weights for name in weight.names}
    assert "blk.19.attn_k.weight" in names and "blk.19.attn_k_norm.weight" in names
    assert not {f"blk.20.attn_{part}.weight" for part in ("k", "v", "k_norm")} & names


def test_gates_that_are_few_take_no_dispatch_more_than_their_product() -> None:
    labels = [d.label for d in plan_model(header(SHARED)).phases["decode"].dispatches]
    assert [label for label in labels if label.endswith("ffn_glu")] == [f"blk.{i}.ffn_glu" for i in range(10)]
