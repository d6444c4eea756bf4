"""Latent attention: what metadata mean, what is refused of them, what a layer becomes, and what is cached."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from llamaweb.architectures.latent import Latent, latent
from llamaweb.architectures.metadata import Metadata
from llamaweb.errors import LlamaWebError, UnsupportedError
from llamaweb.families import deepseek2
from llamaweb.ggml import GGMLType
from llamaweb.graph import Graph
from llamaweb.host import synthetic
from llamaweb.kernels.checks import chains
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.operations.step import Step, View
from llamaweb.planner import FUSIONS, plan_model
from llamaweb.planner.cost import costs
from llamaweb.planner.fusion import fuse
from llamaweb.planner.plan import ModelPlan
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope
from tests.families import MODELS
from tests.tiny import tiny_model
from tests.tiny_family import TinyFamily
from tests.unit.test_checks_memory import kernels_of, most

ROWS, WHOLE = "deepseek2", "deepseek2, whole"


@cache
def made(name: str, **metadata: Any) -> GGUFFile:
    """Of a tiny model, with other metadata, and so with other tensors."""
    spec = MODELS[name].spec
    assert isinstance(spec, TinyFamily)
    data = tiny_model(replace(spec, metadata={**spec.metadata, **metadata}))
    return asyncio.run(read_header(BytesSource(data)))


def header(name: str = ROWS, **keys: Any) -> GGUFFile:
    """Of a tiny model, with some keys, in which __ stands for a dot; None: without it."""
    file = made(name)
    new = {f"deepseek2.{key.replace('__', '.')}": value for key, value in keys.items()}
    return replace(file, metadata={key: v for key, v in {**file.metadata, **new}.items() if v is not None})


def told(name: str = ROWS, **keys: Any) -> Latent:
    return latent(Metadata(header(name, **keys)))


def test_the_rows_or_what_is_made_of_them_is_attended_to() -> None:
    rows, whole = told(rope__scaling__type="none"), told(WHOLE, rope__scaling__type="none")
    assert rows == Latent(34, 22, 16, 10, 20, True, Rope("norm", 10, offset=34), 26**-0.5)
    assert whole == Latent(34, 22, 16, 10, 20, False, Rope("norm", 10, offset=16), 26**-0.5)
    assert (rows.head_dim, whole.head_dim) == (44, 26)
    assert told("deepseek2, lite, Q8_0").q_rank == 0


YARN = {"rope__scaling__type": "yarn", "rope__scaling__factor": 8.0}
GROWN = 1 + 0.1 * math.log(8)  # by what YaRN lets attention grow


@pytest.mark.parametrize(
    ("keys", "magnitude", "growth"),
    [
        ({"rope__scaling__type": "none"}, 1, 1),
        (YARN | {"rope__scaling__yarn_log_multiplier": None}, GROWN, GROWN),
        (YARN | {"rope__scaling__yarn_log_multiplier": 0.1}, 1, GROWN),
        (YARN | {"rope__scaling__yarn_log_multiplier": 0.05}, 1, (1 + GROWN) / 2),
        (YARN | {"rope__scaling__yarn_log_multiplier": 0.1, "rope__scaling__attn_factor": 0.5}, 0.5, 0.5 * GROWN),
        (YARN | {"rope__scaling__type": "linear", "rope__scaling__yarn_log_multiplier": None}, 1, GROWN),
    ],
)
def test_scores_grow_with_yarns_factor_and_the_rotation_where_no_multiplier_is_told(
    keys: dict[str, Any], magnitude: float, growth: float
) -> None:
    found = told(**keys)
    assert found.rope.magnitude == pytest.approx(magnitude)
    assert found.scale == pytest.approx(growth**2 * 26**-0.5)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"attention__key_length_mla": None}, "key_length_mla and value_length_mla the file tells one alone"),
        ({"attention__value_length_mla": 0}, "key_length_mla and value_length_mla the file tells one alone"),
        ({"rope__dimension_count": 26}, "All 26 numbers of deepseek2's keys are rotated"),
        ({"rope__dimension_count": 28}, "The rope dimension 28 is odd or larger than the head dimension 26"),
        ({"attention__kv_lora_rank": None}, "lacks deepseek2.attention.kv_lora_rank"),
        ({"expert_shared_count": 0}, "deepseek2.expert_shared_count is 0"),
        ({"attention__temperature_scale": 0.1}, "lacks deepseek2.attention.temperature_length"),
        ({"attention__kv_lora_rank": 36}, r"attn_kv_a_mqa.weight has shape \[72, 44\], but .* asks for \[72, 46\]"),
    ],
)
def test_what_cannot_be_meant_or_run_is_refused_in_a_sentence(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LlamaWebError, match=sentence):
        plan_model(header(**keys))


def test_rows_that_no_kernel_takes_are_refused() -> None:
    assert plan_model(made(ROWS, **{"attention.kv_lora_rank": 566}), DeviceProfile(), n_ctx=64)
    with pytest.raises(UnsupportedError, match="Attention heads of 578 values are not supported; even sizes up to 576"):
        plan_model(made(ROWS, **{"attention.kv_lora_rank": 568}))


@pytest.mark.parametrize(
    ("tokens", "scaling", "gating"),
    [(154880, None, "sigmoid"), (154880, 1, "softmax"), (300, None, "softmax"), (300, 2, "sigmoid")],
)
def test_files_of_glm_do_not_tell_how_experts_are_chosen(tokens: int, scaling: int | None, gating: str) -> None:
    file = header(WHOLE, expert_gating_func=scaling, block_count=47)
    table = replace(file.tensors["token_embd.weight"], shape=(72, tokens))
    last = replace(file.tensors["blk.2.attn_norm.weight"], name="blk.46.attn_norm.weight")
    metadata = {key: value for key, value in file.metadata.items() if key != "tokenizer.ggml.tokens"}
    file = replace(file, metadata=metadata, tensors=file.tensors | {t.name: t for t in (table, last)})
    assert deepseek2.hyperparameters(file).experts.gating == gating


def steps(name: str) -> dict[str, Step]:
    """Of the first layer's attention and one token, by what they are called behind that."""
    file = header(name)
    graph = Graph(file.tensors, 1)
    deepseek2.build(graph, deepseek2.hyperparameters(file))
    return {s.name.removeprefix("blk.0.attn_"): s for s in fuse(graph).steps if s.name.startswith("blk.0.attn_")}


