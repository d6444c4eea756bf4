"""What checking a plan's kernels takes of memory, which the plan counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from llamaweb.ggml import GGMLType
from llamaweb.host import synthetic
from llamaweb.kernels.checks import FOUND, cases, chains
from llamaweb.kernels.checks.layout import lay_out
from llamaweb.kernels.kernel import Kernel
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import DESKTOP, DeviceProfile, ModelPlan, plan_model
from tests.families import EMBEDDERS
from tests.headers import TINY, llama_header
from tests.reference import now
from tests.tiny import tiny_model
from tests.unit.test_budget import MODELS

LEAST = DeviceProfile()


def kernels_of(plan: ModelPlan, phases: Sequence[str] = ()) -> list[Kernel]:
    dispatches = [d for name in phases or plan.phases for d in plan.phases[name].dispatches]
    return [kernel for d in dispatches for kernel in (d.kernel, *([d.plain.kernel] if d.plain else []))]


def most(asked: Sequence[tuple[Kernel, ...]]) -> tuple[int, int, int]:
    """Bytes that are read, written and looked at, of the largest cases."""
    laid = [lay_out(case) for chain in asked for case in cases(chain)]
    read, written = (max((each.bytes[i] for each in laid), default=0) for i in (0, 1))
    return read, written, max([FOUND, *(each.found for each in laid)])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("device", [DESKTOP, LEAST], ids=["desktop", "least"])
@pytest.mark.parametrize(
    "options", [{}, {"n_ctx": 40}, {"logits_all": True, "n_ctx": 3000}, {"type_k": "q8_0"}], ids=str
)
def test_every_kernel_of_a_plan_is_asked_and_the_plan_counts_its_memory(
    name: str, device: DeviceProfile, options: dict
) -> None:
    if name == "tiny" and "type_k" in options:
        options = {"type_k": "f32"}
    check_count(plan_model(MODELS[name], device, checked=True, **options))


@pytest.mark.parametrize("name", ["bert", "gemma-embedding, Q8_0"])
@pytest.mark.parametrize("device", [DESKTOP, LEAST], ids=["desktop", "least"])
@pytest.mark.parametrize("n_ctx", [1, 256])
def test_so_it_is_of_what_texts_are_embedded_with(name: str, device: DeviceProfile, n_ctx: int) -> None:
    file = unfused(now(read_header(BytesSource(tiny_model(EMBEDDERS[name].spec)))))
    check_count(plan_model(file, device, checked=True, n_ctx=n_ctx))


def check_count(plan: ModelPlan) -> None:
    kernels = kernels_of(plan)
    asked = chains(kernels)
    assert {k for chain in asked for k in chain} == set(kernels)
    read, written, found = most(asked)
    first = kernels_of(plan, [name for name in plan.phases if name != "decode_long"])
    later = sum(most(chains([k for k in kernels if k not in first]))) if "decode_long" in plan.phases else 0
    own = max(found + (read if read > plan.regions.get("kv.0", 0) else 0), later)
    assert written <= plan.regions["arena"]
    assert own <= plan.transient <= 4 * own + 500_000


@pytest.mark.parametrize("name", ["rwkv7-1.5b", "granite-4.0-h-1b", "qwen3.5-2b", "lfm2.5-350m"])
def test_the_plan_of_a_recurrent_model_counts_what_checking_its_states_takes(name: str) -> None:
    shape, tokenizer = replace(synthetic.SHAPES[name], n_vocab=300), llama_header(**TINY).metadata
    file = asyncio.run(read_header(synthetic.HeaderSource("", shape, GGMLType.Q4_0, tokenizer)))
    plan = plan_model(file, checked=True, n_ubatch=2)
    of_states = [kernel for kernel in kernels_of(plan) if any(slot.name == "state" for slot in kernel.slots)]
    read, written, found = most(chains(of_states))
    assert written <= plan.regions["arena"]
    assert found + (read if read > plan.regions.get("kv.0", 0) else 0) <= plan.transient


@pytest.mark.parametrize("device", [DESKTOP, LEAST], ids=["desktop", "least"])
@pytest.mark.parametrize("type", ["Q4_0", "F16"])
def test_the_plan_of_experts_counts_what_checking_them_takes(type: str, device: DeviceProfile) -> None:
    """Where they are bound in pieces, these begin within an expert, too."""
    small = replace(synthetic.SHAPES["deepseek-v2-lite"], n_vocab=300, n_layer=2)
    shape, tokenizer = small, llama_header(**TINY).metadata
    file = asyncio.run(read_header(synthetic.HeaderSource("", shape, GGMLType[type], tokenizer)))
    plan = plan_model(file, device, checked=True, n_ctx=512, n_ubatch=8)
    of_experts = [k for k in kernels_of(plan) if k.template.startswith("mul_mat_id") or k.template == "quantize"]
    read, written, found = most(chains(of_experts))
    assert read > 50_000_000 and written <= plan.regions["arena"]
    assert found + (read if read > plan.regions.get("kv.0", 0) else 0) <= plan.transient
