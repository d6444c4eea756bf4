"""Caches in every format, as the kernels write and read them, against gguf's quantization."""

from __future__ import annotations

import numpy as np
import pytest
from attention_bench import NAN, NORM, Heads, attended, normal, rotated
from kernel_bench import Bench, Case, batch, guarded, poisoned, result

from llamaweb.ggml import GGMLType, dequantize, quantize
from llamaweb.kernels import library
from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat
from llamaweb.kernels.flash_attn_vec import FlashAttnVec
from llamaweb.rope import Rope, phases
from tests.reference import nmse

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
    type = GGMLType[format.name.upper()]
    blocks = quantize(np.nan_to_num(rows), type).reshape(len(rows), -1, 2 + 4 * format.bits)
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
    type = GGMLType[format.name.upper()]
    blocks = np.concatenate([scales.copy().view(np.uint8).reshape(rows, -1, 2), quants], axis=-1)
    return dequantize(blocks.reshape(rows, -1), type).reshape(shape)


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
    attention, variant = heads.attention(type_k=k_format, type_v=v_format), FlashAttnVec(64, heads=2)
    launch = library.flash_attn_vec(attention, bench.profile, variant=variant)
    found = bench.run([Case(launch, slots)])[0]
    seen = slice(0, position + 1)
    now = decoded(found["k_cache"], k_format, heads)[:, seen], decoded(found["v_cache"], v_format, heads)[:, seen]
    y = attended(rotated(qkv[:, :2], heads.rope, position), *now, heads.scale)
    assert nmse(result(found["y"], *y.shape), y) <= 1e-9
