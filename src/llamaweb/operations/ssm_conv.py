"""A causal convolution along the tokens, each channel by itself, with a window that is kept from batch to batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, batch, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import State, Step


def ssm_conv(g: Graph, x: Tensor, weight: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
    """y[t] = the sum of weight[j] * x[t - taps + 1 + j] over its taps, plus bias, a channel: as x, (channels, T).

    weight: (taps, channels). Of tokens before the first, x is zero."""
    return g.node("ssm_conv", name, x.shape, (x, weight, *([bias] if bias else [])))


class SsmConv(Operation):
    name = "ssm_conv"
    templates = ("ssm_conv",)
    parts = frozenset({"x", "y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, weight, *bias = node.src
        weights = {"taps": (weight,)} | ({"shift": (bias[0],)} if bias else {})
        state = State(node.name, 4 * (weight.row - 1) * x.row)
        low.emit(self.name, node.name, {"x": low.view(x), "y": low.new(node)}, weights, state=state)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, y = step.values["x"], step.values["y"]
        (weight,) = step.weights["taps"]
        places = ((x.first, x.pitch), (y.first, y.pitch))
        return ssm_conv_kernel(weight.row, x.row, *places, bias="shift" in step.weights, in_place=x.value is y.value)

    def flops(self, use: Use) -> int:
        return 2 * int(use.constants["taps"]) * int(use.constants["channels"]) * use.tokens

    def written(self, slot: str) -> bool:
        return slot in ("y", "state")

    def case(self, kernel: Kernel) -> Case:
        """Three tokens behind others."""
        c, random, n_tokens, n_past = dict(kernel.constants), rng(kernel), 3, 5
        taps, channels = c["taps"], c["channels"]
        n_tokens = n_tokens if c["x_pitch"] and c["y_pitch"] else 1
        x = random.standard_normal((n_tokens, channels), np.float32)
        state = random.standard_normal((channels, taps - 1), np.float32)
        weight = random.standard_normal((channels, taps), np.float32)
        shift = random.standard_normal(channels, np.float32) * c["bias"]
        seen = np.concatenate([state.T, x])
        y = sum(seen[j : j + n_tokens] * weight[:, j] for j in range(taps)) + shift
        rows = np.arange(n_tokens)
        data = [
            Data(c["x"], 4 * (c["x_first"] + c["x_pitch"] * rows), x),
            whole("taps", weight),
            batch(n_tokens, n_past),
            whole("state", state),
            *([whole("shift", shift)] if c["bias"] else []),
        ]
        expected = (
            Expected("y", 4 * (c["y_first"] + c["y_pitch"] * rows), y.astype(np.float32)),
            Expected("state", np.array([0]), seen[n_tokens:].T.reshape(1, -1).astype(np.float32)),
        )
        return Case((Run(kernel, (-(-channels // c["workgroup"]), 1, 1)),), tuple(data), expected)


def ssm_conv_kernel(
    taps: int,
    channels: int,
    x: tuple[int, int],
    y: tuple[int, int],
    *,
    bias: bool = False,
    in_place: bool = False,
) -> Launch:
    """x, y: where the first token's channels begin, and how far from there the next token's are."""
    slots = [*([] if in_place else [arena("x", "f32")]), Slot("taps", "f32", "read")]
    slots += [Slot("shift", "f32", "read")] if bias else []
    shader = kernel(
        "ssm_conv",
        [*slots, BATCH, Slot("state", "f32", "read_write"), arena("y", "f32")],
        taps=taps,
        channels=channels,
        bias=bias,
        x="y" if in_place else "x",
        x_first=x[0],
        x_pitch=x[1],
        y_first=y[0],
        y_pitch=y[1],
        workgroup=64,
    )
    return Launch(shader, (-(-channels // 64), 1, 1))
