"""Products of one token that read planes of one value, as one dispatch: a rule of fusion."""

from __future__ import annotations

from llamaweb.kernels.kernel import GLU
from llamaweb.operations.mul_mat_vecs import joined, together
from llamaweb.operations.step import Step, Value, View
from llamaweb.planner.program import Program, reads_parts


def planes(program: Program, max_bindings: int) -> None:
    """products of one token, each of an input of its own, as one dispatch"""
    for i, first in program.of("mul_mat_vec"):
        if not _simple(first):
            continue
        group = [(i, first)]
        readers = ((j, step) for j, step in program.readers(first.values["x"].value) if j > i and _simple(step))
        for j, other in (each for each in readers if _side_by_side(program, first, each[1])):
            if together([step.weights["w"][0] for _, step in (*group, (j, other))], max_bindings):
                group.append((j, other))
        if len(group) > 1:
            _join(program, group)


def _simple(step: Step) -> bool:
    """Whether it is a product that reads a plane, and does nothing but what any may."""
    known = {*step.values, *step.weights, *step.params} <= {"x", "y", "w", "epilogue"}
    alone = step.op == "mul_mat_vec" and known and len(step.weights["w"]) == 1
    return alone and step.values["x"].plane is not None and step.params.get("epilogue") not in (*GLU, "add")


def _side_by_side(program: Program, product: Step, other: Step) -> bool:
    """Whether results of both are in one value, or may be put into one."""
    y, z = product.values["y"], other.values["y"]
    return y.value is z.value or all(_may_move(program, view) for view in (y, z))


def _may_move(program: Program, y: View) -> bool:
    """Whether a result has a value of its own, which may as well be a plane of another."""
    return y.whole and y.plane is None and _reads_planes(program, y.value)


def _reads_planes(program: Program, value: Value) -> bool:
    """Whether all that reads a value could as well read a plane of another."""
    return all(step.op == "mul_mat_vec" for _, step in program.readers(value)) or reads_parts(program, value)


def _join(program: Program, group: list[tuple[int, Step]]) -> None:
    steps = [step for _, step in group]
    y = [step.values["y"] for step in steps]
    if y[0].value is not y[1].value:
        value = Value("+".join(view.value.name for view in y), max(view.row for view in y), 1, planes=len(y))
        planes = [View(value, view.row, plane=plane) for plane, view in enumerate(y)]
        for view, plane in zip(y, planes, strict=True):
            program.substitute(view.value, plane)
        y = planes
    for i, _ in group:
        program.put(i, None)
    program.put(group[0][0], joined(steps, y))
