"""A gated linear unit with few open gates: those far above the others of their row, as if these were a Gaussian's."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, gelu, lane_place, rng
from llamaweb.kernels.kernel import Kernel, Launch, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import Step


def gaussian_geglu(g: Graph, gate: Tensor, up: Tensor, name: str, *, deviations: float) -> Tensor:
    """gelu(max(gate - cutoff, 0)) * up, where cutoff is so many standard deviations of the row above its mean."""
    return g.node("gaussian_geglu", name, gate.shape, (gate, up), deviations=deviations)


class GaussianGeglu(Operation):
    name = "gaussian_geglu"
    templates = ("gaussian_geglu",)
    in_lanes = frozenset({"y"})
    parts = frozenset({"gate", "up"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        gate, up = (low.view(src) for src in node.src)
        low.emit(self.name, node.name, {"gate": gate, "up": up, "y": low.new(node)}, **node.params)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        gate, up, y = (step.values[slot] for slot in ("gate", "up", "y"))
        places = {slot: (view.first, view.pitch) for slot, view in step.values.items()}
        beside, lanes = up.value is gate.value, "y" in step.lane_order
        return gaussian_geglu_kernel(y.row, y.n_tokens, step.params["deviations"], places, beside=beside, lanes=lanes)

    def case(self, kernel: Kernel) -> Case:
        """Three tokens, or one in lane order."""
        c, random = dict(kernel.constants), rng(kernel)
        n, places = c["n"], dict(c["places"])
        rows = np.arange(1 if c["lanes"] else 3)
        gate, up = random.standard_normal((2, len(rows), n), np.float32)
        at = {slot: 4 * (first + pitch * rows) for slot, (first, pitch) in places.items()}
        data = (Data("gate", at["gate"], gate), Data(c["up"], at["up"], up))
        y = gated(gate, up, c["deviations"]).astype(np.float32)
        expected = Expected("y", 4 * lane_place(np.arange(n), n), y.T) if c["lanes"] else Expected("y", at["y"], y)
        return Case((Run(kernel, (1, len(rows), 1)),), data, (expected,))


def gated(gate: np.ndarray, up: np.ndarray, deviations: float) -> np.ndarray:
    """The operation in numpy, along rows."""
    gate = gate.astype(np.float64)
    deviation = np.sqrt(np.square(gate - gate.mean(-1, keepdims=True)).sum(-1, keepdims=True) / (gate.shape[-1] - 1))
    return gelu(np.maximum(gate - gate.mean(-1, keepdims=True) - deviations * deviation, 0)) * up


def gaussian_geglu_kernel(
    n: int,
    n_tokens: int,
    deviations: float,
    places: dict[str, tuple[int, int]],
    *,
    beside: bool = False,
    lanes: bool = False,
) -> Launch:
    """places: of gate, up and y, where the first token's row begins, and how far from there the next one's is. beside:
    gate and up are parts of one value, in slot gate. lanes: y, of one token, is in lane order."""
    shader = kernel(
        "gaussian_geglu",
        [arena(slot, "f32") for slot in (["gate", "y"] if beside else ["gate", "up", "y"])],
        n=n,
        deviations=deviations,
        places=tuple(sorted(places.items())),
        up="gate" if beside else "up",
        lanes=lanes,
        workgroup=256 if n_tokens == 1 else 64,
    )
    return Launch(shader, (1, n_tokens, 1), 1 if n_tokens > 1 else 0)
