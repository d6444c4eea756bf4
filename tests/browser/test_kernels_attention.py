"""Rope, the cache and both attention kernels against numpy in float64; the cache is poison beyond the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gguf
import numpy as np
import pytest
from kernel_bench import Bench, Case, batch, guarded, in_lane_order, poisoned, result, rms_normed

from llamaweb.kernels import library
from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat
from llamaweb.kernels.flash_attn import FlashAttn, default
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope, Yarn, phases
from tests.reference import nmse

rng = np.random.default_rng(3)
NAN = np.float16(np.nan)
NORM, NEOX = Rope("norm", 64), Rope("neox", 64, 500000.0)


@dataclass(frozen=True)
class Heads:
    """A shape of attention, with a rotation."""

    head_dim: int
    n_head: int
    n_head_kv: int
    rope: Rope
    n_ctx: int = 300

    @property
    def rows(self) -> int:
        return self.n_head + 2 * self.n_head_kv

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    def attention(self, **changes: Any) -> library.Attention:
        plain = (self.rope, self.head_dim, self.n_head, self.n_head_kv, self.n_ctx, self.scale)
        return replace(library.Attention(*plain), **changes)


SHAPES = {
    "8": Heads(8, 3, 1, Rope("norm", 8)),
    "16 neox": Heads(16, 2, 2, Rope("neox", 16)),
    "24 part of it rotated": Heads(24, 4, 1, Rope("neox", 16)),
    "64": Heads(64, 3, 1, NORM),
    "64 neox, part of it rotated, yarn": Heads(64, 4, 1, Rope("neox", 32, factor=4.0, yarn=Yarn(64.0))),
    "80": Heads(80, 6, 2, Rope("norm", 80, 1e6)),
    "128 linear": Heads(128, 4, 4, Rope("norm", 128, factor=2.5)),
    "256 neox": Heads(256, 2, 1, Rope("neox", 256)),
}
BY_SHAPE = pytest.mark.parametrize("heads", SHAPES.values(), ids=SHAPES)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def rotated(x: np.ndarray, rope: Rope, first: int) -> np.ndarray:
    """x (tokens, heads, head_dim) rotated as at positions `first` and on, float64."""
    y = x.astype(np.float64)
    pair = np.arange(rope.n_dims // 2)
    turns = phases(rope) / 2**32 if rope.yarn else rope.base ** (-2.0 * pair / rope.n_dims) / rope.factor / (2 * np.pi)
    angle = 2 * np.pi * (first + np.arange(len(x)))[:, None] * turns
    cos, sin = (rope.magnitude * f(angle)[:, None] for f in (np.cos, np.sin))
    a, b = (2 * pair, 2 * pair + 1) if rope.mode == "norm" else (pair, pair + rope.n_dims // 2)
    y[..., a], y[..., b] = y[..., a] * cos - y[..., b] * sin, y[..., a] * sin + y[..., b] * cos
    return y


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, window: int = 0) -> np.ndarray:
    """Causal attention of q (tokens, heads, dim), the last tokens of k and v (kv heads, positions, dim)."""
    tokens, n_head, dim = q.shape
    k, v = (np.repeat(x.astype(np.float64), n_head // len(x), axis=0) for x in (k, v))
    score = np.einsum("thd,hpd->thp", q.astype(np.float64), k) * scale
    position = k.shape[1] - tokens + np.arange(tokens)
    behind = position[:, None, None] - np.arange(k.shape[1])
    score[np.broadcast_to((behind < 0) | (behind >= (window or k.shape[1])), score.shape)] = -np.inf
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    return np.einsum("thp,hpd->thd", weight, v).reshape(tokens, n_head * dim)


def caches(heads: Heads, filled: int) -> tuple[np.ndarray, np.ndarray]:
    """K and V of one layer, f16 (kv heads, n_ctx, head_dim): `filled` positions, the rest poison."""
    k, v = (normal(heads.n_head_kv, heads.n_ctx, heads.head_dim).astype(np.float16) for _ in range(2))
    k[:, filled:] = v[:, filled:] = NAN
    return k, v


def check_cached(found: np.ndarray, expected: np.ndarray) -> None:
    """f16 values equal but for a last bit here and there, where float32 and float64 round apart."""
    np.testing.assert_allclose(
        found.astype(np.float32), expected.astype(np.float16).astype(np.float32), rtol=2e-3, atol=1e-6
    )
    assert np.mean(found == expected.astype(np.float16)) > 0.9


@BY_SHAPE
def test_rope_kv_rotates_q_in_place_and_appends_to_the_cache(bench: Bench, heads: Heads) -> None:
    cases, before = [], []
    for n_past, n_tokens in ((0, 1), (37, 5), (283, 17)):
        qkv, (k, v) = normal(n_tokens, heads.rows, heads.head_dim), caches(heads, n_past)
        launch = library.rope_kv(heads.attention(), 32)
        slots = {
            "qkv": guarded(qkv),
            "phases": phases(heads.rope),
            "batch": batch(n_tokens, n_past),
            "k_cache": k,
            "v_cache": v,
        }
        cases.append(Case(launch, slots, n_tokens))
        before.append((n_past, n_tokens, qkv, k, v))
    for found, (n_past, n_tokens, qkv, k, v) in zip(bench.run(cases), before, strict=True):
        q = result(found["qkv"], *qkv.shape)[:, : heads.n_head]
        np.testing.assert_allclose(q, rotated(qkv[:, : heads.n_head], heads.rope, n_past), atol=2e-5)
        new = slice(n_past, n_past + n_tokens)
        new_k, new_v = np.split(qkv[:, heads.n_head :], 2, axis=1)
        check_cached(found["k_cache"][:, new], rotated(new_k, heads.rope, n_past).swapaxes(0, 1))
        np.testing.assert_array_equal(found["v_cache"][:, new], new_v.swapaxes(0, 1).astype(np.float16))
        for name, cache in (("k_cache", k), ("v_cache", v)):
            untouched = np.delete(found[name], np.s_[new], axis=1)
            np.testing.assert_array_equal(untouched, np.delete(cache, np.s_[new], axis=1))


BATCHES = ((0, 2), (0, 70), (1, 17), (37, 65), (130, 1), (259, 5))


@BY_SHAPE
@pytest.mark.parametrize("least", [True, False], ids=["on any device", "on this one"])
def test_flash_attn_of_a_batch(bench: Bench, heads: Heads, least: bool) -> None:
    profile = DeviceProfile() if least else bench.profile
    check_batches(bench, heads, default(heads.head_dim, heads.n_head, 128, profile))


# Tokens and positions of an invocation: 1, 2, 4 and 8; K and V at once and by parts; lanes in pairs and in rows.
VARIANTS = (
    FlashAttn(16, 8, 64, 16, 8),
    FlashAttn(16, 64, 16, 8, 8),
    FlashAttn(64, 32, 16, 16, 8),
    FlashAttn(64, 16, 64, 8, 8),
    FlashAttn(8, 32, 64, 2, 16),
    FlashAttn(8, 128, 8, 4, 32, ahead=False),
    FlashAttn(32, 16, 64, 4, 16, ahead=False),
)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("window", [0, 37])
def test_every_tile_gives_the_attention_of_a_batch(bench: Bench, variant: FlashAttn, window: int) -> None:
    heads = Heads(64, 3, 1, NORM)
    assert variant.valid(heads.head_dim, bench.profile)
    check_batches(bench, heads, variant, window)


def check_batches(bench: Bench, heads: Heads, variant: FlashAttn, window: int = 0) -> None:
    cases, expected = [], []
    for n_past, n_tokens in BATCHES:
        qkv, (k, v) = normal(n_tokens, heads.rows, heads.head_dim), caches(heads, n_past + n_tokens)
        launch = library.flash_attn(heads.attention(window=window), 128, bench.profile, variant=variant)
        y = poisoned(n_tokens, heads.n_head * heads.head_dim)
        slots = {"qkv": guarded(qkv), "batch": batch(n_tokens, n_past), "k_cache": k, "v_cache": v, "y": y}
        cases.append(Case(launch, slots, n_tokens))
        seen = slice(0, n_past + n_tokens)
        expected.append(attended(qkv[:, : heads.n_head], k[:, seen], v[:, seen], heads.scale, window))
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result(found["y"], *y.shape), y) <= 1e-10


@BY_SHAPE
def test_flash_attn_vec_rotates_appends_and_attends(bench: Bench, heads: Heads) -> None:
    check_vec(bench, heads, bench.profile, (0, 1, 37, 127, 128, 130, 259, 299))


@pytest.mark.parametrize("subgroups", [True, False])
def test_flash_attn_vec_over_a_long_context(bench: Bench, subgroups: bool) -> None:
    profile = bench.profile if subgroups else replace(bench.profile, subgroup_size=0)
    heads = Heads(64, 3, 1, NORM, n_ctx=2100)
    check_vec(bench, heads, profile, (0, 63, 255, 1022, 1023, 1024, 1025, 2047, 2048, 2099))


def test_flash_attn_vec_leaves_its_output_in_lane_order_if_asked(bench: Bench) -> None:
    heads = Heads(16, 6, 2, Rope("norm", 16), n_ctx=40)
    qkv, (k, v) = normal(1, heads.rows, heads.head_dim), caches(heads, 20)
    slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(1, 20), "k_cache": k, "v_cache": v}
    args = (heads.attention(), bench.profile)
    size = heads.n_head * heads.head_dim
    cases = [Case(library.flash_attn_vec(*args, y_lanes=on), slots | {"y": poisoned(size)}) for on in (False, True)]
    plain, lanes = (result(found["y"], size) for found in bench.run(cases))
    np.testing.assert_array_equal(lanes, in_lane_order(plain))


def check_vec(bench: Bench, heads: Heads, profile: DeviceProfile, positions: Sequence[int]) -> None:
    cases, before = [], []
    for n_past in positions:
        qkv, (k, v) = normal(1, heads.rows, heads.head_dim), caches(heads, n_past)
        launch = library.flash_attn_vec(heads.attention(), profile)
        slots = {
            "qkv": guarded(qkv),
            "phases": phases(heads.rope),
            "batch": batch(1, n_past),
            "k_cache": k,
            "v_cache": v,
            "y": poisoned(heads.n_head * heads.head_dim),
        }
        cases.append(Case(launch, slots))
        before.append((n_past, qkv, k, v))
    for found, (n_past, qkv, k, v) in zip(bench.run(cases), before, strict=True):
        new_k, new_v = np.split(qkv[:, heads.n_head :], 2, axis=1)
        check_cached(found["k_cache"][:, n_past], rotated(new_k, heads.rope, n_past)[0])
        np.testing.assert_array_equal(found["v_cache"][:, n_past], new_v[0].astype(np.float16))
        for name, cache in (("k_cache", k), ("v_cache", v)):  # written at the position, and nowhere else
            np.testing.assert_array_equal(np.delete(found[name], n_past, axis=1), np.delete(cache, n_past, axis=1))
        q = rotated(qkv[:, : heads.n_head], heads.rope, n_past)
        seen = slice(0, n_past + 1)
        y = attended(q, found["k_cache"][:, seen], found["v_cache"][:, seen], heads.scale)
        assert nmse(result(found["y"], *y.shape), y) <= 1e-10, n_past
        np.testing.assert_array_equal(result(found["qkv"], *qkv.shape), qkv)


@pytest.mark.parametrize("kind", ["batch", "vec"])
def test_attention_of_scores_far_apart_is_finite(bench: Bench, kind: str) -> None:
    heads = Heads(64, 2, 1, NORM, n_ctx=200)
    qkv, (k, v) = 40 * normal(1, heads.rows, heads.head_dim), caches(heads, 150)
    k *= np.float16(40)
    y = poisoned(heads.n_head * heads.head_dim)
    slots = {"qkv": guarded(qkv), "batch": batch(1, 149), "k_cache": k, "v_cache": v, "y": y}
    if kind == "batch":
        found = bench.run([Case(library.flash_attn(heads.attention(), 64, bench.profile), slots)])[0]
        q = qkv[:, : heads.n_head]
    else:
        launch = library.flash_attn_vec(heads.attention(), bench.profile)
        found = bench.run([Case(launch, slots | {"phases": phases(heads.rope)})])[0]
        q = rotated(qkv[:, : heads.n_head], heads.rope, 149)
        k, v = found["k_cache"], found["v_cache"]
    expected = attended(q, k[:, :150], v[:, :150], heads.scale)
    assert nmse(result(found["y"], *expected.shape), expected) <= 1e-6


def test_positions_far_beyond_float32_keep_their_angle(bench: Bench) -> None:
    heads = Heads(8, 1, 1, Rope("norm", 8), n_ctx=1 << 17)
    n_past, qkv = (1 << 17) - 2, normal(1, heads.rows, heads.head_dim)
    cache = np.full((1, heads.n_ctx, heads.head_dim), NAN)
    slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(1, n_past)}
    launch = library.rope_kv(heads.attention(), 8)
    found = bench.run([Case(launch, slots | {"k_cache": cache, "v_cache": cache})])[0]
    q = result(found["qkv"], *qkv.shape)[:, :1]
    np.testing.assert_allclose(q, rotated(qkv[:, :1], heads.rope, n_past), atol=2e-4)  # 2**17 times half a phase's unit


@pytest.mark.parametrize("positions", [(0, 1, 5), (15, 16, 17, 37), (63, 130, 299)])
def test_split_attention_put_together_is_the_whole(bench: Bench, positions: Sequence[int]) -> None:
    heads = Heads(64, 6, 2, NORM, n_ctx=300)
    size, splits = heads.n_head * heads.head_dim, 16
    shape = (heads.attention(), bench.profile)
    slots = [
        {
            "qkv": guarded(normal(1, heads.rows, heads.head_dim)),
            "phases": phases(heads.rope),
            "batch": batch(1, n_past),
            **dict(zip(("k_cache", "v_cache"), caches(heads, n_past), strict=True)),
        }
        for n_past in positions
    ]
    whole = bench.run([Case(library.flash_attn_vec(*shape), s | {"y": poisoned(size)}) for s in slots])
    parts_size = heads.n_head * splits * (heads.head_dim + 4)
    parts = library.flash_attn_vec(*shape, splits=splits)
    found = bench.run([Case(parts, s | {"y": poisoned(parts_size)}) for s in slots])
    reduce = library.flash_attn_reduce(heads.head_dim, heads.n_head, splits)
    inputs = [guarded(result(f["y"], parts_size)) for f in found]
    sums = bench.run([Case(reduce, {"x": x, "y": poisoned(size)}) for x in inputs])
    for one, part, sum in zip(whole, found, sums, strict=True):
        assert nmse(result(sum["y"], size), result(one["y"], size)) <= 1e-12
        np.testing.assert_array_equal(part["k_cache"], one["k_cache"])
        np.testing.assert_array_equal(part["v_cache"], one["v_cache"])


# Caches in other formats, windows, norms of heads.

# Rows with one word of scales, with an odd number of blocks, with many
TYPES = {
    "f32": Heads(64, 3, 1, NORM, n_ctx=136),
    "q8_0": Heads(64, 3, 1, NORM, n_ctx=136),
    "q8_0, odd blocks": Heads(96, 2, 2, Rope("neox", 96), n_ctx=72),
    "q4_0": Heads(128, 4, 2, Rope("norm", 128), n_ctx=72),
    "q4_0, one block": Heads(32, 2, 2, Rope("norm", 32), n_ctx=136),
    "q4_0 of 256": Heads(256, 2, 1, Rope("neox", 256), n_ctx=72),
}
BY_TYPE = pytest.mark.parametrize(("name", "heads"), TYPES.items(), ids=TYPES)


def format_of(name: str) -> CacheFormat:
    return CACHE_FORMATS[name.split(",")[0].split()[0]]


def encoded(x: np.ndarray, format: CacheFormat) -> np.ndarray:
    """K or V of a layer (kv heads, n_ctx, head_dim) as the cache holds it, by gguf's quantization."""
    if not format.block:
        return x.astype({16: np.float16, 32: np.float32}[format.bits])
    rows = x.reshape(-1, x.shape[-1])
    type = gguf.GGMLQuantizationType[format.name.upper()]
    blocks = gguf.quants.quantize(np.nan_to_num(rows), type).reshape(len(rows), -1, 2 + 4 * format.bits)
    scales = blocks[..., :2].copy().view(np.float16)[..., 0]
    scales[np.isnan(rows[:, 0])] = NAN
    if format.unit(x.shape[-1]) == format.block:
        scales = np.stack([scales, np.zeros_like(scales)], -1)
    return np.concatenate([blocks[..., 2:].reshape(-1), scales.reshape(-1).view(np.uint8)])


