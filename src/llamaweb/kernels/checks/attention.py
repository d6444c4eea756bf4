"""Cases of rope, the cache and attention: one key-value head, over few different rows of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamaweb.ggml import GGMLType, dequantize, quantize
from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat
from llamaweb.kernels.checks.case import LIMIT, Case, Data, Expected, Run, batch, lane_place, rms_normed, rng, whole
from llamaweb.kernels.kernel import Kernel

MOST_TOKENS = 67  # of a batch
_ROWS = 13  # different keys and values
_TOKENS = 3  # different ones of a batch
_FAR = 600  # positions: a window that is wider is not looked past
_ROUNDED = {"q8_0": 1e-4, "q4_0": 2e-2}  # what rounding new rows of a cache to the format takes, at most
_OF_ROUNDED = 1e-4  # of attention where the token's own row of a quantized cache may be rounded to the other side


def rope_kv(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    dim, heads, kv_heads, first = c["head_dim"], c["n_head"], c["n_head_kv"], c["first_kv"]
    group, keys = heads // kv_heads, (heads + kv_heads) * dim
    n_tokens = min(_TOKENS, c["n_ctx"])
    n_past = c["ring"] + c["n_ctx"] - 1 if c["ring"] else min(37, c["n_ctx"] - n_tokens)
    row = random.standard_normal((n_tokens, c["qkv_row"]), np.float32)
    qkv, values = row[:, :keys].reshape(n_tokens, -1, dim), row[:, keys:].reshape(n_tokens, -1, c["head_dim_v"])
    data = [whole("qkv", row), batch(n_tokens, n_past)]
    given, turns, norms = _rotation(c, random)
    positions = n_past + np.arange(n_tokens)
    bound = slice(first * group, (first + c["kv_heads"]) * group)
    q = _rotated(c, qkv[:, bound], norms[0], turns, positions)
    k = _rotated(c, qkv[:, heads + first : heads + first + 1], norms[1], turns, positions)[:, 0]
    at = 4 * (np.arange(n_tokens) * c["qkv_row"] + dim * bound.start)
    expected = [Expected("qkv", at, q.reshape(n_tokens, -1).astype(np.float32)), *_new_rows(c, "k", positions, k)]
    values = _normed(values, c["v_eps"])
    expected += _new_rows(c, "v", positions, values[:, first]) if c["type_v"] else []
    workgroups = (c["kv_heads"] * (group + (2 if c["type_v"] else 1)), n_tokens, 1)
    return Case((Run(kernel, workgroups),), (*data, *given), tuple(expected))


def rope(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    n_past, dim, heads = 37, c["head_dim"], c["heads"]
    n_tokens = _TOKENS if c["x_pitch"] and c["y_pitch"] else 1
    x = random.standard_normal((n_tokens, heads, dim), np.float32)
    given, turns, norms = _rotation({**c, "head_eps": None}, random)
    y = _rotated({**c, "head_eps": None}, x, norms[0], turns, n_past + np.arange(n_tokens))
    rows = np.arange(n_tokens)
    data = (Data(c["x"], 4 * (c["x_first"] + c["x_pitch"] * rows), x.reshape(n_tokens, -1)), batch(n_tokens, n_past))
    at = 4 * (c["y_first"] + c["y_pitch"] * rows)
    expected = Expected("y", at, y.reshape(n_tokens, -1).astype(np.float32))
    workgroups = (-(-heads * (dim - c["n_dims"] // 2) // c["workgroup"]), n_tokens, 1)
    return Case((Run(kernel, workgroups),), (*data, *given), (expected,))


def flash_attn_vec(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    dim, first, n_head, splits = c["head_dim"], c["first_kv"], c["n_head"], c["splits"]
    group = n_head // c["n_head_kv"]
    seen = min(group, 2 * c["heads"])  # heads of two workgroups that share a key
    h0 = first * group
    position = _past(c, c["workgroup"] + 5, 1)
    q, k = (random.standard_normal((n, dim), np.float32) for n in (seen, 1))
    v = random.standard_normal((1, c["head_dim_v"]), np.float32)
    data = [Data("qkv", 4 * dim * np.array([h0]), q.reshape(1, -1)), batch(1, position)]
    turned, expected = q, []
    filled = position + 1  # behind rope_kv, the token's own row is there already
    appends = not c["rotated"] and not c["shared"]
    if not c["rotated"]:
        given, turns, norms = _rotation(c, random)
        data += given
        at = np.array([position])
        turned = _rotated(c, q[None], norms[0], turns, at)[0]
    if appends:
        filled = position
        data += [Data("qkv", 4 * dim * np.array([n_head + first]), k)]
        at_v = (n_head + c["n_head_kv"]) * dim + first * c["head_dim_v"]
        data += [Data("qkv", 4 * np.array([at_v]), v)] if c["type_v"] else []
        k = _rotated(c, k[None], norms[1], turns, at)[0]
        v = _normed(v, c["v_eps"])
        expected += _new_rows(c, "k", at, k) + (_new_rows(c, "v", at, v) if c["type_v"] else [])
    positions = np.arange(max(position + 1 - (c["window"] or position + 1), 0), filled)
    keys, values = _cached_both(c, positions, random, data)
    if appends:
        keys = np.vstack([keys, _as_cached(c, "k", k)])
        values = np.vstack([values, _as_cached(c, "v", v)]) if c["type_v"] else keys[:, : c["head_dim_v"]]
    sinks = _sinks(c, random, data)
    y = _attended(turned, keys, values, c, position, sinks[h0 : h0 + seen])
    blocks = any(CACHE_FORMATS[type].block for type in (c["type_k"], c["type_v"]) if type)
    limit = _OF_ROUNDED if blocks else LIMIT
    heads = h0 + np.arange(seen)
    if splits > 1:
        row = c["width_v"] + 4
        at = 4 * row * (heads[:, None] * splits + np.arange(splits)).reshape(-1)

        def together(found: np.ndarray) -> np.ndarray:
            return _put_together(found.reshape(seen, splits, row))[:, : c["head_dim_v"]]

        expected.append(Expected("y", at, y.astype(np.float32), limit, of=together, words=row))
    else:
        expected.append(_output(c, c["head_dim_v"], heads, y, limit))
    return Case((Run(kernel, (seen // c["heads"], splits, 1)),), tuple(data), tuple(expected))


def _normed(values: np.ndarray, eps: float | None) -> np.ndarray:
    """Each head by its root of the mean square, if there is an epsilon."""
    if eps is None:
        return values
    return np.asarray(values / np.sqrt(np.square(values.astype(np.float64)).mean(-1, keepdims=True) + eps))


def flash_attn_reduce(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    seen = min(c["n_head"], 2)
    parts = random.standard_normal((seen, c["splits"], c["width"] + 4), np.float32)
    parts[..., -3] = np.abs(parts[..., -3]) + 1  # of weights; before it, the largest score
    output = _output(c, c["head_dim"], np.arange(seen), _put_together(parts)[:, : c["head_dim"]], LIMIT)
    return Case((Run(kernel, (seen, 1, 1)),), (whole("x", parts),), (output,))


def flash_attn(kernel: Kernel) -> Case:
    c, random = dict(kernel.constants), rng(kernel)
    if c["texts"]:
        return _of_texts(kernel)
    dim, n_head, first, queries = c["head_dim"], c["n_head"], c["first_kv"], c["queries"]
    group = n_head // c["n_head_kv"]
    seen, h0 = min(2, group), first * group
    n_tokens = min(queries + 3, MOST_TOKENS, -(-c["n_ctx"] // 2))
    n_tokens = min(n_tokens, c["ring"] - c["window"]) if c["ring"] else n_tokens
    n_past = _past(c, c["keys"] + 5, n_tokens)
    q = random.standard_normal((_TOKENS, seen * dim), np.float32)
    which = np.arange(n_tokens) % _TOKENS
    at = 4 * (np.arange(n_tokens) * c["qkv_row"] + h0 * dim)
    data = [Data("qkv", at, q[which]), batch(n_tokens, n_past)]
    oldest = max(n_past + 1 - (c["window"] or n_past + 1), 0)
    positions = np.arange(oldest, n_past + n_tokens)
    keys, values = _cached_both(c, positions, random, data)
    sinks = _sinks(c, random, data)[h0 : h0 + seen]
    # Tokens of all rows that an invocation has, each another invocation's, and the last one
    tokens = np.unique([*range(0, n_tokens, c["wq"] + 1), n_tokens - 1])
    y = np.empty((len(tokens), seen, c["head_dim_v"]))
    for i, t in enumerate(tokens):
        own = n_past + t
        of_token = slice(max(own + 1 - c["window"] - oldest, 0) if c["window"] else 0, own + 1 - oldest)
        y[i] = _attended(q[which[t]].reshape(seen, dim), keys[of_token], values[of_token], c, own, sinks)
    at = 4 * (tokens * c["y_row"] + h0 * c["head_dim_v"])
    expected = Expected("y", at, y.reshape(len(tokens), -1).astype(np.float32))
    reach = {"y": 4 * n_tokens * c["y_row"]}
    workgroups = (seen, -(-n_tokens // queries), 1)
    return Case((Run(kernel, workgroups),), tuple(data), (expected,), reach=reach)


def _of_texts(kernel: Kernel) -> Case:
    """Three texts, one of which goes on in the next tile of queries, and another of one token."""
    c, random = dict(kernel.constants), rng(kernel)
    dim, dim_v, n_head, kv_heads = c["head_dim"], c["head_dim_v"], c["n_head"], c["n_head_kv"]
    seen = min(2, n_head // kv_heads)
    n_tokens = min(c["queries"] + 3, MOST_TOKENS, c["n_ctx"])
    begins = np.unique([0, n_tokens // 3, n_tokens // 3 + 1, n_tokens])
    text_of = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
    q = random.standard_normal((n_tokens, seen, dim), np.float32)
    k, v = (random.standard_normal((n_tokens, size), np.float32) for size in (dim, dim_v))
    v = v if c["type_v"] else k[:, :dim_v]
    places = ((0, q), (n_head * dim, k), *([((n_head + kv_heads) * dim, v)] if c["type_v"] else []))
    at = 4 * c["qkv_row"] * np.arange(n_tokens)
    data = [Data("qkv", at + 4 * first, x.reshape(n_tokens, -1)) for first, x in places]
    words = zip((text_of, begins), c["texts"], strict=True)
    data += [batch(n_tokens), *(whole("batch", x.astype(np.uint32), 4 * at) for x, at in words)]
    sinks = _sinks(c, random, data)[:seen]
    y = np.empty((n_tokens, seen, dim_v))
    for t in range(n_tokens):
        first, end = begins[text_of[t]], begins[text_of[t] + 1]
        back = (c["window"] - 1 if c["causal"] else c["window"] // 2) if c["window"] else n_tokens
        seen_by = slice(max(first, t - back), t + 1 if c["causal"] else min(end, t + back + 1))
        y[t] = _attended(q[t], k[seen_by], v[seen_by], c, t - first, sinks)
    expected = Expected("y", 4 * c["y_row"] * np.arange(n_tokens), y.reshape(n_tokens, -1).astype(np.float32))
    workgroups = (seen, -(-n_tokens // c["queries"]), 1)
    reach = {"qkv": 4 * c["qkv_row"] * n_tokens, "y": 4 * c["y_row"] * n_tokens}
    return Case((Run(kernel, workgroups),), tuple(data), (expected,), reach=reach)


def _past(c: dict[str, Any], wanted: int, n_tokens: int) -> int:
    """Tokens before a batch: more than a step, and than a window or a ring holds."""
    if c["ring"]:
        return int(c["ring"] + 5)
    if c["window"]:
        wanted = max(wanted, c["window"] + 5 if c["window"] <= _FAR else 0)
    return int(min(wanted, c["n_ctx"] - n_tokens))


def _rotation(c: dict[str, Any], random: np.random.Generator) -> tuple[list[Data], np.ndarray, np.ndarray]:
    """What the kernel reads for it, turns a position of each pair, and the norms of q's and k's heads."""
    phases = random.integers(0, 1 << 32, c["n_dims"] // 2, np.uint32)
    norms = 1 + np.float32(0.1) * random.standard_normal((2, c["head_dim"]), np.float32)
    data = [whole("phases", phases)] if c["mode"] else []
    return data + ([whole("head_norm", norms)] if c["head_eps"] is not None else []), phases / 2**32, norms


def _rotated(
    c: dict[str, Any], x: np.ndarray, norm: np.ndarray, turns: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """x (tokens, heads, head_dim), normed where the model does, before or behind it, and rotated to positions."""
    y = x.astype(np.float64)
    behind = c.get("norm_behind", False)
    if c["head_eps"] is not None and not behind:
        y = rms_normed(y, norm, c["head_eps"])
    angle = 2 * np.pi * np.modf(positions[:, None] * turns)[0][:, None]
    cos, sin = c["magnitude"] * np.cos(angle), c["magnitude"] * np.sin(angle)
    pair = np.arange(c["n_dims"] // 2)
    a, b = (2 * pair, 2 * pair + 1) if c["mode"] == "norm" else (pair, pair + len(pair))
    a, b = a + c["offset"], b + c["offset"]
    y[..., a], y[..., b] = y[..., a] * cos - y[..., b] * sin, y[..., a] * sin + y[..., b] * cos
    return rms_normed(y, norm, c["head_eps"]) if behind else y


def _sinks(c: dict[str, Any], random: np.random.Generator, data: list[Data]) -> np.ndarray:
    """A score of each head, beside those of positions; without any, none that takes weight."""
    if not c["sinks"]:
        return np.full(c["n_head"], -np.inf)
    sinks = 3 + random.standard_normal(c["n_head"], np.float32)
    data.append(whole("sinks", sinks))
    return sinks


def _attended(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, c: dict[str, Any], position: int, sinks: np.ndarray
) -> np.ndarray:
    """Attention of q (heads, dim) at a position to all of k and v (positions, dim). sinks: of each head."""
    score = q @ k.T * c["scale"]
    if c["temperature"]:
        factor, floor = c["temperature"]
        score *= 1 + factor * np.log(position // floor + 1)
    if c["softcap"]:
        score = c["softcap"] * np.tanh(score / c["softcap"])
    top = np.maximum(score.max(-1), sinks)[:, None]
    weight = np.exp(score - top)
    return (weight / (weight.sum(-1, keepdims=True) + np.exp(sinks[:, None] - top))) @ v


def _put_together(parts: np.ndarray) -> np.ndarray:
    """Of splits (heads, splits, head_dim + 4), as flash_attn_vec leaves them: sums, the largest score, the sum of
    weights."""
    fade = np.exp(parts[..., -4] - parts[..., -4].max(-1, keepdims=True))
    sums = np.where(fade[..., None] > 0, parts[..., :-4], 0)  # a split may have no positions
    return (fade[..., None] * sums).sum(1) / (fade * parts[..., -3]).sum(-1, keepdims=True)


def _output(c: dict[str, Any], dim: int, heads: np.ndarray, y: np.ndarray, limit: float) -> Expected:
    """The results (heads, dim) of one token, four by four or one by one, in lane order or not."""
    each = 4 if dim % 4 == 0 else 1
    at = (heads[:, None] * dim + np.arange(0, dim, each)).reshape(-1)
    at = lane_place(at, c["n_head"] * dim) if c["y_lanes"] else at
    return Expected("y", 4 * at, y.reshape(-1, each).astype(np.float32), limit)


def _row(c: dict[str, Any], positions: np.ndarray) -> np.ndarray:
    """Of the first bound head."""
    return positions % c["ring"] if c["ring"] else positions


def _dims(c: dict[str, Any], name: str) -> tuple[int, int]:
    """Numbers of a head of keys or values, and of a row of its cache."""
    return (c["head_dim"], c["width"]) if name == "k" else (c["head_dim_v"], c["width_v"])


def _cached_both(
    c: dict[str, Any], positions: np.ndarray, random: np.random.Generator, data: list[Data]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values at positions, put into the data."""
    keys = _cached(c, "k", positions, random, data)
    return keys, _cached(c, "v", positions, random, data) if c["type_v"] else keys[:, : c["head_dim_v"]]