def ops(name: str) -> list[tuple[str, str]]:
    return [(step.op, at) for at, step in steps(name).items()]


def test_heads_are_put_together_where_attention_reads_them() -> None:
    assert ops(ROWS) == [
        ("mul_mat_vec", "q_a"),
        ("mul_mat_vec", "q_b"),
        ("mul_mat_vec", "kv_a_mqa"),
        ("norm", "kv_a_norm"),
        ("mul_mat_heads", "k_b"),
        ("elementwise", "q_heads.1"),
        ("elementwise", "k_heads.1"),
        ("mul_mat_heads", "v_b"),
        ("mul_mat_vec", "output"),
    ]
    assert ops("deepseek2, lite, Q8_0") == [
        ("mul_mat_vec", "q"),
        ("mul_mat_vec", "kv_a_mqa"),
        ("norm", "kv_a_norm"),
        ("mul_mat_vec", "kv_b"),
        ("elementwise", "k_heads.0"),
        ("elementwise", "k_heads.1"),
        ("mul_mat_vec", "output"),
    ]


def test_a_view_of_groups_keeps_its_groups_wherever_it_is_moved() -> None:
    found = steps(ROWS)
    x, y = (found["k_b"].values[slot] for slot in "xy")
    assert (x.row, x.first, x.each, x.apart) == (4 * 16, 0, 16, 26)
    assert (y.row, y.first, y.each, y.apart) == (4 * 34, 0, 34, 44)
    assert y.value.name == "blk.0.attn.qkv" and y.value.row == 5 * 44
    assert found["k_heads.1"].values["y"] == View(y.value, 10, 4 * 44 + 34)


def attention(plan: ModelPlan, phase: str) -> list[set[str]]:
    """Slots of the kernels that read or write a layer's cache."""
    of_layer = [d for d in plan.phases[phase].dispatches if d.label in ("blk.0.attn", "blk.0.rope")]
    return [{slot.name for slot in d.kernel.slots if "cache" in slot.name} for d in of_layer]


def test_rows_are_cached_once_and_keys_and_values_of_their_own_lengths() -> None:
    rows, whole = (plan_model(header(name), n_ctx=256) for name in (ROWS, WHOLE))
    assert attention(rows, "decode") == [{"k_cache"}] and attention(rows, "prefill") == 2 * [{"k_cache"}]
    assert attention(whole, "decode") == [{"k_cache", "v_cache"}]
    assert rows.memory["kv"] == 3 * 256 * 48 * 2  # in whole eights
    assert whole.memory["kv"] == 3 * 256 * 4 * (32 + 24) * 2
    assert plan_model(header(ROWS), n_ctx=256, type_v="q4_0").regions == rows.regions  # which have no values


def test_a_product_of_heads_costs_the_matrices_of_all() -> None:
    plan = plan_model(header(ROWS), n_ctx=256)
    for phase, tokens in (("decode", 1), ("prefill", 9)):
        found = zip(plan.phases[phase].dispatches, costs(plan, phase, tokens, 0), strict=True)
        (cost,) = (cost for d, cost in found if d.label == "blk.0.attn_k_b")
        assert cost.flops == 2 * 16 * 34 * 4 * tokens
        assert cost.read >= 4 * 32 * 34 * 4  # rows of whole blocks, in F32


def test_deepseek_v2_lite_caches_576_numbers_a_token_and_layer_on_any_device() -> None:
    shape = replace(synthetic.SHAPES["deepseek-v2-lite"], n_layer=2, n_vocab=300)
    source = synthetic.HeaderSource("", shape, GGMLType.Q4_0, made(ROWS).metadata)
    plan = plan_model(asyncio.run(read_header(source)), DeviceProfile(), n_ctx=8192, checked=True)
    assert plan.memory["kv"] == 2 * 8192 * 576 * 2
    layers = Counter(d.label.split(".")[1] for d in plan.phases["decode"].dispatches if d.label.startswith("blk."))
    assert layers == {"0": 10, "1": 16}
    assert_self_check_fits(plan)


@pytest.mark.parametrize("name", [ROWS, WHOLE])
@pytest.mark.parametrize("unfused", [(), tuple(FUSIONS)], ids=["fused", "unfused"])
def test_what_a_self_check_takes_is_planned(name: str, unfused: tuple[str, ...]) -> None:
    assert_self_check_fits(plan_model(header(name), DeviceProfile(), n_ctx=256, checked=True, unfused=unfused))


def assert_self_check_fits(plan: ModelPlan) -> None:
    read, written, found = most(chains(kernels_of(plan)))
    assert written <= plan.regions["arena"]
    assert found + (read if read > plan.regions["kv.0"] else 0) <= plan.transient