def decoded(data: np.ndarray, format: CacheFormat, heads: Heads) -> np.ndarray:
    """The values of a cache, float32 (kv heads, n_ctx, head_dim)."""
    shape = (heads.n_head_kv, heads.n_ctx, heads.head_dim)
    if not format.block:
        return data.reshape(shape).astype(np.float32)
    rows = heads.n_head_kv * heads.n_ctx
    at = 4 * format.scales_at(heads.head_dim, rows)
    scales = data[at:].view(np.float16).reshape(rows, -1)[:, :: 2 if format.unit(heads.head_dim) == 32 else 1]
    quants = data[:at].reshape(rows, heads.head_dim // 32, -1)
    type = gguf.GGMLQuantizationType[format.name.upper()]
    blocks = np.concatenate([scales.copy().view(np.uint8).reshape(rows, -1, 2), quants], axis=-1)
    return gguf.quants.dequantize(blocks.reshape(rows, -1), type).reshape(shape)


def check_rounded(found: np.ndarray, expected: np.ndarray, format: CacheFormat) -> None:
    """New rows are as gguf quantizes them, but for values that lie between two steps."""
    wanted = decoded(
        encoded(expected.astype(np.float32)[:, None], format), format, Heads(found.shape[1], 1, len(found), NORM, 1)
    )
    near = np.isclose(found, wanted[:, 0], rtol=2e-3, atol=1e-4)
    assert np.mean(near) >= 0.97, np.mean(near)


@BY_TYPE
def test_a_cache_of_any_format_is_written_and_read(bench: Bench, name: str, heads: Heads) -> None:
    format = format_of(name)
    attention = heads.attention(type_k=format, type_v=format)
    cases, before = [], []
    for n_past, n_tokens in ((0, 1), (37, 1), (0, 19), (41, 30)):
        qkv = normal(n_tokens, heads.rows, heads.head_dim)
        k, v = (normal(heads.n_head_kv, heads.n_ctx, heads.head_dim) for _ in range(2))
        k[:, n_past:] = v[:, n_past:] = np.nan
        assert encoded(k, format).nbytes == attention.cache_bytes(format)
        slots = {
            "qkv": guarded(qkv),
            "phases": phases(heads.rope),
            "batch": batch(n_tokens, n_past),
            "k_cache": encoded(k, format),
            "v_cache": encoded(v, format),
        }
        if n_tokens == 1:
            slots |= {"y": poisoned(heads.n_head * heads.head_dim)}
            cases.append(Case(library.flash_attn_vec(attention, bench.profile), slots))
        else:
            cases.append(Case(library.rope_kv(attention, 32), slots, n_tokens))
        before.append((n_past, n_tokens, qkv, slots["k_cache"], slots["v_cache"]))
    batches, expected = [], []
    for found, (n_past, n_tokens, qkv, k, v) in zip(bench.run(cases), before, strict=True):
        new_k, new_v = np.split(qkv[:, heads.n_head :], 2, axis=1)
        new = slice(n_past, n_past + n_tokens)
        now = [decoded(found[cache], format, heads) for cache in ("k_cache", "v_cache")]
        for cache, old, fresh in zip(now, (k, v), (rotated(new_k, heads.rope, n_past), new_v), strict=True):
            for t in range(n_tokens):
                check_rounded(cache[:, n_past + t], fresh[t], format)
            old = decoded(old, format, heads)
            np.testing.assert_array_equal(np.delete(cache, np.s_[new], axis=1), np.delete(old, np.s_[new], axis=1))
        q = rotated(qkv[:, : heads.n_head], heads.rope, n_past)
        y = attended(q, *(cache[:, : new.stop] for cache in now), heads.scale)
        if n_tokens == 1:
            assert nmse(result(found["y"], *y.shape), y) <= 1e-9, n_past
        else:
            slots = {name: found[name] for name in ("qkv", "k_cache", "v_cache")}
            slots |= {"batch": batch(n_tokens, n_past), "y": poisoned(*y.shape)}
            batches.append(Case(library.flash_attn(attention, 32, bench.profile), slots, n_tokens))
            expected.append(y)
    for found, y in zip(bench.run(batches), expected, strict=True):
        assert nmse(result(found["y"], *y.shape), y) <= 1e-9


def test_keys_and_values_may_differ_in_format(bench: Bench) -> None:
    heads, position = Heads(64, 2, 1, NORM, n_ctx=40), 21
    k_format, v_format = CACHE_FORMATS["q8_0"], CACHE_FORMATS["f16"]
    qkv = normal(1, heads.rows, heads.head_dim)
    k, v = (normal(1, heads.n_ctx, heads.head_dim) for _ in range(2))
    slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(1, position)}
    slots |= {"k_cache": encoded(k, k_format), "v_cache": encoded(v, v_format), "y": poisoned(128)}
    launch = library.flash_attn_vec(heads.attention(type_k=k_format, type_v=v_format), bench.profile)
    found = bench.run([Case(launch, slots)])[0]
    seen = slice(0, position + 1)
    now = decoded(found["k_cache"], k_format, heads)[:, seen], decoded(found["v_cache"], v_format, heads)[:, seen]
    y = attended(rotated(qkv[:, :2], heads.rope, position), *now, heads.scale)
    assert nmse(result(found["y"], *y.shape), y) <= 1e-9


