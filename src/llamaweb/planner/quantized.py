"""Inputs of a batch's products as integers, for the packed integer dot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llamaweb.planner.fusion import Step, Steps, Value


def with_quantized(steps: Steps, possible: Callable[[Step], bool], bits: int) -> Steps:
    """Puts a step "quantize" before the products of a batch whose input may be wanted as integers of so many bits, one
    for products of the same input.

    Both forms of the input have their room until the product, whichever it reads, so that the choice of a kernel moves
    nothing in the arena; a quantize step that no chosen kernel needs is not dispatched.
    """
    found: list[Step] = []
    made: dict[Value, int] = {}  # where the quantize step of a value is
    head = 0
    for i, step in enumerate(steps.steps):
        if i == steps.head:
            head = len(found)
        if step.op == "mul_mat" and possible(step):
            x = step.values["x"]
            if x not in made:
                made[x] = len(found)
                codes = Value(f"{x.name}.q{bits}", x.row, x.n_tokens, bits)
                found.append(Step("quantize", codes.name, {"x": x, "y": codes}, params={"lane_order": frozenset()}))
            step = replace(step, values={**step.values, "x_q": found[made[x]].values["y"]})
        found.append(step)
        if written := step.values.get("y"):
            made.pop(written, None)
    return Steps(found, head, steps.logits)
