"""The plan keeps WebGPU's rules, the arena's bound and the dispatch budget, for any shape, format and device."""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from functools import cache
from typing import Any
from weakref import ref

import pytest

from llamaweb.architectures import architecture
from llamaweb.graph import Graph
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.io import readback_bytes
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.kernel import kernel as make_kernel
from llamaweb.kernels.library import attention_splits
from llamaweb.kernels.mul_mat import PLAIN, PRECISIONS
from llamaweb.kernels.template import wgsl
from llamaweb.kernels.tuner import Choices, Shape
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.operations import OPERATIONS
from llamaweb.operations.step import Step, Value, View
from llamaweb.planner import DESKTOP, DeviceProfile, Dispatch, ModelPlan, Planner, plan_model
from llamaweb.planner.fusion import fuse
from llamaweb.planner.report import describe
from llamaweb.planner.variants import candidates
from tests.families import MODELS
from tests.headers import (
    HEADS_OF_100,
    LLAMA_1B,
    LLAMA_7B,
    SMOLLM2,
    STORIES_260K,
    TINY,
    WIDE,
    gemma3_header,
    llama_header,
)
from tests.reference import now
from tests.shaders import type_bytes, workgroup_bytes
from tests.tiny import tiny_model

ANY = DeviceProfile()
LARGE = {"max_buffer_size": 1 << 33, "max_storage_buffer_binding_size": 1 << 32}
SOFTWARE = replace(ANY, name="a software adapter", software=True, subgroup_size=4, max_buffer_size=1 << 30)
MIXED = {"*attn_v*": "Q8_0", "*ffn_up*": "Q5_1", "token_embd*": "Q8_0"}

# name: (header, device, options of plan_model)
CASES: dict[str, tuple[GGUFFile, DeviceProfile, dict[str, Any]]] = {
    "smollm2": (llama_header(**SMOLLM2, type="Q4_1"), DESKTOP, {}),
    "smollm2 on any device": (llama_header(**SMOLLM2, type="Q4_1"), ANY, {"logits_all": True}),
    "smollm2, odd batch": (llama_header(**SMOLLM2, type="Q8_0"), SOFTWARE, {"n_ctx": 777, "n_ubatch": 99}),
    "llama 1B": (llama_header(**LLAMA_1B, type="Q4_0", tied=False), DESKTOP, {"n_ctx": 4096, "logits_all": True}),
    "llama 7B": (llama_header(**LLAMA_7B, type="Q5_1", tied=False), DESKTOP, {"n_ubatch": 128}),
    "tiny": (llama_header(**TINY, type="F32"), ANY, {"n_ctx": 33, "n_ubatch": 7, "logits_all": True}),
    "tiny, untied, biased": (llama_header(**TINY, type="Q5_1", tied=False, bias=True), SOFTWARE, {"n_ubatch": 65}),
    "tiny, mixed": (llama_header(**TINY, types=MIXED), ANY, {"n_ctx": 100}),
    "tiny, mixed, biased": (llama_header(**TINY, types=MIXED, bias=True), SOFTWARE, {}),
    "context of 1": (llama_header(**TINY), ANY, {"n_ctx": 1, "logits_all": True}),
    "batch of 1": (llama_header(**TINY, type="F16"), ANY, {"n_ctx": 64, "n_ubatch": 1}),
    "heads of 8": (llama_header(**TINY, head_dim=8, type="BF16"), ANY, {}),
    "heads of 256": (llama_header(**TINY, head_dim=256), SOFTWARE, {"n_ubatch": 40, "logits_all": True}),
    "stories260K": (llama_header(**STORIES_260K, type="F32"), ANY, {"logits_all": True}),
    "heads of 100": (llama_header(**HEADS_OF_100, type="F16"), DESKTOP, {}),
    "heads of 6": (llama_header(**TINY, head_dim=6, type="BF16"), SOFTWARE, {"type_k": "f32"}),
    "heads of 510": (llama_header(**TINY, head_dim=510, type="F16"), SOFTWARE, {"n_ubatch": 40}),
    "gemma3 270M": (gemma3_header(types={"*attn_v*": "Q8_0"}), DESKTOP, {"type_k": "q8_0", "type_v": "q4_0"}),
    "gemma3 on any device": (gemma3_header(n_layer=2), ANY, {"n_ctx": 700, "logits_all": True}),
    "gemma3, f32 cache": (gemma3_header(n_layer=6, n_head_kv=2), SOFTWARE, {"type_k": "f32", "type_v": "f32"}),
    **{
        f"smollm2, subgroups of {size}": (
            llama_header(**SMOLLM2, type="Q4_1"),
            replace(DESKTOP, subgroup_size=size),
            {},
        )
        for size in (8, 16, 64)
    },
    **{
        f"tiny in {f.name}": (llama_header(**(WIDE if f.block_size > 32 else TINY), type=f.type.name), SOFTWARE, {})
        for f in FORMATS.values()
    },
}
BY_CASE = pytest.mark.parametrize("name", CASES)


