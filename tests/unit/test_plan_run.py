"""Whole tiny models on a device that browsers do not have here, of subgroups of eight and the packed dot, with NaNs in
all that nobody has written."""

from __future__ import annotations

from functools import cache

import pytest

from llamaweb.profile import DeviceProfile
from tests.families import MODELS, TOKENS
from tests.plan_run import PlanRun, Runner
from tests.reference import nmse
from tests.tiny import tiny_model

LEAST = DeviceProfile()
LAVAPIPE = DeviceProfile(
    max_storage_buffers_per_shader_stage=10,
    max_compute_workgroup_storage_size=32768,
    subgroup_size=8,
    packed_dot=True,
)
PROMPT, ALL = 13, 20  # tokens


@cache
def runner(profile: DeviceProfile) -> Runner:
    return Runner(profile)


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("qwen3", LEAST),
        ("qwen2moe, Q4_0", LAVAPIPE),
        ("deepseek2", LAVAPIPE),
        ("lfm2, Q8_0", LAVAPIPE),
        ("granitehybrid", LAVAPIPE),
    ],
    ids=lambda value: value if isinstance(value, str) else f"subgroups of {value.subgroup_size}",
)
def test_logits_equal_numpys_whatever_was_in_memory_before(name: str, profile: DeviceProfile) -> None:
    model, tokens = MODELS[name], TOKENS[:ALL]
    data = tiny_model(model.spec)
    run = PlanRun(runner(profile), data, n_ctx=32, n_ubatch=8, type_k="f32", type_v="f32")
    found = run.logits(tokens, PROMPT)
    expected = model.reference(data, kv_f16=False).logits(tokens)[PROMPT - 1 :]
    rounded = any(kernel.template.endswith("_packed") for kernel in run.plan.kernels)
    limit = 1e-7 if rounded else 1e-10  # activations as integers of 16 bits
    assert found.shape == expected.shape
    assert max(nmse(a, b) for a, b in zip(found, expected, strict=True)) <= limit
