"""Kernels of experts against numpy in float64: the choice, products with the chosen alone, and their weighted sum."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_bench import (
    GUARD,
    Bench,
    Case,
    batch,
    columns,
    each_format,
    guarded,
    poisoned,
    quantized_rows,
    result,
    silu,
)

from llamaweb.ggml import GGMLType
from llamaweb.kernels.formats import BLOCK, FORMATS, Format, whole_blocks
from llamaweb.kernels.mul_mat import PRECISIONS, MulMat
from llamaweb.operations.experts import (
    PLAIN,
    TILE,
    ByExpert,
    mul_mat_id_kernel,
    mul_mat_id_tiles_kernel,
    pairs_at,
    sort_ids_kernel,
    top_k_kernel,
    weighted_sum_kernel,
)
from tests.reference import nmse

rng = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rounding takes from random numbers is the same for a test, whatever ran before it."""
    monkeypatch.setattr(sys.modules[__name__], "rng", np.random.default_rng(3))


TOKENS = (1, 2, 70)
QUANTIZED_LIMIT = {8: 1e-4, 16: 2e-9}  # of what rounding x to so many bits moves


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x.astype(np.float64) - x.max())
    return x / x.sum()


def chosen(logits: np.ndarray, bias: np.ndarray, used: int, c: dict[str, Any]) -> tuple[list[int], np.ndarray]:
    """Of one token, experts and weights, one after the other."""
    gating = c.get("gating", "softmax")
    probs = {"softmax": softmax, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "softmax_weight": lambda x: x}[gating](
        logits
    )
    by = probs + bias
    n, m = c.get("groups", (1, 1))
    size = len(by) // n
    best = sorted(range(n), key=lambda g: (-sum(sorted(by[g * size : (g + 1) * size])[-2:]), g))[:m]
    ids = sorted((e for e in range(len(by)) if e // size in best), key=lambda e: (-by[e], e))[:used]
    weights = softmax(probs[ids]) if gating == "softmax_weight" else probs[ids]
    weights = weights / max(weights.sum(), 2.0**-14) if c.get("norm") else weights
    return ids, weights * c.get("scale", 1.0)


CHOICES: list[tuple[int, int, dict[str, Any]]] = [
    (2, 2, {}),
    (5, 1, {"norm": True}),
    (33, 8, {"gating": "sigmoid", "bias": True, "norm": True, "scale": 2.5}),
    (96, 6, {"gating": "sigmoid", "bias": True, "groups": (8, 3)}),
    (128, 8, {"norm": True}),
    (32, 4, {"gating": "softmax_weight"}),
    (1024, 10, {"bias": True, "groups": (4, 2), "scale": 16.0}),
]


@pytest.mark.parametrize(("n", "used", "options"), CHOICES, ids=str)
def test_the_choice_of_experts(bench: Bench, n: int, used: int, options: dict[str, Any]) -> None:
    bias = normal(n).astype(np.float32) * bool(options.get("bias"))
    extra = {"probs_bias": bias} if bias.any() else {}
    inputs = [3 * normal(n_tokens, n) for n_tokens in TOKENS]
    inputs[1][0, : n // 2] = 1.25  # a tie
    launch = top_k_kernel(n, used, TOKENS[-1], **options)
    cases = [Case(launch, {"x": guarded(x), **extra, "y": poisoned(len(x), 2 * used)}, len(x)) for x in inputs]
    for found, x in zip(bench.run(cases), inputs, strict=True):
        y = found["y"].reshape(-1).view(np.float32)
        assert np.isnan(y[len(x) * 2 * used :]).all()
        rows = y[: len(x) * 2 * used].reshape(len(x), -1)
        for row, logits in zip(rows, x, strict=True):
            ids, weights = chosen(logits, bias, used, options)
            assert row[:used].copy().view(np.uint32).tolist() == ids
            np.testing.assert_allclose(row[used:], weights, rtol=2e-5)


def routed(n_tokens: int, n_expert: int, used: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids and weights (n_tokens, used), and both as routes, with poison behind them."""
    ids = np.stack([rng.permutation(n_expert)[:used] for _ in range(n_tokens)]).astype(np.uint32)
    weights = normal(n_tokens, used)
    words = np.hstack([ids, weights.view(np.uint32)]).reshape(-1)
    return ids, weights, np.concatenate([words, np.full(GUARD, 0xFFFFFFFF, np.uint32)])


def in_tiles(ids: np.ndarray, n_expert: int, n_tokens: int) -> np.ndarray:
    """Routes as sort_ids leaves them for batches of up to n_tokens, with poison behind them."""
    experts = ids.reshape(-1)
    pairs = np.argsort(experts, kind="stable")
    tiles = []
    for e in range(n_expert):
        mine = np.flatnonzero(experts[pairs] == e)
        tiles += [(e, part[0], len(part)) for part in np.split(mine, range(TILE, len(mine), TILE)) if len(part)]
    at = pairs_at(n_expert, n_tokens * ids.shape[1])
    words = np.full(at + len(pairs) + GUARD, 0xFFFFFFFF, np.uint32)
    words[: 1 + 3 * len(tiles)] = [len(tiles), *np.array(tiles).reshape(-1)]
    words[at : at + len(pairs)] = pairs
    return words


def check(bench: Bench, format: Format, n: int, n_expert: int, used: int, row: int = 0, **options: Any) -> None:
    """Columns are `row`, or three blocks."""
    k = row or columns(format, 3 * BLOCK)
    stacked = 2 if options.get("epilogue") == "swiglu" else 1
    w = bench.weight(format, normal(stacked * n_expert * n, k) / np.float32(k**0.5))
    dense = w.dense[:, :k].reshape(stacked, n_expert, n, k).astype(np.float64)
    bias = normal(stacked, n_expert, n) * bool(options.get("bias"))
    scales = normal(stacked, n_expert) if options.get("scaled") else np.ones((stacked, n_expert))
    own, sums = options.get("own", False), options.get("sums", False)
    experts = ByExpert(format, whole_blocks(k), n, n_expert, used, columns=k, stacked=stacked, **options)
    cases, expected = [], []
    for n_tokens in TOKENS:
        ids, weights, routes = routed(n_tokens, n_expert, used)
        x = normal(n_tokens, used if own else 1, k)
        y = np.einsum("stunk,tuk->stun", dense[:, ids], np.broadcast_to(x, (n_tokens, used, k)))
        y = y * scales[:, ids][..., None] + bias[:, ids]
        y = silu(y[0]) * y[1] if stacked == 2 else y[0]
        y = np.einsum("tu,tun->tn", weights, y) if sums else y.reshape(n_tokens, -1)
        rows = np.full((n_tokens, whole_blocks(x[0].size)), np.nan, np.float32)
        rows[:, : x[0].size] = x.reshape(n_tokens, -1)
        before = normal(*y.shape) if options.get("epilogue") == "add" else None
        given = {**w.planes, "x": guarded(rows), "y": poisoned(*y.shape) if before is None else guarded(before)}
        given |= {"bias": bias.astype(np.float32).reshape(-1)} if bias.any() else {}
        given |= {"tensor_scales": scales.reshape(-1)} if options.get("scaled") else {}
        e = replace(experts, pitches=(rows.shape[1], 2 * used, y.shape[1]))
        launches = [(mul_mat_id_kernel(e, n_tokens, bench.profile), routes)]
        if not e.sums:
            launch = mul_mat_id_tiles_kernel(e, TOKENS[-1], bench.profile)
            launches.append((launch, in_tiles(ids, n_expert, TOKENS[-1])))
        for launch, way in launches:
            cases.append(Case(launch, {**given, "routes": way}, n_tokens))
            expected.append(y if before is None else y + before)
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result(found["y"], *y.shape), y) <= 1e-10


@pytest.mark.parametrize("bits", PRECISIONS.values())
@pytest.mark.parametrize("type", ["Q4_0", "Q2_K", "Q6_K"])
def test_tiles_with_the_packed_dot(bench: Bench, type: str, bits: int) -> None:
    """As the same tiles without it give, of x as it was rounded."""
    format, used, n_expert = FORMATS[GGMLType[type]], 3, 5
    k = columns(format, 3 * BLOCK)
    options: dict[str, dict[str, Any]] = {
        "up": {"n": 37, "bias": True},
        "gate and up": {"n": 70, "epilogue": "swiglu", "stacked": 2},
        "down": {"n": 40, "own": True, "factor": 0.5, "piece": (50, 120)},
    }
    for tile in (MulMat(TILE, 64, 16, 8, "packed", 2, bits), MulMat(TILE, 32, 8, 8, "packed", 1, bits)):
        for name, each in options.items():
            each = dict(each)
            n, own, stacked = each.pop("n"), each.get("own", False), each.get("stacked", 1)
            w = bench.weight(format, normal(stacked * n_expert * n, k) / np.float32(k**0.5))
            bias = normal(stacked * n_expert * n)
            cases = []
            for n_tokens in TOKENS:
                ids, _, _ = routed(n_tokens, n_expert, used)
                x = normal(n_tokens, k * (used if own else 1))
                codes = quantized_rows(bench, x, TOKENS[-1], bits, bench.profile)
                given = {**w.planes, "routes": in_tiles(ids, n_expert, TOKENS[-1]), "bias": bias}
                given |= {"x": guarded(x), "x_q": codes, "y": poisoned(n_tokens, n * used)}
                for variant in (PLAIN, tile):
                    e = ByExpert(format, k, n, n_expert, used, **each)
                    launch = mul_mat_id_tiles_kernel(e, TOKENS[-1], bench.profile, variant)
                    slots = {slot.name for slot in launch.kernel.slots}
                    cases.append(Case(launch, {s: v for s, v in given.items() if s in slots}, n_tokens))
            found = [each["y"] for each in bench.run(cases)]
            for plain, packed in zip(found[::2], found[1::2], strict=True):
                there = ~np.isnan(plain)
                assert there.any() and (np.isnan(packed) == ~there).all(), name
                assert nmse(packed[there], plain[there]) <= QUANTIZED_LIMIT[bits], (name, tile)


@pytest.mark.parametrize("format", each_format(), ids=lambda format: format.name)
def test_products_of_a_gated_linear_unit_in_every_format(bench: Bench, format: Format) -> None:
    check(bench, format, 20, 3, 2, epilogue="swiglu", scaled=True)


@pytest.mark.parametrize("type", ["F32", "F16", "Q4_0", "Q6_K"])
@pytest.mark.parametrize(
    "options",
    [
        {"n": 37, "n_expert": 5, "used": 5, "scaled": True, "bias": True},
        {"n": 64, "n_expert": 33, "used": 8, "own": True},
        {"n": 40, "n_expert": 4, "used": 3, "own": True, "sums": True, "scaled": True, "bias": True},
        {"n": 33, "n_expert": 4, "used": 1, "own": True, "sums": True, "epilogue": "add"},
    ],
    ids=str,
)
def test_products_with_the_chosen_experts_alone(bench: Bench, type: str, options: dict[str, Any]) -> None:
    check(bench, FORMATS[GGMLType[type]], **options)


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("row", [50, 53])
def test_rows_of_any_length(bench: Bench, row: int, sums: bool) -> None:
    for type in (GGMLType.F32, GGMLType.BF16):
        check(bench, FORMATS[type], 21, 4, 3, row=row, own=True, sums=sums)


def test_pairs_of_tokens_and_experts_are_sorted_into_tiles(bench: Bench) -> None:
    for n_expert, used in ((2, 2), (33, 4), (1024, 3)):
        launch = sort_ids_kernel(n_expert, used, TOKENS[-1])
        of_batches = [routed(n_tokens, n_expert, used) for n_tokens in TOKENS]
        words = pairs_at(n_expert, TOKENS[-1] * used) + TOKENS[-1] * used
        slots = [{"routes": routes, "batch": batch(len(ids)), "y": poisoned(words)} for ids, _, routes in of_batches]
        cases = [Case(launch, each, len(ids)) for each, (ids, _, _) in zip(slots, of_batches, strict=True)]
        for found, (ids, _, _) in zip(bench.run(cases), of_batches, strict=True):
            y, expected = found["y"].reshape(-1).view(np.uint32), in_tiles(ids, n_expert, TOKENS[-1])
            head = 1 + 3 * int(y[0])
            np.testing.assert_array_equal(y[:head], expected[:head])
            pairs = y[words - TOKENS[-1] * used :][: ids.size]
            assert sorted(pairs) == list(range(ids.size))
            np.testing.assert_array_equal(ids.reshape(-1)[pairs], np.sort(ids.reshape(-1)))
            assert np.isnan(found["y"].reshape(-1)[words:]).all()


def test_the_weighted_sum(bench: Bench) -> None:
    n, used, cases, expected = 70, 3, [], []
    for n_tokens in TOKENS:
        _, weights, routes = routed(n_tokens, 9, used)
        x = normal(n_tokens, used * n)
        launch = weighted_sum_kernel(n, used, n_tokens, (used * n, 2 * used, n))
        cases.append(Case(launch, {"x": guarded(x), "routes": routes, "y": poisoned(n_tokens, n)}, n_tokens))
        expected.append(np.einsum("tu,tun->tn", weights.astype(np.float64), x.reshape(n_tokens, used, n)))
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result(found["y"], *y.shape), y) <= 1e-10
