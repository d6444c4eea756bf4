"""Where a plan puts weights, caches and what is read and written: each once, in regions that hold it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from llamaweb.architectures import architecture
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED, readback_bytes
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import DESKTOP, ModelPlan, plan_model
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Ring
from tests.headers import (
    SMOLLM2,
    TINY,
    gemma3_header,
    llama_header,
)
from tests.unit.test_planner import ANY, BY_CASE, CASES, each_dispatch, planned


@BY_CASE
def test_every_tensor_is_placed_once_and_weights_never_overlap(name: str) -> None:
    file, _, _ = CASES[name]
    plan = planned(name)
    placed = [tensor for weight in plan.weights for tensor in weight.names]
    assert sorted(placed) == sorted(file.tensors)
    planes = sorted(
        (p.region, p.offset, p.size)
        for p in [p for w in plan.weights for p in w.planes]
        + [table.binding for table in plan.rope_tables]
        + list(plan.codebooks.values())
    )
    for (region, at, size), (next_region, next_at, _) in pairwise(planes):
        assert region != next_region or at + size <= next_at
    for weight in plan.weights:
        weights = sum(_count(file, tensor) for tensor in weight.names)
        assert weights == weight.row * weight.rows
        for plane, binding in zip(weight.format.planes, weight.planes, strict=True):
            assert binding.size >= weight.pitch * weight.rows // weight.format.block_size * plane.bytes
    stored = sum(tensor.nbytes for tensor in file.tensors.values())
    tables = sum(binding.size for binding in plan.codebooks.values())
    padding = tables + 2 * 256 * len(planes) + 256 * len(plan.weights)
    rows = ((w.pitch - w.row) * w.rows * w.format.block_bytes // w.format.block_size for w in plan.weights)
    padding += sum(rows)  # rows of numbers end in zeros up to a whole block of 32
    assert stored <= plan.memory["weights"] <= stored + padding


def _count(file: GGUFFile, tensor: str) -> int:
    shape = file.tensors[tensor].shape
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


@BY_CASE
def test_memory_is_the_sum_of_the_regions_and_the_cache_takes_its_formats_bits(name: str) -> None:
    file, _, options = CASES[name]
    plan, hp = planned(name), architecture(file).hyperparameters(file)
    assert plan.memory["total"] == sum(plan.regions.values()) == sum(plan.memory[k] for k in _USES)
    ahead = max(plan.n_ubatch, IN_FLIGHT * SUBMITTED)
    bits = {"f32": 32, "f16": 16, "q8_0": 8.5, "q4_0": 4.5}  # with an f16 scale for 32
    taken = 0
    for window in getattr(hp, "windows", [0] * hp.n_layer):
        rows = align(min(plan.n_ctx, window + ahead if window else plan.n_ctx), 4)
        sizes = [
            rows * hp.n_head_kv * align(hp.head_dim, 8) * bits[options.get(key, "f16")] / 8
            for key in ("type_k", "type_v")
        ]
        taken += sum(align(int(size), 256) for size in sizes)
    assert plan.memory["kv"] == taken
    caches = {
        (b.offset, b.size) for _, d in each_dispatch(plan) for b in d.bindings if b.region.startswith("kv.")
    }  # K and V of every layer, each in its own place in all phases
    assert len(caches) == 2 * hp.n_layer


def test_layers_with_a_window_keep_it_and_a_batch() -> None:
    file = gemma3_header(window=512)
    plan = plan_model(file, n_ctx=8192, n_ubatch=256)
    whole = plan_model(gemma3_header(window=8192), n_ctx=8192, n_ubatch=256)
    assert plan.rings == (Ring(512, 768),) and whole.rings == ()
    assert plan.memory["kv"] == whole.memory["kv"] * (3 * 8192 + 15 * 768) / (18 * 8192)
    assert plan.dispatches_per_token == whole.dispatches_per_token
    for phase in plan.phases.values():
        for d in phase.dispatches:
            c = dict(d.kernel.constants)
            if "ring" in c:
                assert (c["window"], c["ring"], c["n_ctx"]) in ((512, 768, 768), (0, 0, 8192))
    assert plan_model(file, n_ctx=700).rings == ()  # a window and a batch are more than that


def test_each_layer_has_one_cache_whatever_is_left_unfused() -> None:
    file = gemma3_header(window=512)
    options = {"n_ctx": 8192, "n_ubatch": 256}
    plan, plain = plan_model(file, **options, unfused=["attention"]), plan_model(file, **options)
    assert plan.memory["kv"] == plain.memory["kv"]
    rows = [
        [dict(d.kernel.constants)["n_ctx"] for d in p.phases["prefill"].dispatches if d.kernel.template == "rope_kv"]
        for p in (plan, plain)
    ]
    assert rows[0] == rows[1]


def test_a_ring_holds_what_the_next_token_sees_or_says_that_it_does_not() -> None:
    ring = Ring(window=4, rows=10)
    for newest in range(40):
        held = set(range(max(newest - ring.rows, 0), newest))
        for position in range(1, newest + 1):
            seen = set(range(max(position + 1 - ring.window, 0), position))
            assert ring.holds(position, newest) == (seen <= held or not seen), (position, newest)


_USES = ("weights", "kv", "arena", "io")


def test_weights_go_on_in_a_further_buffer_where_one_is_full() -> None:
    file = llama_header(**SMOLLM2, type="Q4_1")
    profile = replace(ANY, max_buffer_size=32 << 20, max_storage_buffer_binding_size=32 << 20)
    plan = plan_model(file, profile, n_ctx=256, n_ubatch=16)
    buffers = [region for region in plan.regions if region.startswith("weights.")]
    assert buffers == [f"weights.{i}" for i in range(len(buffers))] and len(buffers) >= 3
    assert all(plan.regions[region] <= 32 << 20 for region in buffers)


@pytest.mark.parametrize("n_head_kv", [4, 6, 7])
@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_a_cache_that_a_binding_does_not_hold_lies_in_pieces_of_its_heads(n_head_kv: int, type: str) -> None:
    shape = {**TINY, "n_head": 2 * n_head_kv, "n_head_kv": n_head_kv, "head_dim": 32, "n_ctx": 1 << 16}
    whole = plan_model(llama_header(**shape), DESKTOP, n_ctx=40_000, type_k=type, type_v=type)
    most = whole.memory["kv"] // whole_layers(whole) // 2 // 2  # half of a layer's keys
    profile = replace(DESKTOP, max_storage_buffer_binding_size=most // 4 * 4)
    plan = plan_model(llama_header(**shape), profile, n_ctx=40_000, type_k=type, type_v=type)
    for name, phase in plan.phases.items():
        found: dict[str, list[tuple[int, int]]] = {}
        for d in phase.dispatches:
            c = dict(d.kernel.constants)
            if "first_kv" in c and d.kernel.template != "flash_attn_reduce":
                found.setdefault(f"{d.kernel.template} {d.label}", []).append((c["first_kv"], c["kv_heads"]))
            assert all(b.size <= most for b in d.bindings if b.region.startswith("kv."))
        each = 2 if n_head_kv == 4 else 3
        expected = [(first, min(each, n_head_kv - first)) for first in range(0, n_head_kv, each)]
        assert found and all(pieces == expected for pieces in found.values()), (name, found)
    assert plan.memory["kv"] < 1.001 * whole.memory["kv"] + 4096


def whole_layers(plan: ModelPlan) -> int:
    return sum(d.kernel.template == "flash_attn_vec" for d in plan.phases["decode"].dispatches)


def test_the_io_region_holds_a_whole_batch_with_its_targets_and_results() -> None:
    for name in CASES:
        plan = planned(name)
        largest = max(phase.n_tokens for phase in plan.phases.values())
        held = plan.regions["io"] - readback_bytes(plan.n_ubatch)
        assert 4 * (IO.results(plan.n_ubatch) + 2 * min(largest, plan.n_ctx)) <= held
        assert min(largest, plan.n_ctx) <= plan.n_ubatch


@pytest.mark.parametrize("options", [{}, {"bias": True}])
def test_every_number_of_a_weight_has_a_tensor_and_a_row(options: dict[str, Any]) -> None:
    file = llama_header(**TINY, **options)
    for weight in plan_model(file).weights:
        if weight.rows == 1:  # a vector, of several tensors perhaps
            found = [weight.origin(i) for i in range(weight.row)]
            names = [part.name for part in weight.slices for _ in range(part.count)]
            assert found == [(name, 0) for name in names]
            continue
        rows = [
            (part.name, (part.first + n) // weight.row)
            for part in weight.slices
            for n in range(0, part.count, weight.row)
        ]
        assert [weight.origin(i * weight.pitch + weight.pitch - 1) for i in range(weight.rows)] == rows


@pytest.mark.parametrize("type", ["Q4_0", "MXFP4", "Q8_0", "F16"])
def test_planes_have_room_for_whole_units_of_what_repacks_them(type: str) -> None:
    shape = {**TINY, "n_embd": 32, "n_head": 1, "n_head_kv": 1, "n_ff": 32, "n_vocab": 301}  # an odd number of blocks
    for weight in plan_model(llama_header(**shape, type=type)).weights:
        blocks = -(-weight.row // weight.format.block_size) * weight.rows
        units = -(-blocks // weight.format.unit)
        for plane, binding in zip(weight.format.planes, weight.planes, strict=True):
            assert binding.size >= units * weight.format.unit * plane.bytes, weight
