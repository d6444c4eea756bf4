"""Which variant of a kernel computes a step: what tuning chose, or the library's default; and what it can choose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from llamaweb.kernels.kernel import Variant
from llamaweb.kernels.tuner import Choices, Shape
from llamaweb.operations import OPERATIONS
from llamaweb.operations.operation import Site
from llamaweb.operations.step import Step
from llamaweb.profile import DeviceProfile


class Variants:
    """What tuning found, and the defaults of all else."""

    def __init__(self, choices: Choices) -> None:
        # What is evaluated takes other batches than prompts, which alone are tuned, and is computed as they are.
        self._choices = {shape.of_any_batch: chosen for shape, chosen in choices.items()}

    def of(self, step: Step, site: Site) -> Variant | None:
        """None: the default, or there is one kernel alone."""
        operation = OPERATIONS[step.op]
        shape = operation.shape(step, site)
        return operation.variant(step, site, self._choices.get(shape.of_any_batch) if shape else None)


def candidates(shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    return OPERATIONS[shape.op].candidates(shape, profile, mode)


def from_json(data: Any, shapes: Iterable[Shape], profile: DeviceProfile) -> dict[Shape, Variant]:
    """The stored choices (`tuner.to_json`) for `shapes`; what is damaged or not valid on this device is as if it were
    not there."""
    found = {}
    for shape in shapes:
        stored = data.get(shape.key) if isinstance(data, dict) else None
        valid = (v for v in candidates(shape, profile, "full") if asdict(v) == stored)
        if variant := next(valid, None):
            found[shape] = variant
    return found
