"""Mamba 2's recurrence (arXiv:2405.21060): a state a head, that fades and takes in each token."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, batch, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import State, Step


def ssm_scan(
    g: Graph,
    xbc: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    a: Tensor,
    d: Tensor,
    sizes: tuple[int, int, int],
    name: str,
) -> Tensor:
    """For each token and head, with dt = softplus(dt + dt_bias): S = exp(dt a) S + dt x (x) B; y = S C + d x:
    (n_head * head_dim, T).

    sizes: head_dim, d_state, n_group. xbc: x of all heads, then B and C of all groups of heads, d_state numbers each.
    dt: (n_head, T); dt_bias, a, d: of each head. S is zero before the first token."""
    n_head, (head_dim, d_state, n_group) = dt.row, sizes
    params = {"head_dim": head_dim, "d_state": d_state, "n_group": n_group, "n_head": n_head}
    return g.node("ssm_scan", name, (n_head * head_dim, xbc.rows), (xbc, dt, dt_bias, a, d), **params)


class SsmScan(Operation):
    name = "ssm_scan"
    templates = ("ssm_scan",)
    parts = frozenset({"xbc", "dt", "y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        xbc, dt, *vectors = node.src
        p = node.params
        weights = {slot: (vector,) for slot, vector in zip(("dt_bias", "a", "d"), vectors, strict=True)}
        values = {"xbc": low.view(xbc), "dt": low.view(dt), "y": low.new(node)}
        state = State(node.name, 4 * p["n_head"] * p["head_dim"] * p["d_state"])
        low.emit(self.name, node.name, values, weights, state=state, **p)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p = step.params
        places = {slot: (view.first, view.pitch) for slot, view in step.values.items()}
        return ssm_scan_kernel(p["n_head"], p["head_dim"], p["d_state"], p["n_group"], places)

    def flops(self, use: Use) -> int:
        c = use.constants
        return 6 * int(c["n_head"]) * int(c["head_dim"]) * int(c["d_state"]) * use.tokens

    def moved(self, slot: str, use: Use) -> int:
        return use.sizes[slot] * (2 if slot == "state" else 1)

    def written(self, slot: str) -> bool:
        return slot in ("y", "state")

    def case(self, kernel: Kernel) -> Case:
        """Two tokens behind others, or one."""
        c, random, n_past = dict(kernel.constants), rng(kernel), 5
        places = dict(c["places"])
        n_tokens = 2 if places["y"][1] else 1
        n_head, dim, n, groups = c["n_head"], c["head_dim"], c["d_state"], c["n_group"]
        xbc = random.standard_normal((n_tokens, n_head * dim + 2 * groups * n), np.float32)
        dt = random.standard_normal((n_tokens, n_head), np.float32)
        bias, skip = (random.standard_normal(n_head, np.float32) for _ in range(2))
        fade = -np.exp(random.standard_normal(n_head, np.float32))
        state = random.standard_normal((n_head, n, dim), np.float32)
        y, after = scanned(xbc, dt, bias, fade, skip, state.astype(np.float64), dim, n, groups)
        rows = np.arange(n_tokens)
        data = [
            *(Data(s, 4 * (places[s][0] + places[s][1] * rows), v) for s, v in (("xbc", xbc), ("dt", dt))),
            *(whole(slot, vector) for slot, vector in (("dt_bias", bias), ("a", fade), ("d", skip))),
            *(batch(n_tokens, n_past), whole("state", state)),
        ]
        expected = (
            Expected("y", 4 * (places["y"][0] + places["y"][1] * rows), y.astype(np.float32)),
            whole_expected("state", after),
        )
        return Case((Run(kernel, (n_head, -(-dim // c["workgroup"]), 1)),), tuple(data), expected)


def whole_expected(slot: str, values: np.ndarray) -> Expected:
    return Expected(slot, np.array([0]), values.astype(np.float32).reshape(1, -1))


def scanned(
    xbc: np.ndarray,
    dt: np.ndarray,
    dt_bias: np.ndarray,
    a: np.ndarray,
    d: np.ndarray,
    state: np.ndarray,
    head_dim: int,
    d_state: int,
    n_group: int,
) -> tuple[np.ndarray, np.ndarray]:
    """In numpy: y (tokens, n_head * head_dim), and the state (n_head, d_state, head_dim) behind it."""
    n_head = len(a)
    inner = n_head * head_dim
    each = []
    for row, step in zip(xbc.astype(np.float64), np.logaddexp(0, dt.astype(np.float64) + dt_bias), strict=True):
        x = row[:inner].reshape(n_head, head_dim)
        b, c = row[inner:].reshape(2, n_group, d_state).repeat(n_head // n_group, axis=1)
        state = state * np.exp(step * a)[:, None, None] + (step[:, None] * b)[:, :, None] * x[:, None]
        each.append((np.einsum("hnp,hn->hp", state, c) + d[:, None] * x).reshape(-1))
    return np.stack(each), state


def ssm_scan_kernel(
    n_head: int, head_dim: int, d_state: int, n_group: int, places: dict[str, tuple[int, int]]
) -> Launch:
    """places: of xbc, dt and y, where the first token's numbers begin, and how far from there the next token's are."""
    vectors = [Slot(name, "f32", "read") for name in ("dt_bias", "a", "d")]
    slots = [arena("xbc", "f32"), arena("dt", "f32"), *vectors, BATCH, Slot("state", "f32", "read_write")]
    shader = kernel(
        "ssm_scan",
        [*slots, arena("y", "f32")],
        n_head=n_head,
        head_dim=head_dim,
        d_state=d_state,
        n_group=n_group,
        places=tuple(sorted(places.items())),
        workgroup=32,
    )
    return Launch(shader, (n_head, -(-head_dim // 32), 1))
