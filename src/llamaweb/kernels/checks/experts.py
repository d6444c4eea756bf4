"""Cases of the kernels of experts: few of these, and few of their rows."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from llamaweb.kernels.checks.case import (
    LIMIT,
    LIMIT_F16,
    Case,
    Data,
    Expected,
    Run,
    batch,
    evaluated,
    rng,
    weight,
    whole,
)
from llamaweb.kernels.checks.products import codes_of, exact_in_integers, quantizing, tokens_of
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.kernel import GLU, Kernel

_TOKENS = 2
_FOUND = 48 << 10  # bytes of results that are looked at, or those of two tokens


def top_k(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    n, used = c["n_expert"], c["used"]
    logits = random.permuted(np.tile(np.linspace(-3, 3, n, dtype=np.float32), (_TOKENS, 1)), axis=1)
    bias = random.permutation(np.linspace(-0.5, 0.5, n, dtype=np.float32)) if c["bias"] else None
    ids, shares = routed(logits.astype(np.float64), bias, **{name: c[name] for name in ROUTED})
    rows = 4 * c["y_pitch"] * np.arange(_TOKENS)
    data = [Data("x", 4 * (c["x_first"] + c["x_pitch"] * np.arange(_TOKENS)), logits)]
    data += [] if bias is None else [whole("probs_bias", bias)]
    chosen = Expected("y", rows, 1 + ids.astype(np.float32), of=lambda found: 1 + found.view(np.uint32))
    shared = Expected("y", rows + 4 * used, shares.astype(np.float32))
    return Case((Run(kernel, (1, _TOKENS, 1)),), tuple(data), (chosen, shared))


ROUTED = ("used", "gating", "groups", "norm", "scale")


def routed(
    logits: np.ndarray,
    probs_bias: np.ndarray | None = None,
    *,
    used: int,
    gating: str,
    groups: tuple[int, int],
    norm: bool,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The experts of each row of logits, and their weights, both (tokens, used), as operations.experts.top_k says."""
    rows = np.arange(len(logits))[:, None]
    probs = _softmax(logits) if gating == "softmax" else evaluated(("sigmoid", 0), [logits])
    probs = logits if gating == "softmax_weight" else probs
    choice = probs + (0 if probs_bias is None else probs_bias)
    n_group, used_groups = groups
    if n_group > 1:
        grouped = choice.reshape(len(choice), n_group, -1)
        of_group = np.sort(grouped, axis=-1)[..., -2:].sum(-1)
        out = np.argsort(-of_group, axis=-1, kind="stable")[:, used_groups:]
        grouped[rows, out] = -np.inf
    ids = np.argsort(-choice, axis=-1, kind="stable")[:, :used]
    shares = probs[rows, ids]
    shares = _softmax(shares) if gating == "softmax_weight" else shares
    shares = shares / np.maximum(shares.sum(-1, keepdims=True), 2.0**-14) if norm else shares
    return ids, shares * scale


