"""The plan as JSON, for people and tests."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from llamaweb.planner.plan import ModelPlan


def describe(plan: ModelPlan, *, dispatches: bool = False) -> dict[str, Any]:
    """Memory in bytes, the arena's lower bound, dispatches a token, the tables that stay with the host, and, if asked,
    every dispatch of every phase."""
    report: dict[str, Any] = {
        "context": plan.n_ctx,
        "ubatch": plan.n_ubatch,
        "memory": plan.memory,
        "budget": plan.memory_budget,
        "pooling": plan.embeddings.pooling if plan.embeddings else None,
        "arena_lower_bound": plan.arena_lower_bound,
        "dispatches_per_token": plan.dispatches_per_token,
        "on_host": [table.name for table in plan.tables],
    }
    if dispatches:
        report["plan"] = {
            name: [
                {
                    "label": d.label,
                    "kernel": d.kernel.template,
                    "constants": {name: _plain(value) for name, value in d.kernel.constants},
                    "bindings": {
                        slot.name: [b.region, b.offset, b.size]
                        for slot, b in zip(d.kernel.slots, d.bindings, strict=True)
                    },
                    "workgroups": list(d.workgroups),
                }
                for d in phase.dispatches
            ]
            for name, phase in plan.phases.items()
        }
    return report


def _plain(value: Any) -> Any:
    """A kernel's constant as JSON has it: names and numbers, lists, and dicts of what has parts."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
