"""Cases of kernels that go along rows, and of the sampler."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.kernels.checks.case import (
    Case,
    Data,
    Expected,
    Run,
    batch,
    evaluated,
    in_lane_order,
    lane_place,
    rms_normed,
    rng,
    whole,
)
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel

_TOKENS = 3
_LIKELY = 64  # tokens of a vocabulary that are not as unlikely as the others
_MANY = 65536  # … of which one row is enough


def rms_norm(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    x = random.standard_normal((_TOKENS, c["k"]), np.float32)
    norm = 1 + np.float32(0.1) * random.standard_normal(c["columns"], np.float32)
    y = rms_normed(x[:, : c["columns"]], norm, c["eps"])
    data = [whole("x", x), whole("norm_weight", in_lane_order(norm))]
    return _along_rows(kernel, (1, _TOKENS, 1), data, y, c["k"], c["epilogue"] == "add", random)


def elementwise(kernel: Kernel) -> Case:
    """Three tokens, or one where rows are bound as one token's."""
    c, random = dict(kernel.constants), rng(kernel)
    n, y = c["n"], c["y"]
    operands = [operand for _, operand in c["operands"]]
    n_tokens = _TOKENS if y.pitch or c["last_row"] else 1
    slots = {slot.name: slot for slot in kernel.slots}
    held: dict[str, tuple[int, int]] = {}
    for operand in [*operands, y]:
        rows = n_tokens if operand.pitch else 1
        last = operand.first + int(_numbers(operand, n).max()) + 1
        row = max(last, operand.lanes, held.get(operand.slot, (0, 0))[1])
        held[operand.slot] = rows, row
    made = {name: random.standard_normal(shape, np.float32) for name, shape in held.items()}
    pitches = {operand.slot: operand.pitch for operand in [y, *operands]}
    values = []
    for operand in operands:
        x = made[operand.slot][:, operand.first :]
        values.append(x[:, _numbers(operand, n)].astype(np.float64))
    result = evaluated(c["expression"], values)
    result = np.broadcast_to(result[-1:] if c["last_row"] else result, (1 if c["last_row"] else n_tokens, n))
    lanes = {operand.slot: operand.lanes for operand in operands}
    data = [
        Data(name, 4 * pitches[name] * np.arange(len(x)), in_lane_order(x[0])[None] if lanes.get(name) else x)
        for name, x in made.items()
        if name in lanes
    ]
    data += [batch(n_tokens)] if "batch" in slots else []
    if y.lanes:
        place, result = 4 * lane_place(y.first + _numbers(y, n), y.lanes), result.T
    else:
        place = 4 * (y.first + y.pitch * np.arange(len(result))[:, None] + _numbers(y, n)[:: y.each or n]).reshape(-1)
        result = result.reshape(len(place), -1)
    expected = Expected("y", place, np.ascontiguousarray(result.astype(np.float32)))
    workgroups = (-(-n // c["workgroup"]), 1 if c["last_row"] else n_tokens, 1)
    return Case((Run(kernel, workgroups),), tuple(data), (expected,))


def _numbers(operand: Any, n: int) -> np.ndarray:
    """Which of an operand's are its n numbers, from its first on."""
    i = np.arange(n) % (operand.repeats or n)
    return i // operand.each * operand.apart + i % operand.each if operand.each else i


def norm(kernel: Kernel) -> Case:
    """Two groups of each part, where it has as many; those of others are not run."""
    c, random = dict(kernel.constants), rng(kernel)
    first, *others = c["groups"]
    count = first.count if others else min(first.count, 2)
    alone = c["y_lanes"] or (c["gate"] and not c["gate"].pitch)
    x = random.standard_normal((1 if alone else _TOKENS, first.first + count * first.size), np.float32)
    groups = x[:, first.first :].reshape(len(x), count, first.size).astype(np.float64)
    if c["kind"] == "layer":
        groups = groups - groups.mean(-1, keepdims=True)
    square = np.square(groups)
    length = np.maximum(np.sqrt(square.sum(-1)), c["eps"]) if c["kind"] == "l2" else np.sqrt(square.mean(-1) + c["eps"])
    y = groups / length[..., None]
    data = [Data(c["x"], 4 * c["x_pitch"] * np.arange(len(x)), x)]
    own = first.weight + first.step * np.arange(count)[:, None] + np.arange(first.size)
    for name, apply in ((c["scale"], np.multiply), (c["shift"], np.add)):
        if name:
            vector = 1 + np.float32(0.1) * random.standard_normal(int(own.max()) + 1, np.float32)
            data.append(whole(name, in_lane_order(vector) if c["lanes"] else vector))
            y = apply(y, vector[own])
    y = y.reshape(len(x), -1)
    gate = random.standard_normal(y.shape, np.float32)
    if c["gate"]:
        data.append(Data(c["gate"].slot, 4 * (c["gate"].first + c["gate"].pitch * np.arange(len(x))), gate))
    y = np.ascontiguousarray(evaluated(c["epilogue"], [y, gate]).astype(np.float32))
    if c["y_lanes"]:
        expected = Expected("y", 4 * lane_place(first.to + np.arange(y.size), c["y_lanes"]), y.T)
    else:
        expected = Expected("y", 4 * (first.to + c["y_pitch"] * np.arange(len(x))), y)
    return Case((Run(kernel, (count, len(x), 1)),), tuple(data), (expected,))


def _along_rows(
    kernel: Kernel,
    workgroups: tuple[int, int, int],
    data: list[Data],
    y: np.ndarray,
    pitch: int,
    added: bool,
    random: np.random.Generator,
) -> Case:
    """y (tokens, row): rows lie `pitch` numbers apart."""
    at = 4 * pitch * np.arange(len(y))
    if added:
        before = random.standard_normal(y.shape, np.float32)
        data.append(Data("y", at, before))
        y = y + before
    expected = Expected("y", at, y.astype(np.float32))
    return Case((Run(kernel, workgroups),), tuple(data), (expected,))


def vector(kernel: Kernel) -> Case:
    """Numbers 5 and on of a longer vector."""
    c, count, first, n = dict(kernel.constants), 40, 5, 64
    raw = rng(kernel).standard_normal(count, np.float32)
    bits: np.ndarray
    if c["type"] == "bf16":
        bits = (raw.view(np.uint32) >> 16).astype(np.uint16)
        raw = (bits.astype(np.uint32) << 16).view(np.float32)
    else:
        bits = raw.astype(np.float16 if c["type"] == "f16" else np.float32)
        raw = bits.astype(np.float32)
    at = first + np.arange(count)
    at = lane_place(at, n) if c["lane_order"] else at
    data = (whole("raw", bits), whole("job", np.array([count, first, n], np.uint32)))
    return Case((Run(kernel, (1, 1, 1)),), data, (Expected("w", 4 * at, raw[:, None]),))


def pad_rows(kernel: Kernel) -> Case:
    """Two rows of 43 numbers into whole blocks."""
    size, row, pitch = dict(kernel.constants)["bytes"], 43, 64
    raw = rng(kernel).integers(0, 1 << 8 * size, (2, row), np.uint32).astype(np.uint16 if size == 2 else np.uint32)
    padded = np.zeros((1, 2 * pitch), raw.dtype)
    padded[0, :row], padded[0, pitch : pitch + row] = raw
    words = 2 * pitch * size // 4
    bits = np.concatenate([raw.reshape(-1), np.zeros(2, raw.dtype)])  # whole words
    data = (whole("raw", bits), whole("job", np.array([words, 8, row, pitch], np.uint32)))
    expected = Expected("w", np.array([32]), padded.view(np.uint32), 0.0, np.uint32)
    return Case((Run(kernel, (-(-words // 64), 1, 1)),), data, (expected,))


def cross_entropy(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    logits = np.stack([_logits(c["n"], random) for _ in range(1 if c["n"] > _MANY else 2)])
    best = logits.argmax(-1)
    targets = random.integers(0, c["n"], len(logits))
    log_p = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    log_p = log_p[np.arange(len(logits)), targets]
    at = 4 * (c["results"] + 2 * np.arange(len(logits)))
    data = (whole("logits", logits), whole("batch", targets.astype(np.uint32), 4 * c["targets"]))
    expected = (
        Expected("batch", at, log_p[:, None].astype(np.float32)),
        Expected("batch", at + 4, best[:, None].astype(np.uint32), 0.0, np.uint32),
    )
    return Case((Run(kernel, (1, len(logits), 1)),), data, expected)


def sample(kernel: Kernel) -> tuple[Case, Case]:
    """Greedily with a tie, and drawn with all filters."""
    n, random = dict(kernel.constants)["n"], rng(kernel)
    logits = _logits(n, random)
    tie = logits.copy()
    tie[random.integers(0, n, 2)] = logits.max() + 1
    words = {"temperature": _float(0.8), "top_k": 40, "top_p": _float(0.95), "min_p": _float(0.05), "seed": 7}
    step, token = _draw(logits, 0.8, 40, 0.95, 0.05, 7)
    greedy = _sampled(kernel, tie, batch(3, 20, step=5), int(tie.argmax()))
    return greedy, _sampled(kernel, logits, batch(3, 20, step=step, **words), token)


def _sampled(kernel: Kernel, logits: np.ndarray, words: Data, token: int) -> Case:
    after = words.rows[0].copy()
    after[IO.n_past] += after[IO.n_tokens]
    after[IO.n_tokens] = 1
    after[IO.step] += 1
    after[IO.tokens] = token
    expected = Expected("batch", words.at, after[None], 0.0, np.uint32)
    return Case((Run(kernel, (1, 1, 1)),), (whole("logits", logits), words), (expected,))


def _logits(n: int, random: np.random.Generator) -> np.ndarray:
    """A few likely tokens, no two alike; all others are alike, which costs no random numbers."""
    logits = np.full(n, -9, np.float32)
    likely = min(n, _LIKELY)
    at = random.permutation(n)[:likely] if n < 1024 else np.unique(random.integers(0, n, likely))
    logits[at] = 4 - 6 * random.permutation(len(at)) / len(at)
    return logits


def _draw(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> tuple[int, int]:
    """A step of the random generator at which the filters decide, and what is drawn then (wgsl/sample.wgsl): one whose
    token no rounding changes."""
    order = (
        np.argsort(-logits, kind="stable")[: top_k + 1].astype(np.uint32) if len(logits) < 1024 else _largest(logits)
    )
    p = np.exp(logits[order].astype(np.float64) - logits[order[0]])
    among = np.arange(len(order)) < top_k
    before = (np.cumsum(p * among) - p) / (p * among).sum()
    best = None
    for step in range(64):
        value = np.log(p) / temperature + _gumbel(order, step, seed)
        winners = set()
        for nearly in (top_p - 1e-3, top_p + 1e-3):
            kept = np.where(among & (before < nearly) & (p >= min_p), value, -np.inf)
            winners |= set(np.flatnonzero(kept > kept.max() - 0.05))
        if len(winners) == 1:
            (winner,) = winners
            best = best or (step, int(order[winner]))
            if value.argmax() != winner:  # without the filters, another token would have won
                return step, int(order[winner])
    assert best, "one of so many draws is clear"
    return best


def _largest(logits: np.ndarray) -> np.ndarray:
    """The likely tokens, the largest first."""
    at = np.flatnonzero(logits > logits.min())
    return at[np.argsort(-logits[at], kind="stable")].astype(np.uint32)


def _gumbel(tokens: np.ndarray, step: int, seed: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        h = _hash(tokens ^ _hash(np.uint32(step) ^ _hash(np.array([seed], np.uint32))))
    v = (h + 0.5) / 2**32
    return -np.log(-np.log1p(-v))


def _hash(v: np.ndarray) -> np.ndarray:
    """PCG hash (Jarzynski and Olano)."""
    state = v * np.uint32(747796405) + np.uint32(2891336453)
    word = ((state >> ((state >> np.uint32(28)) + np.uint32(4))) ^ state) * np.uint32(277803737)
    return (word >> np.uint32(22)) ^ word


def _float(value: float) -> int:
    return int(np.float32(value).view(np.uint32))
