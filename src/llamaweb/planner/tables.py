"""Tables that stay with the host: of those of which nothing but rows of tokens is read, the GPU has a batch's rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from llamaweb.errors import ModelWarning
from llamaweb.kernels.formats import whole_blocks
from llamaweb.operations.step import Step
from llamaweb.planner.fusion import Steps
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Binding, HostTable
from llamaweb.profile import DeviceProfile

REGION = "tables"


def tell_if_none_moves(offload: str, tables: Sequence[HostTable]) -> None:
    """A ModelWarning where tables are to stay with the host, and a model has none that can."""
    if offload == "embeddings" and not tables:
        message = 'offload="embeddings" moves nothing: no table of this model is only looked up by token; leave it out.'
        warnings.warn(message, ModelWarning, stacklevel=3)


def on_host(steps: Steps) -> Steps:
    """The same, with such tables on the host."""
    found = [_without_table(step) if _may_be(step, steps.steps) else step for step in steps.steps]
    return replace(steps, steps=found)


def _may_be(step: Step, steps: list[Step]) -> bool:
    if step.op != "get_rows" or step.params.get("of_positions"):
        return False
    return not any(step.weights["w"][0] in vectors for s in steps if s is not step for vectors in s.weights.values())


def _without_table(step: Step) -> Step:
    return replace(step, weights={}).but(host=step.weights["w"][0])


def lay_out_tables(steps: list[Step], n_ubatch: int, profile: DeviceProfile) -> tuple[HostTable, ...]:
    """Where the rows of a batch of these steps are, one table's behind the other's."""
    placed, at = [], 0
    for table in dict.fromkeys(step.params["host"] for step in steps if "host" in step.params):
        size = 4 * whole_blocks(table.row) * n_ubatch
        placed.append(HostTable(table.name, table.row, Binding(REGION, at, size)))
        at = align(at + size, profile.min_storage_buffer_offset_alignment)
    return tuple(placed)
