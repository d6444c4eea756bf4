"""The profiler's pure half: what a dispatch costs by the plan, and times by kernel."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np
import pytest

from llamaweb.kernels import peaks
from llamaweb.kernels.template import wgsl
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.planner.cost import Cost, costs, shape
from llamaweb.profile import DESKTOP, DeviceProfile
from llamaweb.profiling import DispatchTime, Peaks, PhaseProfile, Profile
from tests.tiny import TinyLlama, tiny_llama

SPEC = TinyLlama(type="Q4_0", n_embd=128, n_head=4, n_head_kv=2, n_ff=192, n_layer=3)
N_CTX = 256


@cache
def header() -> GGUFFile:
    return asyncio.run(read_header(BytesSource(tiny_llama(SPEC))))


@cache
def plan() -> ModelPlan:
    return plan_model(header(), n_ctx=N_CTX, n_ubatch=64)


def weights(n: int, k: int) -> int:
    return n * k // 32 * 18


def total(phase: str, n_tokens: int, n_past: int) -> Cost:
    found = costs(plan(), phase, n_tokens, n_past)
    assert len(found) == len(plan().phases[phase].dispatches)
    return Cost(sum(c.read for c in found), sum(c.write for c in found), sum(c.flops for c in found))


def test_a_token_reads_every_matrix_once_and_its_row_of_the_embeddings() -> None:
    n_vocab = header().tensors["token_embd.weight"].shape[1]
    layer = weights(256, 128) + weights(128, 128) + weights(384, 128) + weights(128, 192)
    matrices = SPEC.n_layer * layer + weights(n_vocab, 128) + weights(1, 128)
    small = total("decode", 1, 0).read - matrices
    assert 0 < small < 0.15 * matrices  # norms and activations
    products = SPEC.n_layer * (256 * 128 + 128 * 128 + 384 * 128 + 128 * 192) + n_vocab * 128
    attention = SPEC.n_layer * 4 * 128
    assert total("decode", 1, 0).flops == 2 * products + attention


def test_a_cached_token_costs_its_keys_and_values_and_their_products() -> None:
    near, far = total("decode", 1, 10), total("decode", 1, 110)
    assert far.read - near.read == 100 * SPEC.n_layer * 2 * 2 * 32 * 2  # K and V, 2 heads of 32, f16
    assert far.flops - near.flops == 100 * SPEC.n_layer * 4 * 4 * 32
    assert far.write == near.write


def test_in_a_batch_only_activations_and_operations_grow_with_its_tokens() -> None:
    one, two, three = (total("prefill", n, 0) for n in (20, 40, 60))
    assert two.write - one.write == three.write - two.write > 0
    assert 0 < two.read - one.read < one.read
    phase = plan().phases["prefill"]
    for d, a, b in zip(phase.dispatches, costs(plan(), "prefill", 20, 0), costs(plan(), "prefill", 40, 0), strict=True):
        if d.kernel.template == "mul_mat":
            assert b.flops == 2 * a.flops > 0
        if d.kernel.template in ("mul_mat_vec", "sample"):  # of the last token alone
            assert b == a


def test_causal_attention_counts_what_each_token_sees() -> None:
    attention = next(
        c.flops
        for d, c in zip(plan().phases["prefill"].dispatches, costs(plan(), "prefill", 3, 5), strict=True)
        if d.kernel.template == "flash_attn"
    )
    assert attention == 4 * 128 * (6 + 7 + 8)


def profiled(us: list[float], whole_us: float) -> PhaseProfile:
    dispatches = plan().phases["decode"].dispatches
    timed = zip(dispatches, us, costs(plan(), "decode", 1, 7), strict=True)
    return PhaseProfile(
        "decode", 1, 7, whole_us, whole_us, tuple(DispatchTime(d.label, d.kernel, t, c) for d, t, c in timed)
    )


def test_every_dispatch_is_in_one_group_and_the_shares_make_one() -> None:
    us = np.random.RandomState(0).uniform(1, 9, plan().dispatches_per_token).tolist()
    phase = profiled(us, sum(us) + 2 * len(us))
    assert sum(k.count for k in phase.kernels) == len(us)
    assert sum(k.share for k in phase.kernels) == pytest.approx(1)
    assert sum(k.us for k in phase.kernels) == pytest.approx(sum(us))
    assert sum(k.bytes for k in phase.kernels) == total("decode", 1, 7).bytes
    assert phase.gap_us == pytest.approx(2)
    times = [k.us for k in phase.kernels]
    assert times == sorted(times, reverse=True)
    assert len({(k.kernel, k.format, k.shape) for k in phase.kernels}) == len(phase.kernels) > 4


def test_rates_stand_beside_the_devices_peaks() -> None:
    phase = profiled([10.0] * plan().dispatches_per_token, 1000.0)
    report = Profile("a GPU", "timestamps", Peaks(1e12, 1e13, 2.0), (phase,)).report()
    (reported,) = report["phases"]
    for k, found in zip(phase.kernels, reported["kernels"], strict=True):
        assert found["of_peak_bytes"] == pytest.approx(k.bytes / (k.us * 1e-6) / 1e12)
        assert found["of_peak_flops"] == pytest.approx(k.flops / (k.us * 1e-6) / 1e13)


def test_a_profile_prints_as_a_table_a_person_can_read() -> None:
    phase = profiled([10.0] * plan().dispatches_per_token, 1000.0)
    title, empty, head, rule, *rows, end, summary, _ = str(
        Profile("a GPU", "timestamps", Peaks(1e12, 1e13, 2.0), (phase,))
    ).split("\n")
    assert "decode: a token behind 7, by timestamps (device: 1,000.0 GB/s" in title and "between two" in summary
    assert empty == end == "" and set(rule) == {" ", "─"}
    assert len(rows) == len(phase.kernels)
    # Numbers end where the names of their columns do.
    assert all(
        row[: head.index("count") + 5].endswith(str(k.count)) for row, k in zip(rows, phase.kernels, strict=True)
    )


def test_shapes_tell_products_apart() -> None:
    shapes = {shape(d.kernel) for d in plan().phases["decode"].dispatches}
    assert {"128×256", "128×384 swiglu", "192×128 add", "4/2 heads of 32"} <= shapes


@pytest.mark.parametrize("profile", [DeviceProfile(), DESKTOP, DeviceProfile(software=True)])
def test_peak_kernels_stay_within_a_devices_limits(profile: DeviceProfile) -> None:
    for launch, size in (peaks.read(profile), peaks.fma(profile)):
        assert "@compute" in wgsl(launch.kernel)
        assert launch.workgroups[0] <= profile.max_compute_workgroups_per_dimension
        assert size > 0
    for barriers in (False, True):
        assert ("workgroupBarrier" in wgsl(peaks.steps(barriers).kernel)) == barriers
    assert peaks.read(profile)[1] <= profile.max_storage_buffer_binding_size


def test_every_phase_of_a_plan_has_shapes_and_costs() -> None:
    both = plan_model(header(), n_ctx=N_CTX, n_ubatch=64, logits_all=True)
    for name, phase in both.phases.items():
        found = costs(both, name, phase.n_tokens, 100)
        assert all(shape(d.kernel) for d in phase.dispatches)
        assert all(c.read > 0 and c.flops >= 0 for c in found)
