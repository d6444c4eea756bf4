"""Kernels that go along rows: rms_norm, gated linear units and cross-entropy, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_bench import (
    GLU,
    GUARD,
    Bench,
    Case,
    batch,
    guarded,
    in_lane_order,
    poisoned,
    result,
    result_rows,
    rms_normed,
)

from llamaweb.kernels.formats import whole_blocks
from llamaweb.kernels.io import IO
from llamaweb.operations.norm import rms_norm_kernel
from llamaweb.operations.output import cross_entropy_kernel
from tests.plain_kernels import glu
from tests.reference import nmse

rng = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


@pytest.mark.parametrize(("k", "eps"), [(32, 1e-5), (96, 1e-6), (1056, 0.5)])
def test_rms_norm(bench: Bench, k: int, eps: float) -> None:
    launch, weight = rms_norm_kernel(k, eps, 128), 1 + 0.1 * normal(k)
    in_order = in_lane_order(weight)
    inputs = [np.float32(scale) * normal(n_tokens, k) for n_tokens, scale in ((1, 1), (2, 1e-3), (70, 100))]
    cases = [Case(launch, {"x": guarded(x), "norm_weight": in_order, "y": poisoned(*x.shape)}, len(x)) for x in inputs]
    for found, x in zip(bench.run(cases), inputs, strict=True):
        assert nmse(result(found["y"], *x.shape), rms_normed(x, weight, eps)) <= 1e-10
        np.testing.assert_array_equal(result(found["x"], *x.shape), x)


def test_rms_norm_added_to_what_is_there(bench: Bench) -> None:
    launch, weight = rms_norm_kernel(96, 1e-6, 128, epilogue="add"), 1 + 0.1 * normal(96)
    inputs = [(normal(n_tokens, 96), normal(n_tokens, 96)) for n_tokens in (1, 7)]
    cases = [
        Case(launch, {"x": guarded(x), "norm_weight": in_lane_order(weight), "y": guarded(y)}, len(x))
        for x, y in inputs
    ]
    for found, (x, y) in zip(bench.run(cases), inputs, strict=True):
        assert nmse(result(found["y"], *x.shape), y + rms_normed(x, weight, 1e-6)) <= 1e-10


@pytest.mark.parametrize("n", [32, 63, 160])
@pytest.mark.parametrize("kind", GLU)
def test_gated_linear_units(bench: Bench, kind: str, n: int) -> None:
    inputs = [3 * normal(n_tokens, 2 * n) for n_tokens in (1, 5, 17)]
    inputs[0][0, :2] = 80, -80  # no overflow at either end
    launch = glu(kind, n, 32)
    cases = [Case(launch, {"x": guarded(x), "y": poisoned(len(x), whole_blocks(n))}, len(x)) for x in inputs]
    for found, x in zip(bench.run(cases), inputs, strict=True):
        x = x.astype(np.float64)
        assert nmse(result_rows(found["y"], len(x), n), GLU[kind](x[:, :n]) * x[:, n:]) <= 1e-10


@pytest.mark.parametrize("n", [7, 300, 1031])
def test_cross_entropy_of_each_target_and_the_most_likely_token(bench: Bench, n: int) -> None:
    n_ubatch, cases, expected = 20, [], []
    targets_at, results_at = IO.targets(n_ubatch), IO.results(n_ubatch)
    for n_tokens in (1, 5, 17):
        logits, targets = 5 * normal(n_tokens, n) - 50, rng.integers(0, n, n_tokens)
        if n_tokens == 5:
            logits[0] = 1.0  # a tie of all
            logits[1, [n - 1, n // 2, 3]] = 40.0
            targets[1] = n - 1
        words = batch(n_tokens, extra=4 * n_ubatch + GUARD)
        words[targets_at : targets_at + n_tokens] = targets
        words[results_at : results_at + 2 * n_ubatch] = 0xA5A5A5A5
        launch = cross_entropy_kernel(n, n_ubatch, targets_at, results_at)
        cases.append(Case(launch, {"logits": guarded(logits), "batch": words}, n_tokens))
        expected.append((n_tokens, logits, targets))
    for case, found, (n_tokens, logits, targets) in zip(cases, bench.run(cases), expected, strict=True):
        log_p = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
        rows = found["batch"][results_at : results_at + 2 * n_tokens].reshape(n_tokens, 2)
        np.testing.assert_allclose(
            rows[:, 0].copy().view(np.float32), log_p[np.arange(n_tokens), targets], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(rows[:, 1], logits.argmax(axis=-1))  # numpy takes the lowest of a tie too
        outside = np.s_[results_at : results_at + 2 * n_tokens]
        np.testing.assert_array_equal(np.delete(found["batch"], outside), np.delete(case.slots["batch"], outside))
