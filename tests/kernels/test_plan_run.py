"""Whole tiny models on a device that browsers do not have here, of subgroups of eight and the packed dot, with NaNs in
all that nobody has written."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from llamaweb.profile import DeviceProfile
from tests.families import MODELS, TOKENS, Model
from tests.naga import LAVAPIPE, LEAST
from tests.plan_run import PlanRun, Runner
from tests.reference import nmse
from tests.tiny import tiny_model
from tests.tiny_family import TinyFamily

PROMPT, ALL = 13, 20  # tokens

MIXED = {  # what a family needs for rows of 256
    "granitehybrid": {"attention.key_length": 64, "attention.value_length": 64},
    "qwen3vlmoe": {"rope.dimension_sections": [11, 11, 10, 0]},
}


def mixed(spec: TinyFamily) -> TinyFamily:
    """As quantizers leave a model: matrices in Q4_K, in Q8_0 where rows have no blocks of 256, and the rest in F32."""
    n_ff = {} if isinstance(spec.sizes["feed_forward_length"], list) else {"feed_forward_length": 256}
    wide = {**spec.metadata, "embedding_length": 256, **n_ff, **MIXED.get(spec.family, {})}
    spec = replace(spec, metadata=wide)
    rows = {name: values.shape[-1] for name, values in spec.tensors(304) if values.ndim > 1}
    types = {name: "Q4_K" if row % 256 == 0 else "Q8_0" if row % 32 == 0 else "F32" for name, row in rows.items()}
    return replace(spec, types=types | dict(spec.types) | dict.fromkeys(("*altup*", "*laurel*"), "F32"))


FAMILIES = {m.spec.family: m for m in reversed(MODELS.values()) if isinstance(m.spec, TinyFamily)}


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
    check(MODELS[name], tiny_model(MODELS[name].spec), profile)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_each_family_with_weights_in_q4_k_and_q8_0(family: str) -> None:
    model = FAMILIES[family]
    assert isinstance(model.spec, TinyFamily)
    check(model, tiny_model(mixed(model.spec)), LAVAPIPE)


def check(model: Model, data: bytes, profile: DeviceProfile) -> None:
    tokens = TOKENS[:ALL]
    run = PlanRun(runner(profile), data, n_ctx=32, n_ubatch=8, type_k="f32", type_v="f32")
    found = run.logits(tokens, PROMPT)
    expected = model.reference(data, kv_f16=False).logits(tokens)[PROMPT - 1 :]
    rounded = any(kernel.template.endswith("_packed") for kernel in run.plan.kernels)
    limit = 1e-6 if rounded else 1e-10  # activations as integers of 16 bits
    assert found.shape == expected.shape
    assert max(nmse(a, b) for a, b in zip(found, expected, strict=True)) <= limit