@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_window_hides_what_lies_before_it(bench: Bench, window: int) -> None:
    heads = Heads(64, 2, 1, NORM, n_ctx=200)
    attention = heads.attention(window=window)
    cases, expected = [], []
    for n_past, n_tokens in ((0, 1), (5, 1), (63, 1), (64, 1), (150, 1), (0, 90), (70, 65), (150, 33)):
        qkv, (k, v) = normal(n_tokens, heads.rows, heads.head_dim), caches(heads, n_past + n_tokens)
        k[:, : max(n_past + 1 - window, 0)] = v[:, : max(n_past + 1 - window, 0)] = NAN  # may not even be read
        slots = {"qkv": guarded(qkv), "batch": batch(n_tokens, n_past), "k_cache": k, "v_cache": v}
        q = qkv[:, :2].astype(np.float64)
        if n_tokens == 1:
            slots |= {"phases": phases(heads.rope), "y": poisoned(128)}
            cases.append(Case(library.flash_attn_vec(attention, bench.profile), slots))
            q, k = rotated(q, heads.rope, n_past), k.copy()
            k[:, n_past] = rotated(qkv[:, 2:3], heads.rope, n_past)[0]
            v = v.copy()
            v[:, n_past] = qkv[0, 3]
        else:
            cases.append(
                Case(library.flash_attn(attention, 96, bench.profile), slots | {"y": poisoned(n_tokens, 128)}, n_tokens)
            )
        seen = slice(0, n_past + n_tokens)
        expected.append(attended(q, np.nan_to_num(k[:, seen]), np.nan_to_num(v[:, seen]), heads.scale, window))
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result(found["y"], *y.shape), y) <= 1e-6  # k is rounded after it was rotated


