"""RWKV's token shift (arXiv:2305.13048): each token between itself and the one before it."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import (
    Case,
    Data,
    Expected,
    Run,
    batch,
    in_lane_order,
    rms_normed,
    rng,
    whole,
)
from llamaweb.kernels.kernel import BATCH, NORM, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.elementwise import plane
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import State, Step, Value, View


def token_shift(g: Graph, x: Tensor, lerp: Tensor, name: str) -> tuple[Tensor, ...]:
    """x[t] + (x[t - 1] - x[t]) * lerp[i], for each of the rows of lerp (n, 1, 1, count): so many tensors, as x (n, T).

    Before the first token, x is zero."""
    count = lerp.rows
    shifted = g.node("token_shift", name, (*x.shape, count), (x, lerp))
    return tuple(plane(g, shifted, i, f"{name}.{i}") for i in range(count))


class TokenShift(Operation):
    """Of one token, it may norm its input, and keeps it normed."""

    name = "token_shift"
    templates = ("token_shift",)
    in_lanes = frozenset({"x", "y"})
    parts = frozenset({"x"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, lerp = node.src
        y = Value(node.name, node.row, node.shape[1], planes=node.shape[2])
        low.put(node, View.of(y))
        state = State(node.name, 4 * x.row)
        low.emit(self.name, node.name, {"x": low.view(x), "y": View.of(y)}, {"lerp": (lerp,)}, state=state)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, y, p = step.values["x"], step.values["y"], step.params
        return token_shift_kernel(
            x.row,
            y.value.planes,
            y.n_tokens,
            (x.first, x.pitch),
            (y.pitch, y.value.plane_bytes // 4),
            eps=p.get("eps"),
            center_eps=p.get("center_eps"),
            norm_bias="norm_bias" in step.weights,
            lanes=tuple(sorted(step.lane_order)),
        )

    def case(self, kernel: Kernel) -> Case:
        """Three tokens behind others, or one."""
        c, random, n_past = dict(kernel.constants), rng(kernel), 5
        n, n_tokens = c["n"], 3 if c["several"] else 1
        x = random.standard_normal((n_tokens, n), np.float32)
        state = random.standard_normal(n, np.float32)
        lerp = random.random((c["planes"], n), np.float32)
        weight, bias = (random.standard_normal(n, np.float32) for _ in range(2))
        data = [whole("lerp", lerp), batch(n_tokens, n_past), whole("state", state)]
        normed: np.ndarray = x
        if c["norm"]:
            data.append(whole("norm_weight", in_lane_order(weight)))
            centered = x - x.mean(-1, keepdims=True) if c["norm"] == "layer" else x
            normed = rms_normed(centered, weight, c["eps"])
        if c["norm_bias"]:
            data.append(whole("norm_bias", in_lane_order(bias)))
            normed = normed + bias
        before = np.concatenate([state[None], normed[:-1]])
        y = normed + (before - normed) * lerp[:, None]
        rows, planes = np.arange(n_tokens), np.arange(c["planes"])[:, None]
        data.append(Data("x", 4 * (c["x"][0] + c["x"][1] * rows), _ordered(x, "x" in c["lanes"])))
        at = 4 * (c["y"][0] * rows + c["y"][1] * planes).reshape(-1)
        expected = (
            Expected("y", at, _ordered(y.reshape(-1, n), "y" in c["lanes"])),
            Expected("state", np.array([0]), normed[-1:].astype(np.float32)),
        )
        return Case((Run(kernel, (-(-n // c["workgroup"]), n_tokens, 1)),), tuple(data), expected)


def _ordered(rows: np.ndarray, lanes: bool) -> np.ndarray:
    return np.stack([in_lane_order(row) if lanes else row for row in rows.astype(np.float32)])


def token_shift_kernel(
    n: int,
    planes: int,
    n_tokens: int,
    x: tuple[int, int],
    y: tuple[int, int],
    *,
    eps: float | None = None,
    center_eps: float | None = None,
    norm_bias: bool = False,
    lanes: tuple[str, ...] = (),
) -> Launch:
    """x: where the first token's row begins, and how far from there the next one's is. y: how far apart rows and planes
    are. eps, center_eps, norm_bias, lanes: of one token's x, as mul_mat_vec's."""
    norm = "rms" if eps is not None else "layer" if center_eps is not None else None
    slots = [arena("x", "f32"), Slot("lerp", "f32", "read"), BATCH, Slot("state", "f32", "read_write")]
    slots += [Slot(NORM.name, "f32", "read")] if norm else []
    slots += [Slot("norm_bias", "f32", "read")] if norm_bias else []
    workgroup = 256 if norm else 64  # each of which norms the whole row
    shader = kernel(
        "token_shift",
        [*slots, arena("y", "f32")],
        n=n,
        row=-(-n // 32) * 32,
        planes=planes,
        several=n_tokens > 1,
        x=x,
        y=y,
        norm=norm,
        eps=center_eps if eps is None else eps,
        norm_bias=norm_bias,
        lanes=lanes,
        workgroup=workgroup,
    )
    return Launch(shader, (-(-n // workgroup), n_tokens, 1), 1 if n_tokens > 1 else 0)
