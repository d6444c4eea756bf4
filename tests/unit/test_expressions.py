"""Rules over steps that compute number by number: what becomes one step, and what must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llamaweb.graph import Tensor
from llamaweb.operations.step import State, Step, Value, View
from llamaweb.planner.expressions import chains, convolutions, inputs, results
from llamaweb.planner.program import Program

GATED = ("mul", 0, ("silu", 1))


def value(name: str, row: int = 64, n_tokens: int = 8) -> View:
    return View.of(Value(name, row, n_tokens))


X, Y, Z, OUT, MORE = (value(name) for name in ("x", "y", "z", "out", "more"))
BIAS = Tensor("bias", "weight", (64,))


def each(expression: Any, y: View, *operands: View | Tensor, head: bool = False, **params: Any) -> Step:
    slots = {f"x{i}": operand for i, operand in enumerate(operands)}
    values = {slot: operand for slot, operand in slots.items() if isinstance(operand, View)}
    weights: Any = {slot: (operand,) for slot, operand in slots.items() if isinstance(operand, Tensor)}
    return Step("elementwise", "each", {**values, "y": y}, weights, {"expression": expression, **params}, head)


def step(op: str, y: View = Y, **params: Any) -> Step:
    return Step(op, op, {"x": X, "y": y}, {"taps": (BIAS,)}, params)


def fused(rule: Any, *steps: Step, max_bindings: int = 8) -> list[Step]:
    program = Program(steps)
    rule(program, max_bindings)
    return program.steps


@pytest.mark.parametrize("op", ["ssm_conv", "ssm_scan", "norm"])
def test_a_gate_goes_into_what_computes_the_gated(op: str) -> None:
    for gate in (each(GATED, OUT, Y, Z), each(("mul", ("silu", 0), 1), OUT, Z, Y)):
        (found,) = fused(results, step(op), gate)
        assert (found.op, found.values) == (op, {"x": X, "gate": Z, "y": OUT})
        assert found.params["epilogue"] in (GATED, ("mul", ("silu", 1), 0))


def test_a_gate_may_lie_in_groups_and_so_may_a_recurrence_s_result() -> None:
    gate, out = value("both", 128).groups(16, 16, 32), value("heads", 128).groups(0, 16, 32)
    assert fused(results, step("norm"), each(GATED, OUT, Y, gate))[0].values["gate"] == gate
    (found,) = fused(results, step("ssm_scan"), each(GATED, out, Y, gate))
    assert (found.values["gate"], found.values["y"]) == (gate, out)


def test_functions_behind_each_other_are_one_epilogue() -> None:
    (found,) = fused(results, step("ssm_conv"), each(("silu", 0), Z, Y), each(("mul", 1, 0), OUT, Z, MORE))
    assert (found.values["gate"], found.values["y"]) == (MORE, OUT)
    assert found.params["epilogue"] == ("mul", 1, ("silu", 0))


def test_it_is_computed_when_the_gate_is_there() -> None:
    gate = Step("mul_mat", "gate", {"x": X, "y": Z})
    assert [s.op for s in fused(results, step("ssm_conv"), gate, each(GATED, OUT, Y, Z))] == ["mul_mat", "ssm_conv"]


OTHERS = {
    "of two others": [step("ssm_conv"), each(("add", 0, ("mul", 1, 2)), OUT, Y, Z, MORE)],
    "read twice": [step("ssm_conv"), each(("silu", 0), OUT, Y), each(("silu", 0), MORE, Y)],
    "a part is read": [step("ssm_conv"), each(("silu", 0), value("o", 32), Y.part(0, 32))],
    "of another part": [step("ssm_conv", Y.part(0, 32)), each(("silu", 0), OUT, Y)],
    "a weight": [step("ssm_conv"), each(("add", 0, 1), OUT, Y, BIAS)],
    "it repeats": [step("ssm_conv"), each(GATED, OUT, Y, value("z", 16))],
    "for the logits alone": [step("ssm_conv"), each(("silu", 0), OUT, Y, head=True)],
    "of the last row": [step("ssm_conv"), each(0, value("o", 64, 1), Y, last_row=True)],
    "of several norms": [step("norm", groups=()), each(("silu", 0), OUT, Y)],
    "of a product": [step("mul_mat"), each(GATED, OUT, Y, Z)],
    "into groups": [step("norm"), each(("silu", 0), value("o", 128).groups(0, 16, 32), Y)],
}


@pytest.mark.parametrize("steps", OTHERS.values(), ids=OTHERS)
def test_what_a_kernel_cannot_do_stays(steps: list[Step]) -> None:
    assert len(fused(results, *steps)) == len(steps)


def test_a_second_gate_stays() -> None:
    gate = each(GATED, Z, Y, MORE)
    assert len(fused(results, step("ssm_conv"), gate, each(("add", 0, 1), OUT, Z, X))) == 2
    assert len(fused(results, step("ssm_conv"), gate, each(("add", 0, 1), OUT, Z, MORE))) == 1  # it is the first one


def test_more_bindings_than_a_device_has_are_not_asked_for() -> None:
    gate = each(GATED, OUT, Y, Z)
    assert [len(fused(results, step("ssm_conv"), gate, max_bindings=n)) for n in (4, 5)] == [2, 1]  # x, z, y, 2 more
    inner = each(("mul", 0, 1), X, Z, MORE)
    assert [len(fused(inputs, inner, step("ssm_conv"), max_bindings=n)) for n in (4, 5)] == [2, 1]


def test_parts_of_one_value_are_bound_once() -> None:
    joint = Value("joint", 192, 8)
    parts = [View(joint, 64, first) for first in (0, 64, 128)]
    steps = each(("mul", 0, 1), X, *parts[:2]), step("ssm_conv"), each(("mul", 1, 0), OUT, Y, parts[2])
    (found,) = fused(results, *fused(inputs, *steps, max_bindings=4), max_bindings=4)
    assert found.values == {"x": parts[0], "x1": parts[1], "gate": parts[2], "y": OUT}
    assert (found.params["prologue"], found.params["epilogue"]) == (("mul", 0, 1), ("mul", 1, 0))


def test_a_convolution_computes_its_input() -> None:
    (found,) = fused(inputs, each(("mul", 0, 0), X, Z), step("ssm_conv"))
    assert (found.values, found.params) == ({"x": Z, "y": Y}, {"prologue": ("mul", 0, 0)})
    three = each(("add", 0, ("mul", 1, 2)), X, Z, MORE, OUT)
    again = each(("silu", 0), MORE, X)
    assert len(fused(inputs, three, step("ssm_conv"))) == 2
    assert len(fused(inputs, each(("silu", 0), X, Z), step("ssm_conv"), again)) == 3  # which reads it, too
    assert len(fused(inputs, each(("add", 0, 1), X, Z, BIAS), step("ssm_conv"))) == 2


ONE = {name: value(name, 64, 1) for name in ("x", "y", "z", "out")}
KEPT = {"conv_state": State("conv", 8), "state": State("state", 8)}


def pair(of: View, seen: View, **params: Any) -> tuple[Step, Step]:
    """A convolution, and a scan of what it sees."""
    conv = Step("ssm_conv", "conv", {"x": of, "y": seen}, {"taps": (BIAS,)}, {"state": KEPT["conv_state"], **params})
    values = {"xbc": seen, "dt": ONE["z"], "y": ONE["out"]}
    return conv, Step("ssm_scan", "scan", values, {"of_heads": (BIAS,)}, {"state": KEPT["state"]})


def test_a_token_s_convolution_goes_into_its_recurrence_with_both_states() -> None:
    (found,) = fused(convolutions, *pair(ONE["x"], ONE["y"], epilogue=("silu", 0)))
    assert (found.op, found.values["xbc"], list(found.weights)) == ("ssm_scan", ONE["x"], ["of_heads", "taps"])
    assert (found.params["convolved"], found.states) == (("silu", 0), KEPT)


def test_a_convolution_of_a_batch_or_with_gates_or_of_others_is_one_of_its_own() -> None:
    x, y = ONE["x"], ONE["y"]
    assert len(fused(convolutions, *pair(X, Y))) == 2
    assert len(fused(convolutions, *pair(x, y, prologue=("mul", 0, 0)))) == 2
    conv, scan = pair(x, y)
    assert len(fused(convolutions, replace(conv, values={**conv.values, "gate": ONE["z"]}), scan)) == 2
    assert len(fused(convolutions, conv, each(("silu", 0), ONE["z"], y), scan)) == 3
    assert len(fused(convolutions, conv, replace(scan, op="mul_mat_vec"))) == 2
    assert len(fused(convolutions, conv, scan, max_bindings=7)) == 2  # x, dt, y, of_heads, taps, both states, the batch


def test_a_chain_is_one_expression_over_each_operand_once() -> None:
    first, second = each(("mul", 0, 2.0), Y, X), each(("add", 0, ("mul", 1, 2)), OUT, X, Y, Z)
    (found,) = fused(chains, first, second)
    assert found.params["expression"] == ("add", 0, ("mul", ("mul", 0, 2.0), 1))
    assert found.values == {"x0": X, "x1": Z, "y": OUT}


def test_a_chain_takes_weights_and_what_repeats() -> None:
    short = value("short", 16)
    (found,) = fused(chains, each(("add", 0, 1), Y, X, BIAS), each(("mul", 0, 1), OUT, Y, short))
    assert found.params["expression"] == ("mul", ("add", 0, 1), 2)
    assert (found.values, found.weights) == ({"x0": X, "x2": short, "y": OUT}, {"x1": (BIAS,)})


SHORT, WIDE = value("short", 16), value("wide", 128)
STAY = {
    "five operands": [
        each(("add", 0, ("mul", 1, 2)), Y, X, Z, BIAS),
        each(("add", 0, ("mul", 1, 2)), OUT, Y, MORE, SHORT),
    ],
    "the last row": [each(("silu", 0), Y, X), each(0, value("o", 64, 1), Y, last_row=True)],
    "into groups": [each(0, WIDE.groups(0, 16, 32), X), each(("silu", 0), value("o", 128), WIDE)],
    "of what is written over": [
        each(("silu", 0), Y, X),
        Step("mul_mat", "residual", {"x": Z, "y": X}, params={"epilogue": "add"}),
        each(("mul", 0, 1), OUT, Y, X),
    ],
    "of a part": [each(("silu", 0), Y, X), each(("silu", 0), value("o", 32), Y.part(32, 32))],
    "of all and of a part": [each(("silu", 0), Y, X), each(("mul", 0, 1), OUT, Y, Y.part(0, 32))],
    "repeated": [each(("silu", 0), SHORT, value("x", 16)), each(("mul", 0, 1), OUT, Z, SHORT)],
    "read twice": [each(("silu", 0), Y, X), each(("silu", 0), OUT, Y), each(("tanh", 0), MORE, Y)],
}


@pytest.mark.parametrize("steps", STAY.values(), ids=STAY)
def test_chains_of_other_numbers_stay(steps: list[Step]) -> None:
    assert len(fused(chains, *steps)) == len(steps)
