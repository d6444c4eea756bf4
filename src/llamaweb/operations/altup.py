"""AltUp (arXiv:2301.13310): streams of which one is computed, and the others are predicted and corrected.

Streams are the planes of one tensor, (n, T, count); the first is the one that is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import Case, Data, Expected, Run, rms_normed, rng, whole
from llamaweb.kernels.kernel import Kernel, Launch, Slot, arena, kernel
from llamaweb.operations.operation import Lowering, Operation, Site
from llamaweb.operations.step import Step, Value, View

_LEAST = 1e-12  # of what a stream's length is divided by


def altup_stack(g: Graph, x: Tensor, others: Tensor, name: str) -> Tensor:
    """Streams: x (n, T), and each n numbers of others (count * n, T), made as long as x: (n, T, 1 + count)."""
    return g.node("altup_stack", name, (*x.shape, 1 + others.row // x.row), (x, others))


def altup_predict(
    g: Graph, x: Tensor, router: tuple[Tensor, Tensor, Tensor], eps: float, name: str, branch: Tensor | None = None
) -> Tensor:
    """Each stream plus a mixture of all: x[j] + sum(c[j, k] * x[k]), of the first streams of x, as many as are routed.

    c = coef tanh(route(rms_norm(x[0]) * norm) / n), with router: norm (n), route (n, count), coef (count, count²).
    branch (n, T): is added to all streams but the first before."""
    shape = (*x.shape[:2], router[2].row)
    return g.node("altup_predict", name, shape, (x, *router, *((branch,) if branch else ())), eps=eps)


def altup_correct(
    g: Graph, x: Tensor, y: Tensor, router: tuple[Tensor, Tensor, Tensor], scale: Tensor, eps: float, name: str
) -> Tensor:
    """Predicted streams, corrected by y (n, T), which was computed of the first: x[j] + (1 + c[j]) * (y - x[0]), and
    behind them the first times scale (n): (n, T, count + 1).

    c: as of altup_predict, routed by y, with coef (count, count)."""
    return g.node("altup_correct", name, (*x.shape[:2], x.shape[2] + 1), (x, y, *router, scale), eps=eps)


class AltupStack(Operation):
    name = "altup_stack"
    templates = ("altup_stack",)
    parts = frozenset({"x", "others"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, others = (low.view(src) for src in node.src)
        low.emit(self.name, node.name, {"x": x, "others": others, "y": _streams(node, low)})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, others, y = (step.values[slot] for slot in ("x", "others", "y"))
        places = {"x": (x.first, x.pitch), "others": (others.first, others.pitch), "y": _apart(y)}
        return altup_stack_kernel(x.row, y.value.planes, y.n_tokens, places)

    def case(self, kernel: Kernel) -> Case:
        c, random = dict(kernel.constants), rng(kernel)
        n, count, places = c["n"], c["count"], dict(c["places"])
        rows = np.arange(_tokens(places["y"]))
        x = random.standard_normal((len(rows), n), np.float32)
        others = random.standard_normal((len(rows), (count - 1) * n), np.float32)
        at = {slot: 4 * (places[slot][0] + places[slot][1] * rows) for slot in ("x", "others")}
        data = (Data("x", at["x"], x), Data("others", at["others"], others))
        expected = Expected("y", *_in_planes(stacked(x, others), places["y"]))
        return Case((Run(kernel, (count - 1, len(rows), 1)),), data, (expected,))


class AltupPredict(Operation):
    name = "altup_predict"

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, norm, route, coef, *branch = node.src
        values = {"x": low.view(x)} | ({"branch": low.view(branch[0])} if branch else {})
        weights = _of_router(norm, route, coef)
        low.emit("altup", node.name, {**values, "y": _streams(node, low)}, weights, **node.params)


class AltupCorrect(Operation):
    name = "altup_correct"

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, y, norm, route, coef, scale = node.src
        values = {"x": low.view(x), "activated": low.view(y), "y": _streams(node, low)}
        weights = {**_of_router(norm, route, coef), "active_scale": (scale,)}
        low.emit("altup", node.name, values, weights, **node.params)


class Altup(Operation):
    """Prediction, with a slot branch or without, or correction, with slots activated and active_scale."""

    name = "altup"
    templates = ("altup",)
    parts = frozenset({"branch", "activated"})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, y = step.values["x"], step.values["y"]
        places = {"x": _apart(x), "y": _apart(y)}
        for slot in step.values.keys() & {"activated", "branch"}:
            places[slot] = step.values[slot].first, step.values[slot].pitch
        count = step.weights["coef"][0].row
        return altup_kernel(x.row, count, y.n_tokens, places, step.params["eps"])

    def case(self, kernel: Kernel) -> Case:
        c, random = dict(kernel.constants), rng(kernel)
        n, count, places = c["n"], c["count"], dict(c["places"])
        n_tokens = _tokens(places["y"])
        x = random.standard_normal((count, n_tokens, n), np.float32)
        more = random.standard_normal((n_tokens, n), np.float32)
        norm, scale = random.standard_normal((2, n), np.float32)
        route = np.float32(n**0.5) * random.standard_normal((count, n), np.float32)
        coef = random.standard_normal((count if "activated" in places else count**2, count), np.float32)
        data = [Data("x", *_in_planes(x, places["x"]))]
        data += [whole("router_norm", norm), whole("router", route), whole("coef", coef)]
        for slot in places.keys() & {"activated", "branch"}:
            first, pitch = places[slot]
            data.append(Data(slot, 4 * (first + pitch * np.arange(n_tokens)), more))
        if "activated" in places:
            data.append(whole("active_scale", scale))
            y = corrected(x, more, (norm, route, coef), scale, c["eps"])
        else:
            y = predicted(x, (norm, route, coef), c["eps"], more if "branch" in places else None)
        expected = Expected("y", *_in_planes(y, places["y"]))
        return Case((Run(kernel, (c["groups"], n_tokens, 1)),), tuple(data), (expected,))


def stacked(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """altup_stack in numpy: x (tokens, n), others (tokens, count * n), streams (1 + count, tokens, n)."""
    parts = others.astype(np.float64).reshape(len(x), -1, x.shape[1]).swapaxes(0, 1)
    lengths = [np.maximum(np.linalg.norm(each, axis=-1, keepdims=True), _LEAST) for each in (x, parts)]
    return np.concatenate([x[None], parts * lengths[0] / lengths[1]])


def predicted(
    x: np.ndarray, router: tuple[np.ndarray, ...], eps: float, branch: np.ndarray | None = None
) -> np.ndarray:
    """altup_predict in numpy, of streams (count, tokens, n)."""
    count = router[2].shape[1]
    x = np.concatenate([x[:1], x[1:count] + (0 if branch is None else branch)]).astype(np.float64)
    coefs = _coefs(x[0], router, eps).reshape(-1, count, count)
    return x + np.einsum("tjk,ktn->jtn", coefs, x)


def corrected(
    x: np.ndarray, y: np.ndarray, router: tuple[np.ndarray, ...], scale: np.ndarray, eps: float
) -> np.ndarray:
    """altup_correct in numpy."""
    streams = x + (1 + _coefs(y, router, eps).T[..., None]) * (y - x[0])
    return np.concatenate([streams, streams[:1] * scale])


def _coefs(x: np.ndarray, router: tuple[np.ndarray, ...], eps: float) -> np.ndarray:
    """(tokens, rows of coef)"""
    norm, route, coef = router
    return np.tanh(rms_normed(x, norm, eps) @ route.T / x.shape[1]) @ coef.T


def _of_router(norm: Tensor, route: Tensor, coef: Tensor) -> dict[str, tuple[Tensor, ...]]:
    return {"router_norm": (norm,), "router": (route,), "coef": (coef,)}


def _streams(node: Tensor, low: Lowering) -> View:
    n, n_tokens, count = node.shape
    y = View.of(Value(node.name, n, n_tokens, planes=count))
    low.put(node, y)
    return y


def _apart(x: View) -> tuple[int, int]:
    """How far apart streams' rows and streams are; of one token, 0 and that."""
    return x.pitch if x.n_tokens > 1 else 0, x.value.plane_bytes // 4


