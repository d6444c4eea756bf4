"""Writes plans.txt, small plans to the last byte: `python -m tests.golden.make_plans_golden`.

That they are right is for other tests; this one has whoever changes a plan look at what else has changed with it. The
first line of a dispatch is what it binds, and the second its kernel with what the planner asks of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import DESKTOP, FUSIONS, DeviceProfile, ModelPlan, plan_model
from llamaweb.planner.plan import Binding, Dispatch
from tests.headers import TINY, WIDE, gemma3_header, llama_header

PLANS = Path(__file__).parent / "plans.txt"

ANY = DeviceProfile()
ONE = {**TINY, "n_layer": 1, "n_vocab": 100}
GEMMA3 = {**ONE, "head_dim": 32, "window": 5}
FEW = {"n_ctx": 50, "n_ubatch": 8}

# name: (header, device, options of plan_model)
CASES: dict[str, tuple[GGUFFile, DeviceProfile, dict[str, Any]]] = {
    "llama, all logits, in a long context": (llama_header(**ONE), DESKTOP, {"n_ctx": 600, "logits_all": True}),
    "llama, biased, untied, of several formats": (
        llama_header(**{**WIDE, "n_layer": 1}, type="Q4_K", types={"*attn_v*": "IQ4_XS"}, tied=False, bias=True),
        ANY,
        {**FEW, "tuned": True, "checked": True},
    ),
    "llama in 10 kB": (
        llama_header(**{**ONE, "n_embd": 72}, type="F32", bias=True),
        replace(ANY, max_storage_buffer_binding_size=10_000, max_buffer_size=40_000),
        {"n_ctx": 200, "n_ubatch": 4, "precision": "fast", "memory_budget": 1_000_000},
    ),
    "gemma3, with a window": (
        gemma3_header(**GEMMA3, type="Q8_0"),
        DESKTOP,
        {"n_ctx": 700, "n_ubatch": 40, "precision": "fast", "type_k": "q8_0", "type_v": "q4_0", "checked": True},
    ),
    "llama, with nothing fused": (llama_header(**ONE), ANY, {**FEW, "unfused": FUSIONS}),
    "gemma3, with nothing fused": (
        gemma3_header(**GEMMA3, type="Q5_0"),
        ANY,
        {**FEW, "unfused": FUSIONS, "tuned": True},
    ),
}


def lines(name: str) -> list[str]:
    file, profile, options = CASES[name]
    return list(_plan(plan_model(file, profile, **options)))


def _plan(plan: ModelPlan) -> Iterator[str]:
    yield f"  context {plan.n_ctx}, batch {plan.n_ubatch}, precision {plan.precision}, budget {plan.memory_budget}"
    yield f"  memory {plan.memory}, arena at least {plan.arena_lower_bound}"
    yield f"  regions {dict(plan.regions)}, rings {[(ring.window, ring.rows) for ring in plan.rings]}"
    for table in plan.rope_tables:
        yield f"  rope {_place(table.binding)}: {table.rope}"
    for codebook, binding in plan.codebooks.items():
        yield f"  codes {_place(binding)}: {codebook.name}"
    for weight in plan.weights:
        slices = " + ".join(f"{part.name}[{part.first}:{part.first + part.count}]" for part in weight.slices)
        planes = " ".join(map(_place, weight.planes))
        more = f", from row {weight.first}" * bool(weight.first) + ", in lane order" * weight.lane_order
        yield f"  weight {planes}: {slices} in {weight.format.name}, {weight.rows} of {weight.row}{more}"
    for name, phase in plan.phases.items():
        logits = _place(plan.logits[name])
        yield f"  phase {name} of {phase.n_tokens}, head from {phase.head} on, logits {logits}"
        for dispatch in phase.dispatches:
            yield from _dispatch(dispatch)


# Constants that are the plan's; others are a kernel's own, and change with its variant.
_PLANNED = {
    *(
        "bias",
        "bits",
        "columns",
        "epilogue",
        "eps",
        "first_kv",
        "format",
        "glu",
        "head_dim",
        "head_eps",
        "k",
        "keeps_sum",
    ),
    *("kv_heads", "last_row", "mode", "n", "n_ctx", "n_dims", "n_head", "n_head_kv", "norm", "offset", "piece"),
    *("post_eps", "results", "ring", "rotated", "rows", "scale", "splits", "stride", "sum_lanes", "targets", "type_k"),
    *("type_v", "window", "x_lanes", "y_lanes", "y_row"),
}


def _dispatch(dispatch: Dispatch) -> Iterator[str]:
    slots = zip(dispatch.kernel.slots, dispatch.bindings, strict=True)
    yield f"    {dispatch.label}: {' '.join(f'{slot.name}={_place(binding)}' for slot, binding in slots)}"
    planned = {name: value for name, value in dispatch.kernel.constants if name in _PLANNED}
    told = [
        name if value is True else f"{name}={value}" for name, value in planned.items() if value not in (None, False)
    ]
    yield " ".join([f"      {dispatch.kernel.template}", *told])


def _place(binding: Binding) -> str:
    return f"{binding.region}[{binding.offset}:{binding.offset + binding.size}]"


def written() -> dict[str, list[str]]:
    """What the file holds, by case."""
    cases = re.split(r"^(?! )(.+)\n", PLANS.read_text(), flags=re.MULTILINE)[1:]
    return {name: text.splitlines() for name, text in zip(cases[::2], cases[1::2], strict=True)}


if __name__ == "__main__":
    PLANS.write_text("".join(f"{line}\n" for name in CASES for line in (name, *lines(name))))
