"""Cases of the matrix products: a workgroup or two, of few different rows and tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.kernels.checks.case import (
    LIMIT,
    LIMIT_F16,
    Case,
    Data,
    Expected,
    Run,
    Weight,
    batch,
    evaluated,
    in_lane_order,
    lane_place,
    rms_normed,
    rng,
    weight,
    whole,
)
from llamaweb.kernels.formats import BLOCK, FORMATS, Format
from llamaweb.kernels.kernel import GLU, Kernel
from llamaweb.kernels.mul_mat import quantized_bytes

_MOST_ROWS = 96  # of a token's product that are compared
MOST_TOKENS = 131  # of a batch, which are a tile and the next one's first, …
MOST_BYTES = 2 << 20  # … and of its input and of its results, which lie as far apart as the model's
FEW = 4  # … tokens, that are taken however long they are
_TOKENS = 3  # different ones of a batch


def mul_mat_vec(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    k, columns, n, glu = c["k"], c["columns"], c["n"], c["epilogue"] in GLU
    out = n // 2 if glu else n
    each = c["workgroup"] // c["lanes"] * c["rows_per_group"] // (2 if glu else 1)
    rows = min(out, 2 * each, _MOST_ROWS)
    w = weight(_format(c), k, _groups(_format(c), k, rows, out, glu), columns)
    n_tokens = 2 if c["last_row"] else 1
    x = random.standard_normal((n_tokens, columns), np.float32)
    data = [whole("x", in_lane_order(x[0]) if c["x_lanes"] else _in_rows(x, k))]
    expected = []
    h = x[-1]
    if c["post_eps"] is not None:
        post, norm = 3 * random.standard_normal(columns, np.float32), _norm(random, columns)
        data += [whole("post", in_lane_order(post) if c["post_lanes"] else _in_rows(post[None], k))]
        data += [whole("post_norm_weight", in_lane_order(norm))]
        h = h + rms_normed(post, norm, c["post_eps"])
    if c["sum_scale"]:
        h = h * np.float32(1.5)
        data.append(whole("sum_scale", np.array([1.5], np.float32)))
    if c["keeps_sum"]:
        kept = whole("sum", in_lane_order(h) if c["sum_lanes"] else h)
        expected.append(Expected("sum", kept.at, kept.rows))
    if c["norm"]:
        norm = _norm(random, columns)
        data.append(whole("norm_weight", in_lane_order(norm)))
        h = rms_normed(h, norm, c["eps"])
    if c["center_eps"] is not None:
        norm, shift = _norm(random, columns), _norm(random, columns) * c["norm_bias"]
        data.append(whole("norm_weight", in_lane_order(norm)))
        if c["norm_bias"]:
            data.append(whole("norm_bias", in_lane_order(shift)))
        h = h.astype(np.float64)
        h = (h - h.mean()) / np.sqrt(h.var() + c["center_eps"]) * norm + shift
    if c["last_row"]:
        data.append(batch(n_tokens))
    y = _product(w, _zeros_behind(h[None], k))[0]
    y, of_results = _scaled_and_biased(y, w, c, random)
    data += of_results
    if c["by"] is None:
        y = _results(y[None], rows, c)[0]
    else:
        up = random.standard_normal(rows, np.float32)
        place = np.arange(c["by"], c["by"] + rows)
        place = lane_place(place, c["by_row"]) if c["by_lanes"] else place
        data.append(Data("by", 4 * place, up[:, None]))
        y = evaluated((c["epilogue"].removeprefix("by_"), 0, 1), [y[:rows] * (c["factor"] or 1), up])
    place = np.arange(c["offset"], c["offset"] + rows)
    place = lane_place(place, c["y_row"]) if c["y_lanes"] else place
    if c["epilogue"] == "add":
        before = random.standard_normal(rows, np.float32)
        data.append(Data("y", 4 * place, before[:, None]))
        y = y + before
    expected.append(Expected("y", 4 * place, y[:, None].astype(np.float32)))
    workgroups = (min(2, -(-out // each)), 1, 1)
    return Case((Run(kernel, workgroups),), tuple(data), tuple(expected), w)


def mul_mat(kernel: Kernel, quantize: Kernel | None = None) -> Case:
    """quantize: the kernel that gives a packed product its input. Its values are made such that rounding them to
    integers of its bits loses nothing, so that what comes of them is compared as closely as anything else."""
    c, random = dict(kernel.constants), rng(kernel)
    k, columns, n, glu = c["k"], c["columns"], c["n"], c["epilogue"] in GLU
    out, tile = (n // 2, c["tile_n"] // 2) if glu else (n, c["tile_n"])
    rows = min(out, tile + 4)
    w = weight(_format(c), k, _groups(_format(c), k, rows, out, glu), columns)
    n_tokens = tokens_of(c["tile_m"] + 3, k, c["stride"])
    n_tokens = min(n_tokens, c["n_tokens"]) if quantize else n_tokens
    x = exact_in_integers(random, _TOKENS, k, quantize)[:, :columns]
    which = np.arange(n_tokens) % _TOKENS
    data = [whole("x", _in_rows(x, k)[which]), batch(n_tokens)]
    y = _product(w, _zeros_behind(x, k))
    y, of_results = _scaled_and_biased(y, w, c, random)
    data += of_results
    y = _results(y, rows, c)
    # Tokens of all rows that an invocation has, each another invocation's, and those of the next tile
    step = c["wy"] + 1 if "matrix" not in c else 5
    seen = np.unique([*range(0, min(c["tile_m"], n_tokens), step), n_tokens - 1])
    y = y[which[seen]]
    at = 4 * (seen * c["stride"] + c["offset"])
    if c["epilogue"] == "add":
        before = random.standard_normal((len(seen), rows), np.float32)
        data.append(Data("y", at, before))
        y = y + before
    exact = not c.get("half") and ("matrix" not in c or c["matrix"].component == "f32")
    expected = Expected("y", at, y.astype(np.float32), LIMIT if exact else LIMIT_F16)
    workgroups = (min(2, -(-out // tile)), -(-n_tokens // c["tile_m"]), 1)
    reach = {"y": 4 * n_tokens * c["stride"]}
    run = Run(kernel, workgroups)
    if not quantize:
        return Case((run,), tuple(data), (expected,), w, reach)
    return Case((quantizing(quantize, n_tokens), run), tuple(data), (expected,), w, reach | codes_of(quantize))


def tokens_of(wanted: int, *rows: int) -> int:
    """So many, or as many as there may be where rows of so many numbers each are the model's."""
    return min(wanted, MOST_TOKENS, *(max(MOST_BYTES // (4 * row), FEW) for row in rows))


def exact_in_integers(random: np.random.Generator, rows: int, k: int, quantize: Kernel | None) -> np.ndarray:
    """Rows of which rounding to integers as `quantize` does loses nothing."""
    codes_of_x = dict(quantize.constants)["codes"] if quantize else "i8"
    top, each = {"i8": (127, 2.0**-9), "i16": (32512, 2.0**-17), "f16": (1023, 2.0**-12)}[codes_of_x]
    codes = random.integers(-top, top + 1, (rows, k // BLOCK, BLOCK))
    codes[..., 0] = top
    if codes_of_x == "f16":  # of each row another scale, by a number that no first invocation reads
        codes = codes // 2
        codes[:, 0, 5] = -top
    scale = each * np.where(codes_of_x == "f16", 4.0, 1.0) ** (np.arange(rows) % _TOKENS)[:, None, None]
    return (codes * scale).astype(np.float32).reshape(rows, k)


def quantizing(quantize: Kernel, n_tokens: int) -> Run:
    """What gives a packed product its input."""
    q = dict(quantize.constants)
    across = 1 if q["codes"] == "f16" else -(-q["k"] // BLOCK // q["workgroup"])
    return Run(quantize, (across, n_tokens, 1), {"y": "x_q"})


def codes_of(quantize: Kernel) -> dict[str, int]:
    """The room that it needs."""
    q = dict(quantize.constants)
    return {"x_q": quantized_bytes(q["k"], q["n_tokens"], q.get("bits", 16))}


def get_rows(kernel: Kernel) -> Case:
    c = dict(kernel.constants)
    first, count = c["piece"] or (0, c["rows"])
    w = weight(_format(c), c["k"], _groups(_format(c), c["k"], min(count, 8), count, False))
    order = {"token": [3, 0, 6, 1], "position": [3, 4, 5, 6], "row": [0, 1, 2, 3]}[c["by"]]
    tokens = np.array(order[:1] if c["y_lanes"] else order, np.uint32)
    tokens = np.minimum(tokens, len(w.dense) - 1) if c["by"] == "row" else tokens % len(w.dense)
    y = w.dense[tokens] * c["scale"]
    words = batch(len(tokens), n_past=int(tokens[0] + first))
    words.rows[0, -4:][: len(tokens)] = tokens + first
    data = [words]
    if c["texts"]:  # of one token each, which begin so far before it that its position is the row, modulo 2**32
        each = np.arange(len(tokens), dtype=np.uint32)
        words_of = (each, each - np.uint32(first) - tokens)
        data += [whole("batch", x, 4 * at) for x, at in zip(words_of, c["texts"], strict=True)]
    expected = whole("y", in_lane_order(y[0]) if c["y_lanes"] else y)
    expected = Expected("y", expected.at, expected.rows.astype(np.float32))
    return Case((Run(kernel, (1, len(tokens), 1)),), tuple(data), (expected,), w)


def _format(constants: dict[str, Any]) -> Format:
    return next(format for format in FORMATS.values() if format.name == constants["format"])


def _groups(format: Format, k: int, rows: int, out: int, glu: bool) -> tuple[tuple[int, int], ...]:
    """Which rows of W: the first, and the same of the ups behind the gates; all as one where that is all there is."""
    blocks = k // format.block_size
    while rows < out and rows * blocks % format.unit:
        rows += 1  # whole units
    if not glu:
        return ((0, rows),)
    return ((0, 2 * out),) if rows == out else ((0, rows), (out, rows))


def _norm(random: np.random.Generator, k: int) -> np.ndarray:
    return np.float32(0.25) + np.float32(0.03) * random.standard_normal(k, np.float32)


def _zeros_behind(x: np.ndarray, k: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, k - x.shape[1])))


def _in_rows(x: np.ndarray, k: int) -> np.ndarray:
    """Rows of k numbers, with something behind what is there that is to be read as zeros."""
    return np.pad(x, ((0, 0), (0, k - x.shape[1])), constant_values=1e3)


def _product(w: Weight, x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) @ w.dense.T


def _scaled_and_biased(
    y: np.ndarray, w: Weight, c: dict[str, Any], random: np.random.Generator
) -> tuple[np.ndarray, list[Data]]:
    """Each tensor that W is of has a scale of its own, each group of rows a bias."""
    data = []
    if c["scaled"] is not None:
        scales = random.uniform(0.5, 2, 1 + len(c["scaled"])).astype(np.float32)
        rows = np.concatenate([np.arange(first, first + count) for first, count in w.groups])
        y = y * scales[sum(rows >= end for end in c["scaled"]) if c["scaled"] else rows * 0]
        data.append(whole("tensor_scales", scales))
    if c["bias"]:
        bias = random.standard_normal((len(w.groups), len(w.dense) // len(w.groups)), np.float32)
        y = y + bias.reshape(-1)
        data.append(Data("bias", np.array([4 * first for first, _ in w.groups]), bias))
    return y, data


def _results(y: np.ndarray, rows: int, c: dict[str, Any]) -> np.ndarray:
    """The first rows' results (tokens, rows); for a gated linear unit, of gates and their ups."""
    y, epilogue = y * (c["factor"] or 1), c["epilogue"]
    if epilogue in ("store", "add"):
        return y[:, :rows]
    if epilogue not in GLU:
        return evaluated((epilogue, 0), [y[:, :rows]])
    half = y.shape[1] // 2
    return evaluated((epilogue, 0, 1), [y[:, :rows], y[:, half : half + rows]])
