"""A causal convolution along the tokens, each channel by itself, with a window that is kept from batch to batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, batch, evaluated, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operand import Expression, Operand, bound, operands
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.recurrence import expected_state
from llamaweb.operations.step import State, Step

RUN = 16  # tokens that an invocation goes through, or as many as a window has


def ssm_conv(g: Graph, x: Tensor, weight: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
    """y[t] = the sum of weight[j] * x[t - taps + 1 + j] over its taps, plus bias, a channel: as x, (channels, T).

    weight: (taps, channels). Of tokens before the first, x is zero."""
    return g.node("ssm_conv", name, x.shape, (x, weight, *([bias] if bias else [])))


class SsmConv(Operation):
    """Step: x may be an expression over x and x1, params["prologue"], and y one over the result and "gate"."""

    name = "ssm_conv"
    templates = ("ssm_conv",)
    case_tokens = RUN + 1
    in_lanes = frozenset({"y"})
    parts = apart = frozenset({"x", "x1", "gate", "y"})
    prologue = True
    epilogue = True

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, weight, *bias = node.src
        weights = {"taps": (weight,)} | ({"shift": (bias[0],)} if bias else {})
        state = State(node.name, 4 * weight.row * x.row)
        low.emit(self.name, node.name, {"x": low.groups(x), "y": low.new(node)}, weights, state=state)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p, y = step.params, step.values["y"]
        taps, bias = step.weights["taps"][0].row, "shift" in step.weights
        expressions = p.get("prologue", 0), p.get("epilogue", 0)
        return ssm_conv_kernel(taps, y.row, y.n_tokens, operands(step), *expressions, bias=bias)

    def flops(self, use: Use) -> int:
        return 2 * int(use.constants["taps"]) * int(use.constants["channels"]) * use.tokens

    def case(self, kernel: Kernel, n_tokens: int = 0, n_past: int = 5) -> Case:
        """Unless told, one token more than it takes at a time, or one, behind others."""
        c, random = dict(kernel.constants), rng(kernel)
        of: dict[str, Operand] = dict(c["operands"])
        taps, channels = c["taps"], c["channels"]
        n_tokens = n_tokens or (c["run"] + 1 if of["y"].pitch else 1)
        inputs = {slot: random.standard_normal((n_tokens, channels), np.float32) for slot in of if slot != "y"}
        state = random.standard_normal((taps, channels), np.float32)
        weight = random.standard_normal((channels, taps), np.float32)
        shift = random.standard_normal(channels, np.float32) * c["bias"]
        x = evaluated(c["prologue"], [inputs[slot] for slot in ("x", "x1") if slot in inputs])
        y, after = convolved(x, state, weight, n_past)
        y = evaluated(c["epilogue"], [y + shift, *([inputs["gate"]] if "gate" in inputs else [])])
        data = [
            *(of[slot].data(values) for slot, values in inputs.items()),
            *(whole("taps", weight), batch(n_tokens, n_past), whole("state", state)),
            *([whole("shift", shift)] if c["bias"] else []),
        ]
        workgroups = (-(-channels // c["workgroup"]), -(-n_tokens // c["run"]), 1)
        expected = (of["y"].expected(y), expected_state(after))
        return Case((Run(kernel, workgroups),), tuple(data), expected)


def convolved(x: np.ndarray, state: np.ndarray, weight: np.ndarray, n_past: int) -> tuple[np.ndarray, np.ndarray]:
    """In numpy: y (tokens, channels), and the state behind it: the input at position p is its row p % taps."""
    taps = len(state)
    positions = np.arange(n_past - taps + 1, n_past)
    seen = np.concatenate([state[positions % taps] * (positions >= 0)[:, None], x])
    y = sum(seen[j : j + len(x)] * weight[:, j] for j in range(taps))
    after = state.astype(np.float64)
    last = np.arange(n_past, n_past + len(x))[1 - taps :]
    after[last % taps] = x[1 - taps :]
    return np.asarray(y), after


@dataclass(frozen=True)
class Convolution:
    """A convolution within the kernel that reads its result of one token (wgsl/common/conv.wgsl). epilogue: what
    becomes of the result."""

    taps: int
    channels: int
    bias: bool
    epilogue: Expression

    @classmethod
    def of(cls, step: Step) -> Convolution | None:
        """Of a step that has taken one in."""
        if "conv_state" not in step.params:
            return None
        weight = step.weights["taps"][0]
        return cls(weight.row, weight.rows, "shift" in step.weights, step.params["convolved"])

    @property
    def slots(self) -> list[Slot]:
        names = ("taps", "shift") if self.bias else ("taps",)
        return [*(Slot(name, "f32", "read") for name in names), Slot("conv_state", "f32", "read_write")]

    def case(self, x: np.ndarray, n_past: int, random: np.random.Generator) -> tuple[np.ndarray, list[Data], Expected]:
        """Of a token's channels: what the kernel is to read, the data that it needs, and what it must leave."""
        state, weight = random.standard_normal((2, self.channels, self.taps), np.float32)
        shift = random.standard_normal(self.channels, np.float32) * self.bias
        y, after = convolved(x, state.T, weight, n_past)
        data = [whole("taps", weight), whole("conv_state", state.T), *([whole("shift", shift)] if self.bias else [])]
        return evaluated(self.epilogue, [y + shift]), data, expected_state(after, "conv_state")


def ssm_conv_kernel(
    taps: int,
    channels: int,
    n_tokens: int,
    of: Mapping[str, Operand],
    prologue: Expression = 0,
    epilogue: Expression = 0,
    *,
    bias: bool = False,
) -> Launch:
    """of: where x, x1, gate and y are. prologue: of x and x1, if there is one; epilogue: of the result and gate."""
    slots = [*bound(of), Slot("taps", "f32", "read"), *([Slot("shift", "f32", "read")] if bias else [])]
    run = max(RUN, taps - 1)  # so that the first run alone reads what is kept
    shader = kernel(
        "ssm_conv",
        [*slots, BATCH, Slot("state", "f32", "read_write"), arena("y", "f32")],
        taps=taps,
        channels=channels,
        bias=bias,
        operands=tuple(sorted(of.items())),
        prologue=prologue,
        epilogue=epilogue,
        run=run,
        workgroup=64,
    )
    return Launch(shader, (-(-channels // 64), -(-n_tokens // run), 1), run)
