"""A memory budget is kept to the byte, and what does not fit is refused with what would."""

from __future__ import annotations

import re
from dataclasses import replace
from math import ceil, floor
from typing import Any

import pytest

from llamaweb.errors import ContextError, LlamaWebError, MemoryBudgetError, megabytes
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import DESKTOP, DeviceProfile, ModelPlan, plan_model
from llamaweb.planner.budget import LEAST_BATCH, LEAST_CONTEXT
from tests.headers import LLAMA_1B, LLAMA_7B, SMOLLM2, TINY, gemma3_header, llama_header

MODELS = {
    "smollm2": llama_header(**SMOLLM2, type="Q4_1"),
    "llama 1B": llama_header(**LLAMA_1B, types={"token_embd*": "Q6_K"}, n_ctx=131072),
    "gemma3": gemma3_header(),
    "tiny": llama_header(**TINY, n_ctx=5000),
}
LEAST = DeviceProfile()
MB = 1_000_000


def peak(file: GGUFFile, profile: DeviceProfile = DESKTOP, **options: Any) -> int:
    return plan_model(file, profile, **options).memory["peak"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("more", [1, MB, 50 * MB, 1 << 40])
def test_without_a_context_the_longest_that_fits_is_taken(name: str, more: int) -> None:
    file = MODELS[name]
    budget = peak(file, n_ctx=LEAST_CONTEXT, n_ubatch=LEAST_BATCH) + more
    plan = plan_model(file, n_ctx=0, memory_budget=budget)
    assert plan.memory["peak"] <= budget and plan.memory_budget == budget
    own = file.metadata[f"{file.architecture}.context_length"]
    assert LEAST_CONTEXT <= plan.n_ctx <= own
    if plan.n_ctx < own:
        assert plan.n_ubatch == LEAST_BATCH  # fewer tokens a batch before a shorter context
        with pytest.raises(MemoryBudgetError):
            plan_model(file, n_ctx=plan.n_ctx + 1, memory_budget=budget)


@pytest.mark.parametrize("name", MODELS)
def test_the_batch_is_the_largest_that_keeps_to_the_budget(name: str) -> None:
    file = MODELS[name]
    most, least = (peak(file, n_ctx=1024, n_ubatch=n) for n in (512, LEAST_BATCH))
    for budget in (least, least + 1, (least + most) // 2, most - 1, most, 2 * most):
        plan = plan_model(file, n_ctx=1024, memory_budget=budget)
        assert plan.n_ctx == 1024 and LEAST_BATCH <= plan.n_ubatch <= 512
        assert plan.memory["peak"] <= budget
        if plan.n_ubatch < 512:
            larger = plan.n_ubatch + LEAST_BATCH
            assert peak(file, n_ctx=1024, n_ubatch=larger) > budget
    assert plan.n_ubatch == 512


def test_a_smaller_batch_that_was_asked_for_is_kept() -> None:
    file = MODELS["smollm2"]
    assert plan_model(file, n_ubatch=8, memory_budget=1 << 40).n_ubatch == 8
    with pytest.raises(MemoryBudgetError, match="in batches of 8 needs"):
        plan_model(file, n_ubatch=8, memory_budget=100 * MB)


def test_without_a_budget_the_device_decides_on_the_context_and_the_batch() -> None:
    file = llama_header(**{**LLAMA_7B, "n_layer": 4, "n_head_kv": 2}, n_ctx=1 << 20)
    plan = plan_model(file, LEAST, n_ctx=0)
    keys = next(b for d in plan.phases["decode"].dispatches for b in d.bindings if b.region.startswith("kv."))
    assert keys.size == LEAST.max_storage_buffer_binding_size
    batch = plan_model(file, LEAST, n_ctx=8192, n_ubatch=8192).n_ubatch
    assert LEAST_BATCH < batch < 8192 and batch % LEAST_BATCH == 0
    with pytest.raises(MemoryBudgetError, match="cached keys takes"):
        plan_model(file, LEAST, n_ctx=plan.n_ctx + 1)


@pytest.mark.parametrize("value", ["2GB", "2000000000", 0, -1, 2.5, float("nan"), float("inf"), True, [1]])
def test_a_budget_that_is_no_whole_number_of_bytes_is_refused(value: Any) -> None:
    with pytest.raises(MemoryBudgetError, match=rf"memory_budget is {re.escape(repr(value))}; it must be"):
        plan_model(MODELS["tiny"], memory_budget=value)


@pytest.mark.parametrize("value", ["2048", 2048.5, float("nan"), True, [1]])
def test_a_context_or_a_batch_that_is_no_whole_number_is_refused(value: Any) -> None:
    for name in ("n_ctx", "n_ubatch"):
        with pytest.raises(ContextError, match=rf"{name} is {re.escape(repr(value))}; it must be"):
            plan_model(MODELS["tiny"], **{name: value})


@pytest.mark.parametrize("name", ["n_ctx", "n_ubatch", "memory_budget"])
def test_a_number_that_is_too_large_to_be_written_out_is_refused_in_a_short_sentence(name: str) -> None:
    for digits in (30, 5000):  # Python refuses to write more than 4,300
        with pytest.raises(LlamaWebError, match=rf"{name} is .{{1,40}}; it must be") as caught:
            plan_model(MODELS["tiny"], **{name: 10**digits})
        assert len(str(caught.value)) < 200


def test_a_number_may_be_a_float_that_is_whole() -> None:
    plan = plan_model(MODELS["tiny"], n_ctx=100.0, n_ubatch=8.0, memory_budget=2e9)
    assert (plan.n_ctx, plan.n_ubatch, plan.memory_budget) == (100, 8, 2_000_000_000)
    assert all(isinstance(number, int) for number in (plan.n_ctx, plan.n_ubatch, plan.memory_budget))


def test_nothing_asked_for_is_2048_tokens_or_the_models_own() -> None:
    assert plan_model(MODELS["smollm2"]).n_ctx == 2048
    assert plan_model(llama_header(**TINY, n_ctx=100)).n_ctx == 100
    with pytest.raises(MemoryBudgetError, match="2048 tokens"):
        plan_model(MODELS["smollm2"], memory_budget=100 * MB)


ADVICE = re.compile(r"; (?:a context of (\d+) fits)?(?:, or )?(.*)\.$")


@pytest.mark.parametrize("name", ["smollm2", "llama 1B", "gemma3"])
def test_the_refusal_has_need_and_budget_and_all_it_advises_fits(name: str) -> None:
    file = MODELS[name]
    budget = peak(file, n_ctx=2048, n_ubatch=LEAST_BATCH) - 1
    with pytest.raises(MemoryBudgetError) as caught:
        plan_model(file, n_ctx=2048, memory_budget=budget)
    text = str(caught.value)
    assert f"needs {megabytes(budget + 1, ceil)} of" in text and f"budget is {megabytes(budget, floor)}" in text
    found = ADVICE.search(text)
    assert found and found[1] and found[2]
    plan_model(file, n_ctx=int(found[1]), memory_budget=budget)
    with pytest.raises(MemoryBudgetError):
        plan_model(file, n_ctx=int(found[1]) + 4, memory_budget=budget)
    for tokens, type in re.findall(r"(\d+) tokens fit with type_k and type_v (\w+)", found[2]):
        plan_model(file, n_ctx=int(tokens), type_k=type, type_v=type, memory_budget=budget)
    assert re.search(r"2048 tokens fit with", found[2])


def test_a_format_of_the_cache_that_the_heads_do_not_allow_is_not_advised() -> None:
    file = llama_header(**TINY, head_dim=24, n_ctx=4096)
    with pytest.raises(MemoryBudgetError) as caught:
        plan_model(file, n_ctx=4096, memory_budget=peak(file, n_ctx=4096, n_ubatch=LEAST_BATCH) - 1)
    assert "q8_0" not in str(caught.value) and "a context of" in str(caught.value)


def test_a_model_that_no_context_makes_fit_is_refused_without_one() -> None:
    for n_ctx in (0, 2048):
        with pytest.raises(MemoryBudgetError, match="no context fits, so use a smaller model"):
            plan_model(MODELS["llama 1B"], n_ctx=n_ctx, memory_budget=500 * MB)


def test_without_a_context_a_tiny_one_is_refused_but_named() -> None:
    file = MODELS["smollm2"]
    budget = peak(file, n_ctx=LEAST_CONTEXT, n_ubatch=LEAST_BATCH) - 1
    with pytest.raises(MemoryBudgetError, match=r"a context of 25\d fits"):
        plan_model(file, n_ctx=0, memory_budget=budget)


def test_what_tuning_takes_for_a_while_counts_too() -> None:
    plain, tuned = (plan_model(MODELS["llama 1B"], tuned=tuned).memory for tuned in (False, True))
    assert plain["total"] == tuned["total"] < plain["peak"]
    assert tuned["peak"] - plain["peak"] == 4 * 128256  # the largest result that is read at once, to be compared
    file, budget = MODELS["llama 1B"], plain["peak"]
    assert plan_model(file, memory_budget=budget).n_ubatch == 512
    assert plan_model(file, memory_budget=budget, tuned=True).n_ubatch < 512


def wllama(share: float) -> int:
    """A share of what wllama 3.8.1 takes for Llama 3.2 1B in Q4_0 with 2,048 tokens of context in f16."""
    return int(share * (727.75 + 205.5 + 64 + 62 + 10.5) * (1 << 20))


def test_1b_takes_less_than_four_fifths_of_wllamas_memory() -> None:
    file = MODELS["llama 1B"]
    assert peak(file, tuned=True, checked=True) <= wllama(0.77)
    assert peak(file, tuned=True, checked=True, type_k="q8_0", type_v="q8_0") <= wllama(0.75)
    aim = plan_model(file, tuned=True, checked=True, memory_budget=wllama(0.75))
    assert (aim.n_ctx, aim.n_ubatch) >= (2048, 160)


def model_of(file: GGUFFile, plan: ModelPlan) -> tuple[int, int]:
    """Bytes of the weights on the GPU, and in the file."""
    return plan.memory["weights"], sum(tensor.nbytes for tensor in file.tensors.values())


LLAMA_8B = {**LLAMA_7B, "n_head_kv": 8, "n_ff": 14336, "n_vocab": 128256}


@pytest.mark.parametrize(
    "file",
    [
        llama_header(**SMOLLM2, type="Q4_1"),
        llama_header(**SMOLLM2, type="Q4_0", types={"token_embd*": "Q8_0"}),
        MODELS["llama 1B"],
        llama_header(**LLAMA_8B, type="Q4_K", types={"token_embd*": "Q6_K", "output.w*": "Q6_K"}, tied=False),
        gemma3_header(types={"token_embd*": "Q8_0", "*ffn_down*": "Q6_K", "*attn_v*": "Q8_0"}, type="Q5_0"),
    ],
    ids=["135M Q4_1", "135M Q4_0", "1B Q4_0", "8B Q4_K", "gemma3 270M mixed"],
)
def test_weights_take_their_files_bits_and_hardly_more(file: GGUFFile) -> None:
    taken, stored = model_of(file, plan_model(file, replace(DESKTOP, max_buffer_size=1 << 33)))
    assert stored <= taken <= 1.02 * stored


def test_an_embedding_that_is_the_output_too_is_there_once() -> None:
    tied, untied = (plan_model(llama_header(**LLAMA_1B, tied=tied)) for tied in (True, False))
    table = 2048 // 32 * 18 * 128256
    assert untied.memory["weights"] - tied.memory["weights"] == table
    lookup, *_, logits, _ = tied.phases["decode"].dispatches
    assert lookup.kernel.template == "get_rows" and lookup.bindings[0] == logits.bindings[0]
