"""Mamba 2's recurrence (arXiv:2405.21060): a state a head, that fades and takes in each token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Run, batch, evaluated, rng, whole
from llamaweb.kernels.kernel import BATCH, Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operand import Expression, Operand, bound, operands
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.recurrence import MOST_CHUNK, Spread, chunk, expected_state, in_fours, padded
from llamaweb.operations.ssm_conv import Convolution
from llamaweb.operations.step import State, Step

_WORKGROUP = 128
_PARTS = 16  # of a row


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
    """Step: y may be an expression over the result and "gate", and xbc what a convolution with the state
    params["conv_state"] makes of it."""

    name = "ssm_scan"
    templates = ("ssm_scan",)
    case_tokens = MOST_CHUNK + 1
    in_lanes = frozenset({"y"})
    parts = frozenset({"xbc", "dt", "gate", "y"})
    apart = frozenset({"dt", "gate", "y"})
    epilogue = True
    convolves = "xbc"

    def lower(self, node: Tensor, low: Lowering) -> None:
        xbc, dt, *of_heads = node.src
        p = node.params
        values = {"xbc": low.view(xbc), "dt": low.groups(dt), "y": low.new(node)}
        state = State(node.name, 4 * p["n_head"] * p["head_dim"] * in_fours(p["d_state"]))
        low.emit(self.name, node.name, values, {"of_heads": tuple(of_heads)}, state=state, **p)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p = step.params
        sizes = p["n_head"], p["head_dim"], p["d_state"], p["n_group"]
        return ssm_scan_kernel(*sizes, operands(step), p.get("epilogue", 0), Convolution.of(step))

    def flops(self, use: Use) -> int:
        c = use.constants
        return 6 * int(c["n_head"]) * int(c["head_dim"]) * int(c["d_state"]) * use.tokens

    def case(self, kernel: Kernel, n_tokens: int = 0, n_past: int = 5) -> Case:
        """Unless told, one token more than it takes at a time, or one, behind others."""
        c, random = dict(kernel.constants), rng(kernel)
        of: dict[str, Operand] = dict(c["operands"])
        n_tokens = n_tokens or (c["chunk"] + 1 if of["y"].pitch else 1)
        n_head, dim, n, groups = c["n_head"], c["head_dim"], c["d_state"], c["n_group"]
        rows = {"xbc": n_head * dim + 2 * groups * n, "dt": n_head, "gate": n_head * dim}
        values = {slot: random.standard_normal((n_tokens, row), np.float32) for slot, row in rows.items() if slot in of}
        bias, skip = (random.standard_normal(n_head, np.float32) for _ in range(2))
        fade = -np.exp(random.standard_normal(n_head, np.float32))
        state = random.standard_normal((n_head, dim, n), np.float32)
        before = state.astype(np.float64) * (n_past > 0)
        conv = c["conv"]
        xbc, more, left = conv.case(values["xbc"], n_past, random) if conv else (values["xbc"], [], None)
        y, after = scanned(xbc, values["dt"], bias, fade, skip, before, dim, n, groups)
        y = evaluated(c["epilogue"], [y, *([values["gate"]] if "gate" in of else [])])
        data = [
            *(of[slot].data(each) for slot, each in values.items()),
            *(whole("of_heads", np.stack([bias, fade, skip])), batch(n_tokens, n_past), whole("state", padded(state))),
            *more,
        ]
        expected = of["y"].expected(y), expected_state(padded(after)), *([left] if left else [])
        workgroups = (n_head, -(-dim // c["rows"]), 1)
        return Case((Run(kernel, workgroups),), tuple(data), expected)


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
    """In numpy: y (tokens, n_head * head_dim), and the state (n_head, head_dim, d_state) behind it."""
    n_head = len(a)
    inner = n_head * head_dim
    each = []
    for row, step in zip(xbc.astype(np.float64), np.logaddexp(0, dt.astype(np.float64) + dt_bias), strict=True):
        x = row[:inner].reshape(n_head, head_dim)
        b, c = row[inner:].reshape(2, n_group, d_state).repeat(n_head // n_group, axis=1)
        state = state * np.exp(step * a)[:, None, None] + (step[:, None] * x)[:, :, None] * b[:, None]
        each.append((np.einsum("hpn,hn->hp", state, c) + d[:, None] * x).reshape(-1))
    return np.stack(each), state


def ssm_scan_kernel(
    n_head: int,
    head_dim: int,
    d_state: int,
    n_group: int,
    of: Mapping[str, Operand],
    epilogue: Expression = 0,
    conv: Convolution | None = None,
) -> Launch:
    """of: where xbc, dt, gate and y are. epilogue: of the result and gate, if there is one. conv: of a token's xbc."""
    spread = Spread.of(d_state, _WORKGROUP, _PARTS)
    of_token = 4 * (2 * 4 * spread.held + 3 * spread.rows + 1 + _WORKGROUP)  # bytes: B, C, what rows have, fade, sums
    shader = kernel(
        "ssm_scan",
        [
            *bound(of),
            *(conv.slots if conv else []),
            Slot("of_heads", "f32", "read"),
            BATCH,
            Slot("state", "vec4<f32>", "read_write"),
            arena("y", "f32"),
        ],
        n_head=n_head,
        head_dim=head_dim,
        d_state=d_state,
        n_group=n_group,
        operands=tuple(sorted(of.items())),
        epilogue=epilogue,
        conv=conv,
        fours=spread.fours,
        parts=spread.parts,
        rows=spread.rows,
        several=bool(of["y"].pitch),
        chunk=chunk(of_token) if of["y"].pitch else 1,
    )
    return Launch(shader, (n_head, -(-head_dim // spread.rows), 1))
