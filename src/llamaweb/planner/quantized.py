"""Inputs of a batch's products as integers for the packed dot, or as halves for matrix units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llamaweb.operations import OPERATIONS
from llamaweb.operations.step import Step, Value, View
from llamaweb.planner.fusion import Steps


def with_quantized(steps: Steps, bits_of: Callable[[Step], int]) -> Steps:
    """Puts a step "quantize" before the products of a batch whose input may be wanted in fewer bits, one for products
    of the same input. bits_of: of such a product, the most that its kernels take; 0: there are none.

    Both forms of the input have their room until the product, whichever it reads, so that the choice of a kernel moves
    nothing in the arena. What is dispatched, and as what codes, follows from the kernels that are chosen.
    """
    found: list[Step] = []
    made: dict[View, int] = {}  # where the quantize step of an input is
    for step in steps.steps:
        if OPERATIONS[step.op].packs and (bits := bits_of(step)):
            x = step.values["x"]
            if x not in made:
                made[x] = len(found)
                codes = View.of(Value(f"{x.value.name}.q{bits}", x.pitch, x.n_tokens, bits))
                found.append(Step("quantize", codes.value.name, {"x": x, "y": codes}, head=step.head))
            step = replace(step, values={**step.values, "x_q": found[made[x]].values["y"]})
        found.append(step)
        if "y" in step.values:
            made = {x: i for x, i in made.items() if x.value is not step.values["y"].value}
    return Steps.of(found)
