"""Which variant of a kernel computes a step: what tuning chose, or the library's default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from llamaweb.kernels.tuner import Choices, Shape, Variant
from llamaweb.operations import OPERATIONS
from llamaweb.operations.operation import Site
from llamaweb.operations.step import Step


@dataclass(frozen=True)
class Variants:
    """choices: what tuning found, by the shape of the kernel. precision: of PRECISIONS."""

    choices: Choices
    precision: str

    def of(self, step: Step, site: Site) -> Variant | None:
        """None: the default, or there is one kernel alone."""
        operation = OPERATIONS[step.op]
        shape = operation.shape(step, site)
        return operation.variant(step, site, self._chosen(shape) if shape else None)

    def _chosen(self, shape: Shape) -> Variant | None:
        if shape.op == "mul_mat":
            return self._of_any_batch.get(replace(shape, n_tokens=0, precision=self.precision))
        return self.choices.get(shape)

    @cached_property
    def _of_any_batch(self) -> dict[Shape, Variant]:
        """What is evaluated takes other batches than prompts, which alone are tuned, and is computed as they are."""
        return {replace(shape, n_tokens=0): chosen for shape, chosen in self.choices.items() if shape.op == "mul_mat"}