def _tokens(apart: tuple[int, int]) -> int:
    return 3 if apart[0] else 1


def _in_planes(streams: np.ndarray, apart: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where rows of streams (count, tokens, n) are, and the rows."""
    count, n_tokens, n = streams.shape
    at = apart[1] * np.arange(count)[:, None] + apart[0] * np.arange(n_tokens)
    return 4 * at.reshape(-1), streams.reshape(-1, n).astype(np.float32)


def altup_stack_kernel(n: int, count: int, n_tokens: int, places: dict[str, tuple[int, int]]) -> Launch:
    """count: of streams. places: of x and others, where the first token's row begins, and how far from there the next
    one's is; of y, how far apart rows and streams are."""
    shader = kernel(
        "altup_stack",
        [arena(slot, "f32") for slot in ("x", "others", "y")],
        n=n,
        count=count,
        places=tuple(sorted(places.items())),
        least=_LEAST,
        workgroup=64,
    )
    return Launch(shader, (count - 1, n_tokens, 1), 1 if n_tokens > 1 else 0)


def altup_kernel(n: int, count: int, n_tokens: int, places: dict[str, tuple[int, int]], eps: float) -> Launch:
    """count: of streams. places: of x and y, how far apart rows and streams are; of activated or branch, if it has one,
    where the first token's row begins, and how far from there the next one's is."""
    more = [slot for slot in ("activated", "branch") if slot in places]
    vectors = ["router_norm", "router", "coef", *(["active_scale"] if "activated" in places else [])]
    workgroup = 256 if n_tokens == 1 else 64
    groups = 1 if n_tokens > 1 else -(-n // workgroup)  # of a token, each of which routes it
    shader = kernel(
        "altup",
        [
            *(arena(slot, "f32") for slot in ("x", *more)),
            *(Slot(name, "f32", "read") for name in vectors),
            arena("y", "f32"),
        ],
        n=n,
        count=count,
        places=tuple(sorted(places.items())),
        eps=eps,
        workgroup=workgroup,
        groups=groups,
    )
    return Launch(shader, (groups, n_tokens, 1), 1 if n_tokens > 1 else 0)
