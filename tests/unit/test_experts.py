"""Experts: what metadata mean, what is refused of them, and what they cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from llamaweb.architectures import architecture
from llamaweb.architectures.experts import Experts
from llamaweb.errors import LlamaWebError
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import DESKTOP, plan_model
from llamaweb.planner.cost import costs
from llamaweb.profile import DeviceProfile
from tests.families import MODELS
from tests.tiny import tiny_model


def header(name: str, **keys: Any) -> GGUFFile:
    """Of a tiny model, with some keys, in which __ stands for a dot."""
    file = asyncio.run(read_header(BytesSource(tiny_model(MODELS[name].spec))))
    new = {f"{file.architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    metadata = {key: value for key, value in {**file.metadata, **new}.items() if value is not None}
    return replace(file, metadata=metadata)


def experts(name: str, **keys: Any) -> Experts:
    file = header(name, **keys)
    found: Experts = architecture(file).hyperparameters(file).experts
    return found


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("llama, experts", {}, Experts(5, 2, 90, norm=True)),  # as wide as a dense layer, whatever else is told
        ("llama, experts", {"expert_count": 1, "expert_used_count": 1}, Experts(1, 1, 90, norm=True)),
        ("olmoe", {}, Experts(5, 2, 90)),
        ("qwen2moe", {}, Experts(5, 2, 54, 38)),
        ("qwen2moe", {"expert_shared_feed_forward_length": 0}, Experts(5, 2, 54, 90)),
        ("qwen3moe", {}, Experts(5, 3, 54, norm=True)),
        ("qwen3moe", {"expert_feed_forward_length": None}, Experts(5, 3, 30, norm=True)),
        ("qwen3moe", {"expert_weights_scale": 2.0}, Experts(5, 3, 54, norm=True)),  # a key that it does not know
        ("gpt-oss", {}, Experts(5, 3, 54, gating="softmax_weight")),
        ("granite, experts", {}, Experts(5, 2, 90, 38, norm=True)),
        ("glm4moe", {}, Experts(5, 2, 54, 54, "sigmoid", scale=1.5)),
        ("glm4moe", {"expert_gating_func": 0}, Experts(5, 2, 54, 54, "sigmoid", scale=1.5)),
        (
            "glm4moe",
            {"expert_gating_func": 3, "expert_shared_count": 0},
            Experts(5, 2, 54, 0, "softmax_weight", scale=1.5),
        ),
        ("glm4moe, groups", {}, Experts(12, 4, 64, 128, "sigmoid", True, 1.0, (4, 2))),
        ("glm4moe, groups", {"expert_group_count": 1}, Experts(12, 4, 64, 128, "sigmoid", True)),
    ],
)
def test_what_metadata_tell_of_experts(name: str, keys: dict[str, Any], expected: Experts) -> None:
    assert experts(name, **keys) == expected


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"expert_used_count": 6}, "glm4moe.expert_used_count is 6, more than the 5 experts that there are"),
        ({"expert_used_count": 0}, "glm4moe.expert_used_count is 0, not a whole number from 1 to 1024"),
        ({"expert_count": 0}, "glm4moe.expert_count is 0, not a whole number from 1 to 1024"),
        ({"expert_count": 1025}, "glm4moe.expert_count is 1025, not a whole number from 1 to 1024"),
        ({"expert_count": 2.5}, "glm4moe.expert_count is 2.5, not a whole number"),
        ({"expert_gating_func": 4}, "glm4moe.expert_gating_func is 4, which is not supported yet; those from 1 to 3"),
        (
            {"expert_group_count": 2, "expert_group_used_count": 1},
            "2 of 5 experts out of 1 of 2 groups, which cannot be",
        ),
        (
            {"expert_group_count": 5, "expert_group_used_count": 1},
            "2 of 5 experts out of 1 of 5 groups, which cannot be",
        ),
        (
            {"expert_group_count": 5, "expert_group_used_count": 6},
            "2 of 5 experts out of 6 of 5 groups, which cannot be",
        ),
        ({"expert_group_count": 5}, "2 of 5 experts out of 0 of 5 groups, which cannot be"),
    ],
)
def test_absurd_numbers_of_experts_are_refused_from_the_header(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LlamaWebError, match=sentence):
        experts("glm4moe", **keys)


def test_a_gate_of_experts_may_be_missing_where_the_family_allows_it_alone() -> None:
    assert plan_model(header("llama, experts, Q8_0"))
    file = header("olmoe")
    gateless = {name: info for name, info in file.tensors.items() if "gate_exps" not in name}
    with pytest.raises(LlamaWebError, match=r"no tensor blk\.0\.ffn_gate_exps\.weight"):
        plan_model(replace(file, tensors=gateless))


def test_the_weighted_sum_goes_into_the_last_product_of_experts_and_that_into_the_residual() -> None:
    file = header("olmoe")
    whole, apart = (plan_model(file, unfused=out) for out in ((), ("experts",)))
    assert apart.dispatches_per_token - whole.dispatches_per_token == 2 * 3  # and the addition, of three layers


def test_layers_that_guess_further_tokens_are_left_alone() -> None:
    file = header("glm4moe")
    plan, last = plan_model(file), {"blk.3.nextn.eh_proj.weight": file.tensors["blk.2.attn_q.weight"]}
    with_last = plan_model(replace(file, tensors=file.tensors | last))
    assert with_last.regions == plan.regions and with_last.dispatches_per_token == plan.dispatches_per_token
    stray = {"blk.2.nextn.eh_proj.weight": file.tensors["blk.2.attn_q.weight"]}
    with pytest.raises(
        LlamaWebError, match=r"the tensor 'blk\.2\.nextn\.eh_proj\.weight', which glm4moe models do not"
    ):
        plan_model(replace(file, tensors=file.tensors | stray))
    with pytest.raises(LlamaWebError, match="block_count says 4 layers, but the file has tensors of 3"):
        plan_model(header("glm4moe", nextn_predict_layers=2))


@pytest.mark.parametrize(("phase", "tokens", "of_five"), [("decode", 1, 2), ("prefill", 1, 2), ("prefill", 7, 5)])
def test_a_product_costs_the_weights_of_no_more_experts_than_tokens_have(phase: str, tokens: int, of_five: int) -> None:
    plan = plan_model(header("granitemoe, Q4_K"), DESKTOP)
    found = {
        d.label.removeprefix("blk.0."): c
        for d, c in zip(plan.phases[phase].dispatches, costs(plan, phase, tokens, 0), strict=True)
    }
    cost = found["ffn_gate_exps+blk.0.ffn_up_exps"]
    one = 512 * 256 // 256 * 144  # bytes of a matrix
    assert cost.flops == 2 * 2 * 2 * 256 * 512 * tokens
    assert (cost.read // one, cost.write) == (2 * of_five, tokens * 2 * 4 * 512)  # beside few bytes of activations


def test_matrices_that_no_binding_holds_are_split_between_and_within_experts() -> None:
    small = replace(DeviceProfile(), max_storage_buffer_binding_size=200_000)
    plan = plan_model(header("granitemoe, Q4_K"), small)
    of_layer = [d for d in plan.phases["decode"].dispatches if d.label == "blk.0.ffn_down_exps"]
    pieces = [dict(d.kernel.constants)["piece"] for d in of_layer]
    assert len(pieces) > 1 and pieces[0][0] == 0 and sum(rows for _, rows in pieces) == 5 * 256
    assert any(first % 256 for first, _ in pieces)
    assert {dict(d.kernel.constants)["epilogue"] for d in of_layer} == {"add"}
