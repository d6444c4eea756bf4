"""The sampler: greedy, the filters' candidate sets, the distribution of what is drawn, and the words it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_bench import Bench, Case, batch, guarded

from llamaweb.kernels.io import IO, NO_TOKEN
from llamaweb.operations.output import cross_entropy_kernel, sample_kernel
from llamaweb.sampling import Sampling

rng = np.random.default_rng(4)
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def io(sampling: Sampling, n_past: int = 5, n_tokens: int = 1, step: int = 0) -> np.ndarray:
    words = batch(n_tokens, n_past, tokens=[99])
    words[IO.step : IO.step + 6] = sampling.words()
    words[IO.step] = step
    return words


def drawn(bench: Bench, logits: np.ndarray, count: int, seed: int = 1, **parameters: float) -> np.ndarray:
    """Tokens of `count` runs, one after the other."""
    sampling = Sampling(seed=seed, **{"temperature": 1.0, **OFF, **parameters})
    return bench.draw(sample_kernel(len(logits)), {"logits": guarded(logits), "batch": io(sampling)}, count)


def candidates(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> set[int]:
    """What llama.cpp's filters leave: top_k, then top_p of what is left, then min_p."""
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    p = np.exp(logits[order].astype(np.float64) - logits.max())
    before = np.cumsum(p / p.sum()) - p / p.sum()
    return {int(token) for token, kept in zip(order, (before < top_p) & (p >= min_p), strict=True) if kept}


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max())
    return p / p.sum()


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Per degree of freedom; about 1 where they agree."""
    return float(np.sum((counts - expected) ** 2 / expected)) / (len(expected) - 1)


def test_greedy_takes_the_largest_logit_and_the_lowest_token_of_a_tie(bench: Bench) -> None:
    cases, expected = [], []
    for n, best in ((1, [0]), (5, [4]), (257, [256]), (1000, [999, 300, 556, 812]), (1000, [513, 512, 511])):
        logits = -10 - rng.random(n).astype(np.float32)
        logits[best] = -9.5
        cases.append(Case(sample_kernel(n), {"logits": guarded(logits), "batch": io(Sampling(temperature=0))}))
        expected.append(min(best))
    cases.append(Case(sample_kernel(257), {"logits": guarded(np.zeros(257)), "batch": io(Sampling(temperature=0))}))
    assert [int(found["batch"][IO.tokens]) for found in bench.run(cases)] == [*expected, 0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_sampler_advances_the_position_and_leaves_all_else(bench: Bench, temperature: float) -> None:
    logits = guarded(rng.standard_normal(1000))
    before = io(Sampling(temperature, seed=7), n_past=30, n_tokens=17, step=3)
    found = bench.run([Case(sample_kernel(1000), {"logits": logits, "batch": before})])[0]
    expected = before.copy()
    expected[[IO.n_past, IO.n_tokens, IO.step, IO.tokens]] = 47, 1, 4, found["batch"][IO.tokens]
    np.testing.assert_array_equal(found["batch"], expected)
    assert found["batch"][IO.tokens] < 1000
    np.testing.assert_array_equal(found["logits"], logits)


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 7},
        {"top_k": 12, "top_p": 0.6},
        {"top_p": 0.3},
        {"min_p": 0.55},
        {"top_k": 20, "top_p": 0.9, "min_p": 0.5},
        {"top_k": 5000, "top_p": 0.25, "min_p": 0.01},
    ],
    ids=str,
)
def test_exactly_the_filters_candidates_are_drawn(bench: Bench, parameters: dict[str, float]) -> None:
    logits = (0.5 * rng.standard_normal(300) - 3).astype(np.float32)
    best = rng.permutation(300)[:14]
    logits[best] = 4 - 0.11 * np.arange(14)  # near each other, so that few draws reach all
    wanted = candidates(logits, **{**OFF, **parameters})
    assert 2 <= len(wanted) <= 20
    assert set(drawn(bench, logits, 600, temperature=50.0, **parameters).tolist()) == wanted


@pytest.mark.parametrize("parameters", [{"top_k": 6}, {"top_p": 0.5}, {"top_k": 9, "top_p": 0.8}], ids=str)
def test_of_a_large_vocabulary_each_token_counts_once(bench: Bench, parameters: dict[str, float]) -> None:
    logits = np.full(6000, -20, np.float32)
    logits[rng.choice(np.arange(2000, 6000), 12, replace=False)] = 4 - 0.1 * np.arange(12)
    wanted = candidates(logits, **{**OFF, **parameters})
    assert set(drawn(bench, logits, 300, temperature=50.0, **parameters).tolist()) == wanted


def test_top_p_of_nearly_one_lets_no_token_through_that_top_k_keeps_out(bench: Bench) -> None:
    logits = (0.01 * rng.permutation(2000) / 2000).astype(np.float32)  # whose rounded weights fall short of their sum
    wanted = candidates(logits, top_k=1500, top_p=1.0, min_p=0.0)
    assert set(drawn(bench, logits, 200, temperature=50.0, top_k=1500, top_p=0.99999994).tolist()) <= wanted


def test_one_candidate_is_greedy_at_any_temperature(bench: Bench) -> None:
    logits = rng.standard_normal(1000).astype(np.float32)
    for parameters in ({"top_k": 1}, {"top_p": 1e-6}, {"top_p": 0.0}, {"min_p": 1.0}):
        found = drawn(bench, logits, 40, temperature=100.0, **parameters)
        assert set(found.tolist()) == {int(logits.argmax())}, parameters


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(bench: Bench, temperature: float) -> None:
    logits = np.array([0.3, -1.0, 1.2, 0.0, 0.9, -0.5, 1.1, 0.1], np.float32)
    found = drawn(bench, logits, 4000, seed=int(10 * temperature), temperature=temperature)
    expected = 4000 * softmax(logits / temperature)
    assert chi_square(np.bincount(found, minlength=8), expected) < 3  # one seed in 500 gets there by chance
    pairs = np.bincount(found[:-1] * 8 + found[1:], minlength=64)  # a token does not depend on the one before
    assert chi_square(pairs, np.outer(expected, expected).ravel() / 4000) < 1.7


def test_filtered_tokens_share_the_probability_of_the_rest(bench: Bench) -> None:
    logits = rng.standard_normal(500).astype(np.float32)
    kept = np.argsort(-logits)[:10]
    found = drawn(bench, logits, 3000, top_k=10)
    assert chi_square(np.bincount(found, minlength=500)[kept], 3000 * softmax(logits[kept])) < 3


def test_rare_tokens_of_a_large_vocabulary_come_as_often_as_they_should(bench: Bench) -> None:
    logits = np.zeros(49152, np.float32)
    logits[777] = np.log(49151 * 19.0)  # all others together: one draw in 20
    rare = int(np.sum(drawn(bench, logits, 2000) != 777))
    assert abs(rare - 100) < 40  # four standard deviations


def test_a_seed_gives_the_same_tokens_again_and_another_one_others(bench: Bench) -> None:
    logits = np.zeros(100, np.float32)
    first, again, other = (drawn(bench, logits, 50, seed=seed) for seed in (11, 11, 12))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.2
    # The token depends on the seed and the step alone, not on what ran before.
    words = io(Sampling(temperature=1.0, seed=11, **OFF), step=20)
    found = bench.run([Case(sample_kernel(100), {"logits": guarded(logits), "batch": words})])[0]
    assert found["batch"][IO.tokens] == first[20]


def test_the_first_token_of_many_seeds_is_spread_evenly(bench: Bench) -> None:
    logits, launch = np.zeros(5, np.float32), sample_kernel(5)
    cases = [Case(launch, {"logits": logits, "batch": io(Sampling(1.0, seed=seed, **OFF))}) for seed in range(400)]
    tokens = [int(found["batch"][IO.tokens]) for found in bench.run(cases)]
    assert chi_square(np.bincount(tokens, minlength=5), np.full(5, 80.0)) < 4


def test_impossible_tokens_are_never_drawn(bench: Bench) -> None:
    logits = np.full(300, -np.inf, np.float32)
    logits[[3, 150, 299]] = 0.0
    assert set(drawn(bench, logits, 200, temperature=5.0).tolist()) == {3, 150, 299}
    assert set(drawn(bench, logits, 200, top_k=40, top_p=0.95, min_p=0.05).tolist()) == {3, 150, 299}


NO_NUMBERS = [
    ("NaN", {700: np.nan}),
    ("NaN with its sign", {0: -np.nan}),
    ("a signalling NaN", {999: np.array(0x7F800001, np.uint32).view(np.float32)}),
    ("infinity", {513: np.inf}),
    ("infinity and -infinity", {1: -np.inf, 2: np.inf}),
    ("nothing possible", dict.fromkeys(range(1000), -np.inf)),
]


@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"top_k": 40, "top_p": 0.9, "min_p": 0.05}, {}], ids=str)
def test_logits_that_are_no_numbers_leave_no_token(bench: Bench, parameters: dict[str, float]) -> None:
    sampling = Sampling(**{"temperature": 1.0, **OFF, "seed": 3, **parameters})
    rows = [broken(changes) for _, changes in NO_NUMBERS] + [broken({5: -np.inf, 6: 3.4e38, 7: -3.4e38})]
    cases = [Case(sample_kernel(1000), {"logits": guarded(row), "batch": io(sampling)}) for row in rows]
    *found, right = [int(each["batch"][IO.tokens]) for each in bench.run(cases)]
    assert found == [NO_TOKEN] * len(NO_NUMBERS) and right == 6


def test_log_probabilities_of_logits_that_are_no_numbers_have_no_likely_token(bench: Bench) -> None:
    rows = np.stack([broken({}), *(broken(changes) for _, changes in NO_NUMBERS), broken({7: -np.inf})])
    n, words = len(rows), batch(len(rows), 0)
    targets, results = len(words), len(words) + n
    words = np.concatenate([words, np.full(n, 7, np.uint32), np.zeros(2 * n, np.uint32)])
    launch = cross_entropy_kernel(1000, n, targets, results)
    found = bench.run([Case(launch, {"logits": guarded(rows), "batch": words}, n)])[0]["batch"][results:].reshape(n, 2)
    likely = [int(np.argmax(row)) for row in (rows[0], rows[-1])]
    assert found[:, 1].tolist() == [likely[0], *[NO_TOKEN] * len(NO_NUMBERS), likely[1]]
    log_p = found[[0, -1], 0].copy().view(np.float32)
    np.testing.assert_allclose(log_p[0], np.log(softmax(rows[0])[7]), atol=1e-4)
    assert log_p[1] == -np.inf


def broken(changes: dict[int, float]) -> np.ndarray:
    logits = np.random.default_rng(2).standard_normal(1000).astype(np.float32)
    for at, value in changes.items():
        logits[at] = value
    return logits
