"""Tables of embeddings outside of GPU memory: which these are, what that saves, and when it happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llamaweb.errors import MemoryBudgetError
from llamaweb.ggml import GGMLType
from llamaweb.host import synthetic
from llamaweb.host.cli import main
from llamaweb.kernels.formats import whole_blocks
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource, Source
from llamaweb.planner import plan_model
from tests.families import MODELS
from tests.tiny import TinyLlama, tiny_llama, tiny_model

OWN = "per_layer_token_embd.weight"
CONTEXT = {"n_ctx": 64, "n_ubatch": 16}


def read(source: Source) -> GGUFFile:
    return asyncio.run(read_header(source))


@pytest.fixture(scope="module")
def gemma4() -> GGUFFile:
    return read(BytesSource(tiny_model(MODELS["gemma4"].spec)))


def test_the_gpu_has_rows_of_a_batch_in_place_of_a_table_that_nothing_else_reads(gemma4: GGUFFile) -> None:
    whole, plan = (plan_model(gemma4, offload=offload, **CONTEXT) for offload in ("none", "embeddings"))
    (table,) = plan.tables
    assert table.name == OWN and OWN not in {name for weight in plan.weights for name in weight.names}
    assert table.binding.size == plan.memory["tables"] == 4 * whole_blocks(table.row) * plan.n_ubatch
    table_bytes = 4 * whole_blocks(table.row) * gemma4.tensors[OWN].shape[1]
    assert 0 <= whole.memory["weights"] - plan.memory["weights"] - table_bytes < 256  # and what aligns it
    reads = [d for phase in plan.phases.values() for d in phase.dispatches if table.binding in d.bindings]
    assert len(reads) == len(plan.phases) and {d.kernel.template for d in reads} == {"get_rows"}
    assert not whole.tables and "tables" not in whole.memory
    counts = {name: len(phase.dispatches) for name, phase in plan.phases.items()}
    assert counts == {name: len(phase.dispatches) for name, phase in whole.phases.items()}


@pytest.mark.parametrize(("tied", "names"), [(False, ["token_embd.weight"]), (True, [])])
def test_embeddings_are_such_a_table_where_the_output_has_rows_of_its_own(tied: bool, names: list[str]) -> None:
    file = read(BytesSource(tiny_llama(TinyLlama(tied=tied))))
    assert [table.name for table in plan_model(file, offload="embeddings", **CONTEXT).tables] == names


def test_the_budget_asks_for_it(gemma4: GGUFFile) -> None:
    whole = plan_model(gemma4, **CONTEXT)
    budget = {**CONTEXT, "memory_budget": whole.memory["peak"] - 1, "n_ubatch": 32}
    assert not whole.tables
    assert [table.name for table in plan_model(gemma4, **budget).tables] == [OWN]
    with pytest.raises(MemoryBudgetError, match='; leave out offload="none", so that'):
        plan_model(gemma4, offload="none", **budget)
    with pytest.raises(MemoryBudgetError, match="no context fits, so use a smaller model"):
        plan_model(gemma4, offload="none", **{**budget, "memory_budget": 1000})
    with pytest.raises(MemoryBudgetError, match="budget"):
        plan_model(gemma4, **{**budget, "memory_budget": 1000})


def test_gemma_4_e2b_takes_less_than_1_8_gb_in_a_context_of_4096(gemma4: GGUFFile) -> None:
    shape = synthetic.SHAPES["gemma-4-e2b"]
    file = read(synthetic.HeaderSource("", shape, GGMLType.Q4_K, gemma4.metadata))
    plan = plan_model(file, n_ctx=4096, memory_budget=1_800_000_000, checked=True)
    assert plan.memory["peak"] <= 1_800_000_000 and [table.name for table in plan.tables] == [OWN]
    assert plan_model(file, n_ctx=4096).memory["weights"] > 3_000_000_000


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_told_where_nothing_can_move(tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama(TinyLlama(tied=tied)))
    assert main(["inspect", str(model), "--offload", "embeddings"]) == 0
    assert ("--offload embeddings moves nothing" in capsys.readouterr().err) == tied
    assert main(["inspect", str(model)]) == 0 and not capsys.readouterr().err
