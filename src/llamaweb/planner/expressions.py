"""Rules of fusion for what is computed number by number: several steps as one, or within the step before or behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llamaweb.graph import Tensor
from llamaweb.operations import OPERATIONS
from llamaweb.operations.operand import Expression
from llamaweb.operations.step import Step, View
from llamaweb.planner.program import Program

_MOST_OPERANDS = 4


def results(program: Program, max_bindings: int) -> None:
    """operations number by number within the convolution, recurrence or norm whose result they are of"""
    for i, step in program.of(*(op.name for op in OPERATIONS.values() if op.epilogue)):
        y = step.values["y"]
        j, behind = program.reader(y.value)
        if behind is None or not _alike(behind) or behind.head != step.head or "groups" in step.params:
            continue
        if not y.whole or len(program.writers(y.value)) > 1:
            continue
        if behind.values["y"].apart and "y" not in OPERATIONS[step.op].apart:
            continue
        others = dict.fromkeys(view for view in (*_operands(behind), step.values.get("gate", y)) if view != y)
        if len(others) > 1 or any(view.value is y.value for view in others):
            continue
        before = step.params.get("epilogue", 0)
        expression = _over(behind.params["expression"], [before if v == y else 1 for v in _operands(behind)])
        values = {**step.values, **dict(zip(("gate",), others, strict=False)), "y": behind.values["y"]}
        fused = replace(step, values=values).but(epilogue=expression)
        if _bindings(fused) <= max_bindings:
            program.put(i, None)
            program.put(j, fused)


def inputs(program: Program, max_bindings: int) -> None:
    """operations number by number within the convolution that reads their result"""
    for i, step in program.of(*(op.name for op in OPERATIONS.values() if op.prologue)):
        x = step.values["x"]
        j, before = program.writer(x.value)
        if before is None or not _alike(before) or before.values["y"] != x or "prologue" in step.params:
            continue
        operands = list(dict.fromkeys(_operands(before)))
        if len(operands) > 2 or len(program.readers(x.value)) > 1:
            continue
        expression = _over(before.params["expression"], [operands.index(view) for view in _operands(before)])
        fused = replace(step, values={**step.values, **dict(zip(("x", "x1"), operands, strict=False))})
        if _bindings(fused) <= max_bindings:
            program.put(j, None)
            program.put(i, fused.but(prologue=expression))


def convolutions(program: Program, max_bindings: int) -> None:
    """a convolution of one token within the recurrence that reads it"""
    for i, conv in program.of("ssm_conv"):
        y = conv.values["y"]
        j, step = program.reader(y.value)
        if step is None or y.n_tokens > 1 or set(conv.values) != {"x", "y"} or "prologue" in conv.params:
            continue
        slot = OPERATIONS[step.op].convolves
        if not slot or step.values[slot] != y or step.head != conv.head:
            continue
        values, weights = {**step.values, slot: conv.values["x"]}, {**step.weights, **conv.weights}
        window = {"conv_state": conv.params["state"], "convolved": conv.params.get("epilogue", 0)}
        fused = replace(step, values=values, weights=weights).but(**window)
        if _bindings(fused) <= max_bindings:
            program.put(i, None)
            program.put(j, fused)


def chains(program: Program, max_bindings: int) -> None:
    """operations number by number, of which one reads what the other computes, as one"""
    for i, step in program.of("elementwise"):
        y = step.values["y"]
        j, behind = program.reader(y.value)
        if behind is None or behind.op != "elementwise" or not y.whole or len(program.writers(y.value)) > 1:
            continue
        if any(set(each.params) != {"expression"} for each in (step, behind)) or behind.values["y"].row != y.row:
            continue
        sources = [source for source in _sources(behind) if source != y]
        if any(isinstance(source, View) and source.value is y.value for source in sources):
            continue
        read = [source.value for source in _sources(step) if isinstance(source, View)]
        if any(i < at < j for value in read for at, _ in program.writers(value)):
            continue  # a sum is written over what it reads
        operands = list(dict.fromkeys([*_sources(step), *sources]))
        inner = _over(step.params["expression"], [operands.index(source) for source in _sources(step)])
        places = [inner if source == y else operands.index(source) for source in _sources(behind)]
        slots = {f"x{n}": source for n, source in enumerate(operands)}
        values = {slot: source for slot, source in slots.items() if isinstance(source, View)}
        weights = {slot: (source,) for slot, source in slots.items() if isinstance(source, Tensor)}
        fused = replace(behind, values={**values, "y": behind.values["y"]}, weights={**weights})
        if len(operands) <= _MOST_OPERANDS and _bindings(fused) <= max_bindings:
            program.put(i, None)
            program.put(j, fused.but(expression=_over(behind.params["expression"], places)))


def _alike(step: Step) -> bool:
    """Whether it computes number i out of numbers i of values alone."""
    y = step.values["y"]
    plain = step.op == "elementwise" and set(step.params) == {"expression"} and not step.weights
    return plain and all((v.row, v.n_tokens) == (y.row, y.n_tokens) for v in _operands(step))


def _operands(step: Step) -> list[View]:
    """In the order of an expression's indices."""
    return [step.values[slot] for slot in sorted(step.values) if slot != "y"]


def _sources(step: Step) -> list[View | Tensor]:
    """The same, weights among them."""
    slots = sorted({*step.values, *step.weights} - {"y"})
    return [step.values[slot] if slot in step.values else step.weights[slot][0] for slot in slots]


def _over(expression: Expression, operands: Sequence[Expression]) -> Expression:
    """An expression over others."""
    if isinstance(expression, int):
        return operands[expression]
    if isinstance(expression, tuple):
        name, *parts = expression
        return (name, *(_over(part, operands) for part in parts))
    return expression


def _bindings(step: Step) -> int:
    """At most so many, with the batch and what it keeps; a value is bound once."""
    values = {(view.value, view.plane) for view in step.values.values()}
    return len(values) + len(step.weights) + len(step.states) + 1