def _cached(
    c: dict[str, Any], name: str, positions: np.ndarray, random: np.random.Generator, data: list[Data]
) -> np.ndarray:
    """Puts made rows of a cache at positions into the data, and gives their values."""
    format, (size, dim) = CACHE_FORMATS[c[f"type_{name}"]], _dims(c, name)
    made = random.standard_normal((_ROWS, dim), np.float32)
    made[:, size:] = 0
    which, row = positions % _ROWS, _row(c, positions)
    values, scales = _encoded(format, made)
    if len(positions):
        data.append(Data(f"{name}_cache", row * (dim * format.bits // 8), values[which]))
    if len(positions) and format.block:
        words = _scale_words(format, dim, scales)
        at = 4 * c[f"{name}_scales"] + row * words.shape[1] * 4
        data.append(Data(f"{name}_cache", at, words[which]))
    return _as_cached(c, name, made)[which, :size]


def _new_rows(c: dict[str, Any], name: str, positions: np.ndarray, x: np.ndarray) -> list[Expected]:
    """That the kernel has written rows of x (tokens, numbers) at positions, rounded to the cache's format."""
    format, (own, dim), slot = CACHE_FORMATS[c[f"type_{name}"]], _dims(c, name), f"{name}_cache"
    x = np.pad(x, ((0, 0), (0, dim - own)))
    row, size = _row(c, positions), dim * format.bits // 8
    if not format.block:
        dtype = np.float16 if format.bits == 16 else np.float32
        return [Expected(slot, row * size, x.astype(np.float32), LIMIT, dtype, words=size // 4)]
    blocks = x.reshape(len(x), -1, format.block)
    scales = _scale(format, blocks)
    each, words = (2, dim // 32) if format.unit(dim) == format.block else (1, dim // 64)

    def scales_of(found: np.ndarray) -> np.ndarray:
        return found[:, ::each]

    def codes_of(found: np.ndarray) -> np.ndarray:
        return _codes(format, found)

    codes = (blocks / scales[..., None]).reshape(len(x), dim).astype(np.float32)
    at = 4 * (c[f"{name}_scales"] + row * words)
    return [
        Expected(slot, row * size, codes, _ROUNDED[format.name], np.uint8, codes_of, size // 4),
        Expected(slot, at, scales.astype(np.float32), LIMIT, np.float16, scales_of, words),
    ]


def _scale(format: CacheFormat, blocks: np.ndarray) -> np.ndarray:
    if format.bits == 8:
        return np.abs(blocks).max(-1) / 127
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0] / -8


def _codes(format: CacheFormat, found: np.ndarray) -> np.ndarray:
    """The numbers in bytes of rows."""
    if format.bits == 8:
        return found.view(np.int8)
    blocks = found.reshape(len(found), -1, 16)
    return np.concatenate([blocks & 15, blocks >> 4], -1).reshape(len(found), -1).astype(np.float32) - 8


def _encoded(format: CacheFormat, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as the cache holds them: values' bytes, and scales, f16 (rows, blocks)."""
    if not format.block:
        return x.astype(np.float16 if format.bits == 16 else np.float32), np.empty(0)
    blocks = quantize(x, GGMLType[format.name.upper()]).reshape(len(x), -1, 2 + 4 * format.bits)
    return blocks[..., 2:].reshape(len(x), -1), blocks[..., :2].copy().view(np.float16)[..., 0]


def _scale_words(format: CacheFormat, dim: int, scales: np.ndarray) -> np.ndarray:
    """Scales in whole words: two, or where a row has an odd number of them, one each."""
    if format.unit(dim) == format.block:
        scales = np.stack([scales, np.zeros_like(scales)], -1).reshape(len(scales), -1)
    return np.ascontiguousarray(scales).view(np.uint32)


def _as_cached(c: dict[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    """Values as they come back out of the cache, float32."""
    format = CACHE_FORMATS[c[f"type_{name}"]]
    values, _ = _encoded(format, x.astype(np.float32))
    if not format.block:
        return values.astype(np.float32)
    type = GGMLType[format.name.upper()]
    return dequantize(quantize(x.astype(np.float32), type), type).astype(np.float32)