def test_split_attention_within_a_window_is_the_whole(bench: Bench) -> None:
    heads, splits = Heads(64, 4, 2, NORM, n_ctx=300), 16
    attention = heads.attention(window=100)
    size = heads.n_head * heads.head_dim
    parts_size = heads.n_head * splits * (heads.head_dim + 4)
    for n_past in (5, 99, 250):
        slots = {"qkv": guarded(normal(1, heads.rows, heads.head_dim)), "phases": phases(heads.rope)}
        slots |= {"batch": batch(1, n_past), **dict(zip(("k_cache", "v_cache"), caches(heads, n_past), strict=True))}
        whole, parts = bench.run(
            [
                Case(library.flash_attn_vec(attention, bench.profile), slots | {"y": poisoned(size)}),
                Case(
                    library.flash_attn_vec(attention, bench.profile, splits=splits), slots | {"y": poisoned(parts_size)}
                ),
            ]
        )
        reduce = library.flash_attn_reduce(heads.head_dim, heads.n_head, splits)
        x = guarded(result(parts["y"], parts_size))
        (sum,) = bench.run([Case(reduce, {"x": x, "y": poisoned(size)})])
        assert nmse(result(sum["y"], size), result(whole["y"], size)) <= 1e-12


@pytest.mark.parametrize("subgroups", [True, False])
def test_heads_are_normed_before_they_are_rotated(bench: Bench, subgroups: bool) -> None:
    profile = bench.profile if subgroups else replace(bench.profile, subgroup_size=0)
    for heads in (Heads(64, 3, 1, NEOX, n_ctx=40), Heads(256, 4, 1, Rope("neox", 256), n_ctx=40)):
        attention = heads.attention(head_eps=1e-6)
        weight = normal(2, heads.head_dim)
        cases, expected = [], []
        for n_past, n_tokens in ((9, 1), (9, 6)):
            qkv, (k, v) = 3 * normal(n_tokens, heads.rows, heads.head_dim), caches(heads, n_past)
            slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(n_tokens, n_past)}
            slots |= {"head_norm": weight.reshape(-1), "k_cache": k, "v_cache": v}
            if n_tokens == 1:
                slots |= {"y": poisoned(heads.n_head * heads.head_dim)}
                cases.append(Case(library.flash_attn_vec(attention, profile), slots))
            else:
                cases.append(Case(library.rope_kv(attention, 8), slots, n_tokens))
            q, new_k = qkv[:, : heads.n_head], qkv[:, heads.n_head : heads.n_head + heads.n_head_kv]
            q, new_k = (
                rotated(rms_normed(x, w, 1e-6), heads.rope, n_past) for x, w in zip((q, new_k), weight, strict=True)
            )
            expected.append((n_past, n_tokens, q, new_k))
        for found, (n_past, n_tokens, q, new_k) in zip(bench.run(cases), expected, strict=True):
            check_cached(found["k_cache"][:, n_past : n_past + n_tokens], new_k.swapaxes(0, 1))
            if n_tokens > 1:
                np.testing.assert_allclose(
                    found["qkv"][: q[:, 0].size * heads.rows].reshape(n_tokens, heads.rows, -1)[:, : heads.n_head],
                    q,
                    atol=1e-4,
                )
            else:
                y = attended(q, found["k_cache"][:, : n_past + 1], found["v_cache"][:, : n_past + 1], heads.scale)
                assert nmse(result(found["y"], *y.shape), y) <= 1e-9