@cache
def planned(name: str) -> ModelPlan:
    file, profile, options = CASES[name]
    return plan_model(file, profile, **options)


def each_dispatch(plan: ModelPlan) -> list[tuple[str, Dispatch]]:
    return [(f"{phase}: {d.label}", d) for phase, p in plan.phases.items() for d in p.dispatches]


def test_smollm2_takes_153_dispatches_a_token() -> None:
    plan = planned("smollm2")
    assert plan.dispatches_per_token == 5 * 30 + 3
    assert len(plan.phases["prefill"].dispatches) <= 12 * 30 + 3  # each product's input is quantized
    plain = plan_model(CASES["smollm2"][0], replace(DESKTOP, packed_dot=False))
    assert len(plain.phases["prefill"].dispatches) <= 8 * 30 + 3


@BY_CASE
def test_at_most_five_dispatches_a_layer_and_a_handful(name: str) -> None:
    file, profile, _ = CASES[name]
    extra = 3 if any("mixed" in part for part in name.split(", ")) else 0  # a format of its own is a product of its own
    if file.architecture == "gemma3":  # where a product can bind less, additions of normed branches are dispatches
        extra = 1 if profile.max_storage_buffers_per_shader_stage >= 10 else 2
    assert planned(name).dispatches_per_token <= (5 + extra) * file.metadata[f"{file.architecture}.block_count"] + 4


@BY_CASE
def test_the_arena_is_near_its_lower_bound(name: str) -> None:
    plan = planned(name)
    assert plan.arena_lower_bound <= plan.regions["arena"] <= 1.05 * plan.arena_lower_bound


