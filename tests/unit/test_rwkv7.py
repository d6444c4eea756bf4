"""RWKV 7: what its layers become on the way to a plan."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from llamaweb.architectures import architecture
from llamaweb.errors import ModelFileError
from llamaweb.families import rwkv7
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.operations.step import Step
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.planner.fusion import fuse
from llamaweb.profile import DeviceProfile
from tests.families import MODELS
from tests.tiny import tiny_model

SPEC: Any = MODELS["rwkv7"].spec
QUANTIZED: Any = MODELS["rwkv7, Q8_0"].spec


def header(spec: Any = SPEC, **changes: Any) -> GGUFFile:
    return asyncio.run(read_header(BytesSource(tiny_model(replace(spec, **changes)))))


def fused(n_tokens: int, file: GGUFFile | None = None, **options: Any) -> list[Step]:
    file = file or header()
    graph = Graph(file.tensors, n_tokens)
    architecture(file).build(graph, architecture(file).hyperparameters(file))
    return fuse(graph, **options).steps


def joined(file: GGUFFile, **options: Any) -> list[str]:
    """The second layer's products that are one dispatch with others, with a + between them."""
    names = [step.name for step in fused(1, file, **options) if step.op == "mul_mat_vecs"]
    return [name.replace("blk.1.time_mix_", "") for name in names if name.startswith("blk.1.")]


def bound(plan: ModelPlan, phase: str, label: str, slot: str) -> tuple[int, int]:
    """Where it begins, and bytes."""
    d = next(d for d in plan.phases[phase].dispatches if d.label == label)
    binding = next(b for s, b in zip(d.kernel.slots, d.bindings, strict=True) if s.name == slot)
    return binding.offset, binding.size


@pytest.mark.parametrize(("phase", "row"), [("decode", 512), ("prefill", 12 * 512)])
def test_products_read_their_part_of_a_token_shift(phase: str, row: int) -> None:
    plan = plan_model(header(), n_ubatch=12, unfused=["planes"])
    begin, size = bound(plan, phase, "blk.1.time_mix_shift", "y")
    assert size == 6 * row
    for i, part in enumerate(("receptance", "w1", "key", "value", "a1", "g1")):
        assert bound(plan, phase, f"blk.1.time_mix_{part}", "x") == (begin + i * row, row)


def test_rows_of_any_length_are_bound_where_bindings_may_begin() -> None:
    odd = {**SPEC.metadata, "embedding_length": 72, "wkv.head_size": 24}
    plan = plan_model(header(metadata=odd), n_ubatch=3)
    for phase in ("decode", "prefill"):
        for dispatch in plan.phases[phase].dispatches:
            assert all(binding.offset % 256 == 0 for binding in dispatch.bindings)


def test_norms_go_into_the_token_shifts_of_one_token() -> None:
    ops = [[step.op for step in fused(n_tokens) if step.name.startswith("blk.1.")] for n_tokens in (1, 5)]
    assert [each.count("norm") for each in ops] == [0, 2]
    shift = next(step for step in fused(1) if step.op == "token_shift")
    assert shift.params["center_eps"] == pytest.approx(1e-5)
    assert [shift.weights[slot][0].name for slot in ("norm_weight", "norm_bias")] == [
        "blk.0.attn_norm.weight",
        "blk.0.attn_norm.bias",
    ]


FIRST, SECOND, OTHERS = "v1+w1+a1+g1", "v2+w2+a2+g2", "receptance+key+value"


@pytest.mark.parametrize("spec", [SPEC, QUANTIZED], ids=["F32", "Q8_0"])
def test_products_of_inputs_of_their_own_are_joined(spec: Any) -> None:
    assert joined(header(spec)) == [FIRST, SECOND, OTHERS]
    assert joined(header(spec), unfused={"planes"}) == []


@pytest.mark.parametrize(
    ("max_bindings", "expected"), [(8, [FIRST, SECOND, OTHERS]), (5, ["v1+w1+a1", "v2+w2+a2", OTHERS]), (3, [])]
)
def test_no_more_are_joined_than_can_be_bound(max_bindings: int, expected: list[str]) -> None:
    assert joined(header(), max_bindings=max_bindings) == expected


@pytest.mark.parametrize("spec", [SPEC, QUANTIZED], ids=["F32", "Q8_0"])
def test_a_device_with_the_least_limits_binds_what_is_joined(spec: Any) -> None:
    phases = plan_model(header(spec), DeviceProfile()).phases.values()
    most = max(len(dispatch.kernel.slots) for phase in phases for dispatch in phase.dispatches)
    assert most <= DeviceProfile().max_storage_buffers_per_shader_stage


def test_quantized_weights_are_joined_in_one_format_alone() -> None:
    types = {"*mix_key*": "Q4_0", **QUANTIZED.types}
    assert joined(header(QUANTIZED, types=types)) == [FIRST, SECOND, "receptance+value"]


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_the_values_of_the_first_layer_are_those_of_all(n_tokens: int) -> None:
    steps = fused(n_tokens)
    found = {step.values["v"] for step in steps if step.op == "rwkv_wkv7"}
    (value,) = found
    assert any(step.name.startswith("blk.0.time_mix_value") and step.writes(value.value) for step in steps)
    assert not any(step.op == "elementwise" for step in steps if step.name.startswith("blk."))


@pytest.mark.parametrize("spec", [SPEC, QUANTIZED], ids=["F32", "Q8_0"])
@pytest.mark.parametrize("left_out", [(), ("planes",), ("copies", "planes")], ids=str)
def test_each_plane_of_what_the_recurrence_reads_is_written_once(spec: Any, left_out: tuple[str, ...]) -> None:
    steps = fused(1, header(spec), unfused=set(left_out))
    for layer, wkv in enumerate(step for step in steps if step.op == "rwkv_wkv7"):
        value = wkv.values["x"].value
        writers = [step for step in steps if step.writes(value)]
        places = [p.y for step in writers for p in step.params.get("products", ())]
        places += [step.values["y"].at for step in writers if step.op != "mul_mat_vecs"]
        assert sorted(places) == [i * value.plane_bytes // 4 for i in range(7 if layer else 5)]


def test_the_first_layer_may_lack_what_it_does_not_use() -> None:
    patterns = tuple(pattern for pattern in SPEC.optional if not pattern.startswith("blk.0."))
    more, fewer = header(), header(optional=patterns)
    assert len(more.tensors) == len(fewer.tensors) + 3
    assert plan_model(more) == plan_model(fewer)


@pytest.mark.parametrize(("size", "row"), [(24, 128), (6, 96), (300, 600)])
def test_heads_that_do_not_divide_are_refused(size: int, row: int) -> None:
    file = header()
    sizes = {"rwkv7.wkv.head_size": size, "rwkv7.embedding_length": row}
    tensors = {**file.tensors, "token_embd.weight": replace(file.tensors["token_embd.weight"], shape=(row, 304))}
    with pytest.raises(ModelFileError, match=r"wkv\.head_size is 300|does not divide into heads of"):
        rwkv7.hyperparameters(replace(file, metadata={**file.metadata, **sizes}, tensors=tensors))