def _softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def mul_mat_id(kernel: Kernel, quantize: Kernel | None = None) -> Case:
    """All routes are to the first two experts that are bound; rows of these are there that two workgroups compute, and
    of tokens as many as have a tile of each and a few pairs more. Without routes, what these two have and give.
    quantize: what gives a packed product its input."""
    c, random = dict(kernel.constants), rng(kernel)
    k, columns, n, used, glu = c["k"], c["columns"], c["n"], c["used"], c["epilogue"] in GLU
    format = next(format for format in FORMATS.values() if format.name == c["format"])
    first, bound = c["piece"] or (0, n * c["n_expert"] * (1 if glu else c["stacked"]))
    tiled, sums = "tile_n" in c, c.get("sums", False)
    each = (c["tile_n"] if tiled else c["workgroup"] // c["lanes"] * c["rows_per_group"]) // (2 if glu else 1)
    outs = min(n, 2 * each) if bound >= 2 * n else n
    mine = np.arange(used)  # of a token's parts, those that are looked at
    ids = np.minimum(-(-first // n) + mine[::-1] % 2, c["n_expert"] - 1)
    if not c["routed"]:
        mine = ids = np.unique(ids)
        used = len(mine)
    n_tokens = _of_tiles(c, used) if tiled else _TOKENS
    n_tokens = min(n_tokens, c["n_tokens"]) if quantize else n_tokens
    different = np.arange(n_tokens) % (_TOKENS + 1)
    routes = np.tile(ids.astype(np.uint32), (n_tokens, 1))
    shares = 1 + random.standard_normal((n_tokens, used), np.float32)

    # Rows of each stacked weight, the experts' one behind the other; of them, those that are bound and computed
    halves = c["stacked"] if glu or not c["piece"] else 1
    at = np.arange(outs) + n * np.unique(ids)[:, None] - first
    at = at[(at >= 0) & (at < bound)]
    per_weight = bound if glu else n * c["n_expert"]
    at = np.unique(np.concatenate([at + half * per_weight for half in range(halves)]))
    w = weight(format, k, _runs(at, halves * bound if glu else bound, k // format.block_size, format.unit), columns)
    there = np.concatenate([np.arange(begin, begin + count) for begin, count in w.groups])
    bias = random.standard_normal(len(there), np.float32) * bool(c["bias"])
    scales = random.uniform(0.5, 2, c["stacked"] * c["n_expert"]).astype(np.float32) if c["scaled"] else None
    weight_of = there // (bound if glu else n * c["n_expert"])
    expert_of = (there + first - weight_of * bound if glu else there + first) // n % c["n_expert"]

    own = mine if c["own"] else mine[:1]
    x = random.standard_normal((different.max() + 1, len(own), columns), np.float32)
    if quantize:
        x = exact_in_integers(random, x.shape[0] * len(own), k, quantize)[:, :columns].reshape(x.shape)
    padded = np.pad(x, ((0, 0), (0, 0), (0, k - columns)))
    results = np.repeat(padded, used // len(own), 1) @ w.dense.T  # (tokens, used, rows that are there)
    results = results * (1 if scales is None else scales[weight_of * c["n_expert"] + expert_of]) + bias

    def of(half: int) -> tuple[np.ndarray, np.ndarray]:
        """(different tokens, used, outs) of one of the stacked weights; which of them are bound (used, outs)."""
        row = n * ids[:, None] + np.arange(outs) - first
        known = (row >= 0) & (row < bound)
        place = np.searchsorted(there, np.where(known, row + half * per_weight, there[0]))
        return np.take_along_axis(results, np.broadcast_to(place, (len(x), *place.shape)), 2), known

    factor, pitch = c["factor"] or 1, c["pitches"][-1]
    parts = [of(half) for half in range(halves)]
    known = parts[0][1]
    if sums:
        y = (shares[..., None] * np.where(known, parts[0][0], 0)[different]).sum(1)[:, None] * factor
        known = np.ones((1, outs), bool)
    elif glu:
        y = evaluated((c["epilogue"], 0, 1), [parts[0][0] * factor, parts[1][0]])[different]
    else:
        y, known = np.concatenate([part for part, _ in parts], 1) * factor, np.concatenate([k for _, k in parts])
        y = (y if c["epilogue"] in ("store", "add") else evaluated((c["epilogue"], 0), [y]))[different]
    seen = np.unique([*range(0, n_tokens, -(-n_tokens * 4 * known.size // _FOUND)), n_tokens - 1])
    which, out = np.nonzero(known)
    part = which if c["routed"] else mine[which]
    to = c["y_first"] + c["apart"][1] * part + out + pitch * seen[:, None]
    expected = y[seen][:, which, out].reshape(-1, 1).astype(np.float32)
    at_x = c["x_first"] + c["pitches"][0] * np.arange(n_tokens)[:, None] + c["apart"][0] * own
    data = [Data("x", 4 * at_x.reshape(-1), x[different].reshape(-1, columns))]
    if not c["routed"]:
        data += [batch(n_tokens)] if tiled else []
    elif tiled:
        data.append(whole("routes", _sorted(routes, c)))
    else:
        at_routes = 4 * c["pitches"][1] * np.arange(n_tokens)
        data.append(Data("routes", at_routes, np.hstack([routes, shares.view(np.uint32)])))
    data += [] if scales is None else [whole("tensor_scales", scales)]
    data += [_at("bias", there, bias)] if c["bias"] else []
    if c["epilogue"] == "add":
        before = random.standard_normal(expected.shape, np.float32)
        data.append(_at("y", to.reshape(-1), before))
        expected = expected + before
    results = 1 if glu else c["stacked"]
    depth = 1 if sums else results if tiled else used * results
    depth = depth if c["routed"] else int(mine.max()) + 1
    across = -(-n_tokens // c["tile_m"]) if tiled else n_tokens
    workgroups = (-(-outs // each), 1 if tiled and c["routed"] else across, depth)  # by routes, one takes all tiles
    run, reach = Run(kernel, workgroups), {"y": 4 * n_tokens * pitch}
    in_halves = "matrix" in c and c["halves"]
    found = (Expected("y", 4 * to.reshape(-1), expected, LIMIT_F16 if in_halves else LIMIT),)
    if not quantize:
        return Case((run,), tuple(data), found, w, reach)
    data.append(batch(n_tokens))
    return Case((quantizing(quantize, n_tokens), run), tuple(data), found, w, reach | codes_of(quantize))


def _of_tiles(c: dict[str, Any], used: int) -> int:
    """Tokens of which each of two experts, or what is not routed, has more pairs than a tile."""
    wanted = c["tile_m"] + 3
    if not c["routed"]:
        return tokens_of(wanted, c["pitches"][0], c["pitches"][-1])
    if c["pairs_at"] <= 3 * 2 * 2:  # words of as many tiles
        return _TOKENS
    return tokens_of(max(-(-2 * wanted // used), _TOKENS), c["pitches"][0], c["pitches"][-1])


def _sorted(routes: np.ndarray, c: dict[str, Any]) -> np.ndarray:
    """Routes (tokens, used) as sort_ids leaves them."""
    experts = routes.reshape(-1)
    tiles = []
    for e, count in zip(*np.unique(experts, return_counts=True), strict=True):
        begin = int((experts < e).sum())
        tiles += [(e, begin + i, min(count - i, c["tile_m"])) for i in range(0, count, c["tile_m"])]
    words = np.zeros(c["pairs_at"] + len(experts), np.uint32)
    words[0], words[1 : 1 + 3 * len(tiles)] = len(tiles), np.array(tiles).reshape(-1)
    words[c["pairs_at"] :] = np.argsort(experts, kind="stable")
    return words


def sort_ids(kernel: Kernel) -> Case:
    """Of few experts, each of which has more pairs than a tile where a batch can be so long; of its pairs, any order is
    right."""
    c, random = dict(kernel.constants), rng(kernel)
    n, used, at, tile = c["n_expert"], c["used"], c["pairs_at"], c["tile"]
    fit = [t for t in range(1, 2 * tile) if 1 + 3 * (t * used // tile + min(n, t * used)) <= at]
    few = random.permutation(n)[: used + 1]
    ids = np.stack([random.permutation(few)[:used] for _ in range(fit[-1])]).astype(np.uint32)
    pairs = np.arange(ids.size)
    tiles, end = [], 0
    for expert, count in zip(*np.unique(ids, return_counts=True), strict=True):
        tiles += [(expert, end + i, min(count - i, tile)) for i in range(0, count, tile)]
        end += count
    of_pairs = ids.reshape(-1)[np.argsort(ids.reshape(-1), kind="stable")]

    def experts_of(found: np.ndarray) -> np.ndarray:
        return ids.reshape(-1)[np.minimum(found.view(np.uint32), len(pairs) - 1)].astype(np.float32)

    head = np.concatenate([[len(tiles)], *tiles])[None].astype(np.float32)
    data = (Data("routes", 4 * c["pitch"] * np.arange(len(ids)), ids), batch(len(ids)))
    words = Expected("y", np.array([0]), head, of=lambda found: found.view(np.uint32).astype(np.float32))
    sorted_ = Expected("y", np.array([4 * at]), of_pairs[None].astype(np.float32), of=experts_of)
    return Case((Run(kernel, (1, 1, 1)),), data, (words, sorted_))


def _runs(at: np.ndarray, end: int, blocks: int, unit: int) -> tuple[tuple[int, int], ...]:
    """The first and the count of rows that follow each other, in whole units of blocks each; all as one where that is
    not so."""
    runs = np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)
    step = unit // gcd(unit, blocks)
    begins = [int(run[0]) for run in runs]
    ends = [min(-(-(int(run[-1]) + 1) // step) * step, end) for run in runs]
    apart = all(stop <= begin for stop, begin in zip(ends, begins[1:], strict=False))
    if apart and all(begin % step == 0 for begin in begins):
        return tuple((begin, stop - begin) for begin, stop in zip(begins, ends, strict=True))
    return ((0, ends[-1]),)


def _at(slot: str, places: np.ndarray, values: np.ndarray) -> Data:
    return Data(slot, 4 * places, values.reshape(-1, 1))


def weighted_sum(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    n, used = c["n"], c["used"]
    x = random.standard_normal((_TOKENS, used * n), np.float32)
    shares = 1 + random.standard_normal((_TOKENS, used), np.float32)
    routes = np.hstack([np.zeros((_TOKENS, used), np.uint32), shares.view(np.uint32)])
    y = np.einsum("tu,tun->tn", shares, x.reshape(_TOKENS, used, n))
    rows = np.arange(_TOKENS)
    data = (Data("x", 4 * c["pitches"][0] * rows, x), Data("routes", 4 * c["pitches"][1] * rows, routes))
    workgroups = (-(-n // c["workgroup"]), _TOKENS, 1)
    return Case((Run(kernel, workgroups),), data, (Expected("y", 4 * c["pitches"][2] * rows, y),))