# Of real models a few layers: the arena is the same behind each.
SHAPES = {
    "smollm2": llama_header(**{**SMOLLM2, "n_layer": 3}),
    "llama 1B": llama_header(**{**LLAMA_1B, "n_layer": 3}),
    "llama 7B, mixed": llama_header(**{**LLAMA_7B, "n_layer": 3}, types={"*attn_v*": "Q8_0", "*ffn_up*": "Q5_1"}),
    "gemma3 270M": gemma3_header(n_layer=6),
    "tiny": llama_header(**TINY, type="F32"),
    "tiny, mixed": llama_header(**TINY, types=MIXED),
    "tiny, one head of keys": llama_header(**{**TINY, "n_embd": 96, "n_head": 3, "n_head_kv": 1, "n_ff": 160}),
    "heads of 8": llama_header(**TINY, head_dim=8),
    "heads of 256": llama_header(**TINY, head_dim=256),
    "stories260K": llama_header(**STORIES_260K, type="F32"),
    "heads of 100": llama_header(**HEADS_OF_100, type="F16"),
    "gemma3, tiny": gemma3_header(n_layer=3, n_embd=64, n_ff=96, n_vocab=300, head_dim=32),
    "gemma3, wide": gemma3_header(n_layer=3, n_embd=96, n_head=3, n_head_kv=3, n_ff=160, n_vocab=999, head_dim=64),
    "gemma3, mixed": gemma3_header(n_layer=2, n_embd=64, n_ff=96, n_vocab=300, head_dim=32, types=MIXED),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("n_ubatch", [1, 2, 3, 7, 16, 31, 64, 100, 333, 512])
def test_the_arena_is_near_its_lower_bound_for_any_batch(name: str, n_ubatch: int) -> None:
    for profile in (DESKTOP, ANY):
        for logits_all in (False, True):
            profile = replace(profile, **LARGE)
            plan = plan_model(SHAPES[name], profile, n_ubatch=n_ubatch, logits_all=logits_all)
            assert plan.n_ubatch == max(n_ubatch, 2 if logits_all else 1)
            assert plan.regions["arena"] <= 1.05 * plan.arena_lower_bound


@BY_CASE
def test_no_value_is_overwritten_before_its_last_use(name: str) -> None:
    """Plays every phase over a picture of the arena: each dispatch must find its inputs as they were written."""
    file, profile, _ = CASES[name]
    plan = planned(name)
    for phase, part in plan.phases.items():
        graph = Graph(file.tensors, part.n_tokens, "all" if phase == "evaluate" else "last")
        family = architecture(file)
        family.build(graph, family.hyperparameters(file))
        owner: list[Any] = [None] * (plan.regions["arena"] // 4)
        hp, bindings = family.hyperparameters(file), profile.max_storage_buffers_per_shader_stage
        splits = attention_splits(hp.n_head, profile) if phase == "decode_long" else 1
        steps = fuse(graph, splits, bindings).steps
        assert len(steps) == sum(d.kernel.template != "quantize" for d in part.dispatches)
        if len(owner) > 1 << 20:
            owner = []  # real sizes: look at the ranges' ends only
        ends: dict[int, Any] = {}
        codes: dict[Any, Any] = {}  # what a range of quantized values was made of
        following = iter(steps)
        for dispatch in part.dispatches:
            ranges = {slot.name: b for slot, b in zip(dispatch.kernel.slots, dispatch.bindings, strict=True)}
            if dispatch.kernel.template == "quantize":
                source = ends[ranges["x"].offset // 4]
                value = Value("codes", source.row, source.n_tokens, bits=16)
                step = Step("quantize", "codes", {"x": View.of(source), "y": View.of(value)})
                codes[value] = source
            else:
                step = next(following)
                if "x_q" in ranges:
                    made = ends[ranges["x_q"].offset // 4]
                    assert codes[made] is step.values["x"].value, (phase, step.name)
                    others = {slot: view for slot, view in step.values.items() if slot != "x"}
                    step = replace(step, values={"x_q": View.of(made), **others})
            for slot, view in step.values.items():
                value = view.value
                at, end = ranges[slot].offset // 4, (ranges[slot].offset + ranges[slot].size) // 4
                at = end - value.bytes // 4  # a part may be bound from where it begins
                assert ranges[slot].region == "arena" and 0 <= ranges[slot].offset // 4 - at <= view.first
                if slot in ("y", "sum") and step.params.get("epilogue") != "add":
                    if view.first:
                        continue  # it adds to what its sibling began
                    ends = {i: v for i, v in ends.items() if not at <= i < end} | {at: value, end - 1: value}
                    owner[at:end] = [value] * (end - at) if owner else []
                else:
                    assert ends.get(at) is value and ends.get(end - 1) is value, (phase, step.name, slot)
                    assert all(found is value for found in owner[at:end]), (phase, step.name, slot)


@BY_CASE
def test_bindings_lie_inside_their_regions_aligned_and_within_limits(name: str) -> None:
    _, profile, _ = CASES[name]
    plan = planned(name)
    sizes = dict(plan.regions)
    sizes["io"] -= readback_bytes(plan.n_ubatch)  # these bytes are buffers of their own
    for label, dispatch in each_dispatch(plan):
        assert len(dispatch.bindings) == len(dispatch.kernel.slots) <= profile.max_storage_buffers_per_shader_stage
        for slot, binding in zip(dispatch.kernel.slots, dispatch.bindings, strict=True):
            where = f"{label}: {slot.name}"
            assert binding.offset % profile.min_storage_buffer_offset_alignment == 0, where
            assert binding.size >= type_bytes(slot.type, {}) and binding.size % 4 == 0, where
            assert binding.offset >= 0 and binding.offset + binding.size <= sizes[binding.region], where
            assert binding.size <= profile.max_storage_buffer_binding_size, where
    assert all(size <= profile.max_buffer_size and size % 4 == 0 for size in plan.regions.values())


def test_eight_storage_buffers_are_enough_for_every_kernel() -> None:
    for file, _, options in CASES.values():
        plan = plan_model(file, replace(ANY, **LARGE), **options)
        assert max(len(d.bindings) for _, d in each_dispatch(plan)) <= ANY.max_storage_buffers_per_shader_stage


@BY_CASE
def test_a_dispatch_uses_a_buffer_either_read_only_or_writable_and_never_overlapping(name: str) -> None:
    for label, dispatch in each_dispatch(planned(name)):
        accesses: dict[str, set[str]] = {}
        bound = list(zip(dispatch.kernel.slots, dispatch.bindings, strict=True))
        for i, (slot, a) in enumerate(bound):
            accesses.setdefault(a.region, set()).add(slot.access)
            for other, b in bound[:i]:
                apart = a.region != b.region or a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
                assert apart or {slot.access, other.access} == {"read"}, (label, slot.name, other.name)
        assert all(len(found) == 1 for found in accesses.values()), (label, accesses)
        assert accesses.get("arena", {"read_write"}) == {"read_write"}, label


@BY_CASE
def test_workgroups_are_within_limits_for_every_number_of_tokens(name: str) -> None:
    _, profile, _ = CASES[name]
    plan = planned(name)
    for phase in plan.phases.values():
        for d in phase.dispatches:
            assert d.workgroups_for(phase.n_tokens) == d.workgroups
            for n_tokens in {1, 2, 63, 64, 65, phase.n_tokens} & set(range(phase.n_tokens + 1)):
                counts = d.workgroups_for(n_tokens)
                assert all(1 <= n <= profile.max_compute_workgroups_per_dimension for n in counts), d.label


def first_layers(file: GGUFFile) -> GGUFFile:
    """The model with six layers at most, whose kernels are those of all; of gemma3's, the sixth sees everything."""
    blocks = f"{file.architecture}.block_count"
    more = tuple(f"blk.{layer}." for layer in range(6, file.metadata[blocks]))
    kept = {name: tensor for name, tensor in file.tensors.items() if not name.startswith(more)}
    return replace(file, metadata={**file.metadata, blocks: min(6, file.metadata[blocks])}, tensors=kept)


def test_kernels_fit_the_workgroup_memory_and_size_of_every_device() -> None:
    profiles = [ANY, SOFTWARE, *(replace(DESKTOP, subgroup_size=size) for size in (8, 16, 32, 64))]
    kernels = {
        d.kernel
        for file, _, options in CASES.values()
        for profile in profiles
        for _, d in each_dispatch(plan_model(first_layers(file), replace(profile, **LARGE), **options))
    }
    assert len(kernels) > 100
    for kernel in kernels:
        shader = wgsl(kernel)
        assert workgroup_bytes(shader) <= ANY.max_compute_workgroup_storage_size, kernel
        (size,) = re.findall(r"@workgroup_size\(([\d, ]+)\)", shader)
        invocations = 1
        for n in size.split(","):
            invocations *= int(n)
        assert invocations <= ANY.max_compute_invocations_per_workgroup, kernel
        assert "enable f16" not in shader
        assert ("enable subgroups" in shader) == bool(re.search(r"\bsubgroup[A-Z]", shader))


@pytest.mark.parametrize(("precision", "bits"), PRECISIONS.items())
def test_a_batchs_products_read_integers_of_the_precisions_bits(precision: str, bits: int) -> None:
    plan = plan_model(llama_header(**SMOLLM2, type="Q4_1"), logits_all=True, precision=precision)
    for phase in ("prefill", "evaluate"):
        kernels = [d.kernel for d in plan.phases[phase].dispatches]
        rounding = [dict(k.constants)["bits"] for k in kernels if k.template in ("quantize", "mul_mat_packed")]
        assert len(rounding) > 30 * 4 and set(rounding) == {bits}


def test_a_text_is_evaluated_with_the_products_that_its_prompt_was_tuned_for() -> None:
    def products(phase: str) -> set[str]:
        return {d.kernel.template for d in plan.phases[phase].dispatches if d.kernel.template.startswith("mul_mat")}

    file = llama_header(**SMOLLM2, type="Q4_1")
    plan = plan_model(file, logits_all=True)
    shapes = {d.shape for d in plan.phases["prefill"].dispatches}
    plan = plan_model(file, logits_all=True, choices={s: PLAIN for s in shapes if s and s.op == "mul_mat"})
    assert products("prefill") == {"mul_mat", "mul_mat_vec"}  # the head is for one token there
    assert [d.kernel.template for d in plan.phases["evaluate"].dispatches].count("mul_mat_packed") == 1


CHOSEN = {
    "llama": (llama_header(**TINY), {"n_ctx": 600}),
    "llama, fast": (llama_header(**TINY, type="Q8_0"), {"n_ctx": 20, "n_ubatch": 16, "precision": "fast"}),
    "gemma3": (gemma3_header(n_layer=2, n_embd=64, n_ff=96, n_vocab=300, head_dim=32), {"n_ctx": 600}),
    "experts": (now(read_header(BytesSource(tiny_model(MODELS["qwen3moe, Q6_K"].spec)))), {"n_ctx": 200}),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_chosen_variant_computes_what_has_its_shape_and_nothing_else(name: str) -> None:
    file, options = CHOSEN[name]
    planner = Planner(file, DESKTOP, **options)

    def kernels(choices: Choices) -> list[tuple[Shape | None, Kernel]]:
        plan = planner.plan(choices)
        shaped = [(d.shape, d.kernel) for p in plan.phases.values() for d in p.dispatches]
        return [(shape, kernel) for shape, kernel in shaped if kernel.template != "quantize"]  # as products ask for it

    usual = kernels({})
    shapes = {shape for shape, _ in usual if shape}
    tuned = {op.name for op in OPERATIONS.values() if op.tuned}
    assert {shape.op for shape in shapes} == {op for op in tuned if name == "experts" or "id" not in op}
    for shape in shapes:
        default, *others = candidates(shape, DESKTOP, "full")
        assert kernels({shape: default}) == usual
        found = kernels({shape: others[-1]})
        changed = [before[0] for before, after in zip(usual, found, strict=True) if before[1] is not after[1]]
        assert changed == [each for each, _ in usual if each == shape], shape
        swapped = candidates(next(s for s in shapes if s.op[:5] != shape.op[:5]), DESKTOP, "full")[-1]
        assert kernels({shape: swapped}) == usual  # a variant of another kernel is none of this


def test_a_device_without_subgroups_gets_no_kernel_that_needs_them() -> None:
    for name in ("smollm2", "tiny, mixed, biased", "heads of 256"):
        file, _, options = CASES[name]
        plan = plan_model(file, replace(ANY, **LARGE), **options)
        assert not any("subgroup" in wgsl(d.kernel).split("\n@", 1)[1] for _, d in each_dispatch(plan))
        assert not any("enable subgroups" in wgsl(d.kernel) for _, d in each_dispatch(plan))


@BY_CASE
def test_equal_inputs_give_equal_plans(name: str) -> None:
    first, second = planned(name), planned.__wrapped__(name)
    assert first is not second and first == second
    assert describe(first, dispatches=True) == describe(second, dispatches=True)


def test_kernels_are_shared_by_plans_and_gone_with_them() -> None:
    options: dict[str, Any] = {"epilogue": "store", "of": "this test alone"}
    first, second = make_kernel("glu", [], **options), make_kernel("glu", [], **options)
    assert first is second
    gone = ref(first)
    del first, second
    gc.collect()
    assert gone() is None


def test_phases_are_what_was_asked_for() -> None:
    file = llama_header(**TINY)
    assert set(plan_model(file, n_ctx=64).phases) == {"decode", "prefill"}
    assert set(plan_model(file, n_ctx=64, n_ubatch=1).phases) == {"decode"}
    assert set(plan_model(file, n_ctx=64, logits_all=True).phases) == {"decode", "prefill", "evaluate"}
    plan = plan_model(file, n_ctx=100, n_ubatch=512)
    assert (plan.n_ubatch, plan.phases["prefill"].n_tokens, plan.phases["decode"].n_tokens) == (100, 100, 1)


def test_a_batch_is_never_more_tokens_than_workgroups_are_counted_to() -> None:
    plan = plan_model(llama_header(**TINY, n_ctx=1 << 20), replace(DESKTOP, **LARGE), n_ctx=100_000, n_ubatch=100_000)
    for phase in plan.phases.values():
        for d in phase.dispatches:
            assert max(d.workgroups) <= 65535


def test_the_report_has_every_dispatch_when_asked() -> None:
    plan = planned("smollm2")
    report = describe(plan)
    assert report["dispatches_per_token"] == 153 and report["memory"] == plan.memory and "plan" not in report
    dispatches = describe(plan, dispatches=True)["plan"]["decode"]
    assert dispatches == [
        {
            "label": d.label,
            "kernel": d.kernel.template,
            "constants": dict(d.kernel.constants),
            "bindings": {s.name: [b.region, b.offset, b.size] for s, b in zip(d.kernel.slots, d.bindings, strict=True)},
            "workgroups": list(d.workgroups),
        }
        for d in plan.phases["decode"].dispatches
    ]
    assert {name: report[name] for name in ("context", "ubatch", "budget")} == {
        "context": plan.n_ctx,
        "ubatch": plan.n_ubatch,
        "budget": None,
    }
    assert report["arena_lower_bound"] == plan.arena_lower_bound
