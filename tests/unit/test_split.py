"""What is larger than a binding or a buffer of the device is split by rows, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from llamaweb.errors import MemoryBudgetError
from llamaweb.kernels.cache import Cache, cache_format
from llamaweb.kernels.kernel import GLU
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import DESKTOP, DeviceProfile, Dispatch, ModelPlan, plan_model
from llamaweb.planner.kv import lay_out_caches
from tests.headers import LLAMA_1B, LLAMA_7B, SMOLLM2, TINY, WIDE, gemma3_header, llama_header

MIB = 1 << 20


def limited(size: int, **more: Any) -> DeviceProfile:
    return replace(DESKTOP, max_buffer_size=size, max_storage_buffer_binding_size=size, **more)


# name: (header, device, options of plan_model)
CASES: dict[str, tuple[GGUFFile, DeviceProfile, dict[str, Any]]] = {
    "1B in 16 MiB": (llama_header(**LLAMA_1B, types={"token_embd*": "Q6_K"}), limited(16 * MIB), {}),
    "7B in 16 MiB": (llama_header(**LLAMA_7B, tied=False), limited(16 * MIB), {"n_ctx": 1024, "logits_all": True}),
    "smollm2 in 4 MiB": (llama_header(**SMOLLM2, type="Q5_1"), limited(4 * MIB), {"n_ctx": 512}),
    "smollm2 in bindings of 2 MiB": (
        llama_header(**SMOLLM2),
        replace(DESKTOP, max_storage_buffer_binding_size=2 * MIB),
        {"n_ctx": 512},
    ),
    "gemma3 in 8 MiB": (gemma3_header(types={"*attn_v*": "Q8_0"}), limited(8 * MIB), {}),
    "gemma3 in 9 KiB, gates and ups biased": (
        gemma3_header(**TINY, head_dim=32, window=8, bias=True, type="Q8_0"),
        limited(9 << 10),
        {"n_ctx": 60, "n_ubatch": 4},
    ),
    "tiny in 12 KiB, biased": (
        llama_header(**TINY, bias=True, type="F32"),
        limited(12 << 10),
        {"n_ctx": 60, "n_ubatch": 4},
    ),
    "tiny in 8 KiB, mixed": (
        llama_header(**TINY, types={"*attn_v*": "Q8_0", "*ffn_up*": "Q5_1", "token_embd*": "Q8_0"}),
        limited(8 << 10, subgroup_size=0),
        {"n_ctx": 40, "n_ubatch": 4},
    ),
    **{
        f"{type} in 20 KiB": (llama_header(**WIDE, type=type), limited(20 << 10), {"n_ctx": 32, "n_ubatch": 3})
        for type in ("Q4_0", "Q6_K", "IQ3_S", "TQ1_0", "BF16")
    },
}
BY_CASE = pytest.mark.parametrize("name", CASES)


def planned(name: str) -> ModelPlan:
    file, profile, options = CASES[name]
    return plan_model(file, profile, **options)


def constants(dispatch: Dispatch) -> dict[str, Any]:
    return dict(dispatch.kernel.constants)


@BY_CASE
def test_no_buffer_and_no_binding_is_larger_than_the_device_allows(name: str) -> None:
    _, profile, _ = CASES[name]
    plan = planned(name)
    assert max(plan.regions.values()) <= profile.max_buffer_size
    for phase in plan.phases.values():
        for d in phase.dispatches:
            for binding in d.bindings:
                assert binding.offset % profile.min_storage_buffer_offset_alignment == 0
                assert 0 < binding.size <= profile.max_storage_buffer_binding_size
                assert binding.offset + binding.size <= plan.regions[binding.region]
    assert len([region for region in plan.regions if region.startswith("weights.")]) > 1 or "bindings" in name


@BY_CASE
def test_every_weight_of_the_file_is_in_one_piece_or_the_other(name: str) -> None:
    file, _, _ = CASES[name]
    plan = planned(name)
    pieces: dict[str, list[tuple[int, int]]] = {}
    for weight in plan.weights:
        assert sum(part.count for part in weight.slices) == weight.row * weight.rows
        for part in weight.slices:
            pieces.setdefault(part.name, []).append((part.first, part.count))
            unit = weight.format.unit * weight.format.block_size
            assert part.first % unit == 0
            assert part is weight.slices[-1] or part.count % unit == 0 or len(file.tensors[part.name].shape) == 1
    assert set(pieces) == set(file.tensors)
    for tensor, found in pieces.items():
        at = 0
        for first, count in sorted(found):
            assert first == at, tensor
            at += count
        shape = file.tensors[tensor].shape
        assert at == shape[0] * (shape[1] if len(shape) > 1 else 1)
    assert any(len(found) > 1 for found in pieces.values())


@BY_CASE
def test_pieces_of_a_product_give_each_result_once(name: str) -> None:
    file, profile, options = CASES[name]
    whole = plan_model(file, replace(DESKTOP, subgroup_size=profile.subgroup_size), **options)
    plan = planned(name)
    for phase, part in plan.phases.items():
        wanted, found = ([*results(p)] for p in (whole.phases[phase].dispatches, part.dispatches))
        labels = list(dict.fromkeys(label for label, _, _ in wanted))
        assert labels == list(dict.fromkeys(label for label, _, _ in found))
        for label in labels:
            rows = sorted((first, count) for name, first, count in found if name == label)
            assert all(a[0] + a[1] == b[0] for a, b in pairwise(rows)), label
            assert sum(count for _, count in rows) == sum(count for name, _, count in wanted if name == label)
        head = part.dispatches[part.head]
        assert head.label == whole.phases[phase].dispatches[whole.phases[phase].head].label
        assert head.label != part.dispatches[part.head - 1].label


def test_a_piece_of_gates_and_ups_has_their_biases() -> None:
    plan = planned("gemma3 in 9 KiB, gates and ups biased")
    weights = {weight.planes[0]: weight for weight in plan.weights}
    glus = [d for d in plan.phases["decode"].dispatches if constants(d).get("epilogue") in GLU]
    assert len(glus) > 2  # of two layers
    for d in glus:
        bound = {slot.name: binding for slot, binding in zip(d.kernel.slots, d.bindings, strict=True)}
        piece = next(weights[binding] for slot, binding in bound.items() if slot.startswith("w_"))
        of_rows = [(s.name.replace(".weight", ".bias"), s.first // 64, s.count // 64) for s in piece.slices]
        assert [(s.name, s.first, s.count) for s in weights[bound["bias"]].slices] == of_rows
        assert [name.split(".")[2] for name, _, _ in of_rows] == ["ffn_gate", "ffn_up"]


def results(dispatches: tuple[Dispatch, ...]) -> list[tuple[str, int, int]]:
    """Label, first and number of the results of the products and lookups."""
    found = []
    for d in dispatches:
        c = constants(d)
        if d.kernel.template == "get_rows":
            first, count = c["piece"] or (0, c["rows"])
            found.append((d.label, first, count))
        elif d.kernel.template.startswith("mul_mat"):
            label = d.label
            found.append((label, c["offset"], c["n"] // 2 if c["epilogue"] in GLU else c["n"]))
    return found


def test_what_fits_is_not_split() -> None:
    file = llama_header(**LLAMA_1B, types={"token_embd*": "Q6_K"})
    largest = max(b.size for w in plan_model(file).weights for b in w.planes)
    for profile in (replace(DESKTOP, max_buffer_size=largest), limited(largest)):
        plan = plan_model(file, profile)
        assert plan.dispatches_per_token == 5 * 16 + 3
        assert all(len({part.name for part in w.slices}) == len(w.slices) and not w.first for w in plan.weights)
    profile = replace(DESKTOP, max_storage_buffer_binding_size=largest - 1)
    assert plan_model(file, profile).dispatches_per_token == 5 * 16 + 3 + 2  # the table, looked up and multiplied


def test_the_cache_goes_on_in_further_buffers() -> None:
    plan = planned("1B in 16 MiB")
    buffers = [size for region, size in plan.regions.items() if region.startswith("kv.")]
    assert len(buffers) == 4 and sum(buffers) == plan.memory["kv"] == 64 * MIB


def test_a_cache_fills_a_buffer_to_its_last_byte() -> None:
    f16 = cache_format("f16", head_dim=16)
    cache = Cache(f16, f16, n_head_kv=1, head_dim=16, n_ctx=100)  # keys of 3,200 bytes, values in the next 256 behind
    whole = 3328 + 3200
    assert lay_out_caches({0: cache}, limited(whole)).regions == {"kv.0": whole}
    assert lay_out_caches({0: cache}, limited(whole - 4)).regions == {"kv.0": 3200, "kv.1": 3200}


def test_values_that_lie_in_their_keys_are_not_kept_again() -> None:
    f16 = cache_format("f16", head_dim=24)
    cache = Cache(f16, None, n_head_kv=1, head_dim=24, n_ctx=100, head_dim_v=16)
    found = lay_out_caches({0: cache, 1: replace(cache, v=f16)}, DESKTOP)
    of_keys, of_both = (found.pieces[layer][0] for layer in (0, 1))
    assert of_keys.values == of_keys.keys and of_keys.keys.size == of_both.keys.size == 100 * 24 * 2
    assert of_both.values.size == 100 * 16 * 2 and found.regions == {"kv.0": 2 * 4864 + 3200}


def test_a_row_or_a_heads_cache_that_no_binding_holds_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="no context fits"):
        plan_model(llama_header(**TINY, type="F32"), limited(128))
    with pytest.raises(MemoryBudgetError, match=r"cached keys takes 0.1 MB, but a binding of .* holds 0.0 MB"):
        profile = replace(limited(16 << 10), max_storage_buffer_binding_size=2000)
        plan_model(llama_header(**TINY), profile, n_ctx=64, n_ubatch=1)
