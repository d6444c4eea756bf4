"""Rope, the cache and both attention kernels against numpy in float64; the cache is poison beyond the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from attention_bench import NAN, NEOX, NORM, Heads, attended, caches, normal, rng, rotated
from kernel_bench import Bench, Case, batch, guarded, in_lane_order, poisoned, result, result_rows, rms_normed

from llamaweb.kernels import library
from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat, width
from llamaweb.kernels.flash_attn import FlashAttn, default
from llamaweb.kernels.flash_attn_vec import FlashAttnVec
from llamaweb.kernels.formats import whole_blocks
from llamaweb.kernels.io import IO
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope, Yarn, phases
from tests.reference import nmse

SHAPES = {
    "2": Heads(2, 5, 1, Rope("norm", 2)),
    "6 neox": Heads(6, 4, 2, Rope("neox", 4)),
    "8": Heads(8, 3, 1, Rope("norm", 8)),
    "16 neox": Heads(16, 2, 2, Rope("neox", 16)),
    "24 part of it rotated": Heads(24, 4, 1, Rope("neox", 16)),
    "64": Heads(64, 3, 1, NORM),
    "64 neox, part of it rotated, yarn": Heads(64, 4, 1, Rope("neox", 32, factor=4.0, yarn=Yarn(64.0))),
    "80": Heads(80, 6, 2, Rope("norm", 80, 1e6)),
    "100": Heads(100, 7, 1, Rope("norm", 100)),
    "128 linear": Heads(128, 4, 4, Rope("norm", 128, factor=2.5)),
    "256 neox": Heads(256, 2, 1, Rope("neox", 256)),
    "510": Heads(510, 3, 1, Rope("norm", 64)),
}
BY_SHAPE = pytest.mark.parametrize("heads", SHAPES.values(), ids=SHAPES)


def check_cached(found: np.ndarray, expected: np.ndarray) -> None:
    """f16 values equal but for a last bit here and there, where float32 and float64 round apart; zeros behind each."""
    found, behind = np.split(found, [expected.shape[-1]], axis=-1)
    assert not behind.any()
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
        found_v = found["v_cache"][:, new, : heads.head_dim]
        np.testing.assert_array_equal(found_v, new_v.swapaxes(0, 1).astype(np.float16))
        for name, cache in (("k_cache", k), ("v_cache", v)):
            untouched = np.delete(found[name], np.s_[new], axis=1)
            np.testing.assert_array_equal(untouched, np.delete(cache, np.s_[new], axis=1))


# One that ends a tile of any size with a position that its first token does not see is among them.
BATCHES = ((0, 2), (0, 70), (1, 17), (37, 65), (126, 3), (130, 1), (259, 5))


@BY_SHAPE
@pytest.mark.parametrize("least", [True, False], ids=["on any device", "on this one"])
def test_flash_attn_of_a_batch(bench: Bench, heads: Heads, least: bool) -> None:
    profile = DeviceProfile() if least else bench.profile
    check_batches(bench, heads, default(heads.attention().widths, heads.n_head, 128, profile))


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
    assert variant.valid(heads.attention().widths, bench.profile)
    check_batches(bench, heads, variant, window)


def check_batches(bench: Bench, heads: Heads, variant: FlashAttn, window: int = 0) -> None:
    cases, expected = [], []
    for n_past, n_tokens in BATCHES:
        qkv, (k, v) = normal(n_tokens, heads.rows, heads.head_dim), caches(heads, n_past + n_tokens)
        launch = library.flash_attn(heads.attention(window=window), 128, bench.profile, variant=variant)
        y = poisoned(n_tokens, whole_blocks(heads.n_head * heads.head_dim))
        slots = {"qkv": guarded(qkv), "batch": batch(n_tokens, n_past), "k_cache": k, "v_cache": v, "y": y}
        cases.append(Case(launch, slots, n_tokens))
        seen = slice(0, n_past + n_tokens)
        expected.append(attended(qkv[:, : heads.n_head], k[:, seen], v[:, seen], heads.scale, window))
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result_rows(found["y"], *y.shape), y) <= 1e-10


TEXTS = ((0, 2), (0, 1, 70), (0, 33, 34, 40, 97), (0, 16, 32, 48))  # where those of a batch begin


@pytest.mark.parametrize("heads", [SHAPES[name] for name in ("2", "6 neox", "64", "100", "256 neox")], ids=str)
@pytest.mark.parametrize(("causal", "window"), [(False, 0), (False, 9), (True, 7)])
def test_flash_attn_of_texts_needs_no_cache(bench: Bench, heads: Heads, causal: bool, window: int) -> None:
    cases, expected, f32 = [], [], CACHE_FORMATS["f32"]
    places = IO.texts(128)
    attention = heads.attention(texts=places, causal=causal, window=window, type_k=f32, type_v=f32)
    for begins in TEXTS:
        n_tokens = begins[-1]
        qkv = normal(n_tokens, heads.rows, heads.head_dim)
        words = batch(n_tokens, extra=4 * 128)
        words[places[0] :][:n_tokens] = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        words[places[1] :][: len(begins)] = begins
        y = poisoned(n_tokens, whole_blocks(heads.n_head * heads.head_dim))
        launch = library.flash_attn(attention, 128, bench.profile)
        cases.append(Case(launch, {"qkv": guarded(qkv), "batch": words, "y": y}, n_tokens))
        expected.append(np.vstack([of_text(qkv[a:b], heads, causal, window) for a, b in pairwise(begins)]))
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result_rows(found["y"], *y.shape), y) <= 1e-10


def of_text(qkv: np.ndarray, heads: Heads, causal: bool, window: int) -> np.ndarray:
    q, k, v = np.split(qkv, [heads.n_head, heads.n_head + heads.n_head_kv], axis=1)
    k, v = k.swapaxes(0, 1), v.swapaxes(0, 1)
    if causal:
        return attended(q, k, v, heads.scale, window)
    n, half = len(qkv), window // 2 if window else len(qkv)
    seen = [slice(max(t - half, 0), t + half + 1) for t in range(n)]
    # The last token of what it sees, for which causal attention is all of it.
    return np.vstack([attended(q[t : t + 1], k[:, seen[t]], v[:, seen[t]], heads.scale) for t in range(n)])


@BY_SHAPE
def test_flash_attn_vec_rotates_appends_and_attends(bench: Bench, heads: Heads) -> None:
    check_vec(bench, heads, bench.profile, (0, 1, 37, 127, 128, 130, 259, 299))


@pytest.mark.parametrize("subgroups", [True, False])
def test_flash_attn_vec_over_a_long_context(bench: Bench, subgroups: bool) -> None:
    profile = bench.profile if subgroups else replace(bench.profile, subgroup_size=0)
    heads = Heads(64, 3, 1, NORM, n_ctx=2100)
    check_vec(bench, heads, profile, (0, 63, 255, 1022, 1023, 1024, 1025, 2047, 2048, 2099))


@pytest.mark.parametrize("heads", [Heads(16, 6, 2, Rope("norm", 16), 40), Heads(100, 8, 2, Rope("norm", 100), 40)])
def test_flash_attn_vec_leaves_its_output_in_lane_order_if_asked(bench: Bench, heads: Heads) -> None:
    qkv, (k, v) = normal(1, heads.rows, heads.head_dim), caches(heads, 20)
    slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(1, 20), "k_cache": k, "v_cache": v}
    args = (heads.attention(), bench.profile)
    size = heads.n_head * heads.head_dim
    cases = [Case(library.flash_attn_vec(*args, y_lanes=on), slots | {"y": poisoned(size)}) for on in (False, True)]
    plain, lanes = (result(found["y"], size) for found in bench.run(cases))
    np.testing.assert_array_equal(lanes, in_lane_order(plain))


@pytest.mark.parametrize("head_dim", [40, 128, 256])
def test_every_variant_gives_the_attention_of_a_token(bench: Bench, head_dim: int) -> None:
    heads = Heads(head_dim, 2, 1, Rope("norm", head_dim), n_ctx=1100)
    for variant in (FlashAttnVec(128, 4, 2), FlashAttnVec(256, 16, 8), FlashAttnVec(256, 8, 4, heads=2)):
        check_vec(bench, heads, bench.profile, (0, 7, 131, 1030), variant)


@pytest.mark.parametrize("subgroups", [True, False])
@pytest.mark.parametrize("together", [2, 3, 6])
def test_heads_that_share_a_key_may_be_taken_together(bench: Bench, subgroups: bool, together: int) -> None:
    profile = bench.profile if subgroups else replace(bench.profile, subgroup_size=0)
    heads = Heads(64, 12, 2, Rope("neox", 48), n_ctx=400)
    check_vec(bench, heads, profile, (0, 5, 170, 171, 341, 399), FlashAttnVec(128, 8, 2, heads=together))


def check_vec(
    bench: Bench,
    heads: Heads,
    profile: DeviceProfile,
    positions: Sequence[int],
    variant: FlashAttnVec | None = None,
) -> None:
    cases, before = [], []
    for n_past in positions:
        qkv, (k, v) = normal(1, heads.rows, heads.head_dim), caches(heads, n_past)
        launch = library.flash_attn_vec(heads.attention(), profile, variant=variant)
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
        np.testing.assert_array_equal(found["v_cache"][:, n_past, : heads.head_dim], new_v[0].astype(np.float16))
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
    off = 2**17 * 2 * np.pi / 2**33  # a turn, at this position, by half a phase's unit
    np.testing.assert_allclose(q, rotated(qkv[:, :1], heads.rope, n_past), atol=1.1 * off * 2**0.5 * np.abs(qkv).max())


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("positions", [(0, 1, 5), (15, 16, 17, 37), (63, 130, 299)])
@pytest.mark.parametrize("head_dim", [64, 50])
def test_split_attention_put_together_is_the_whole(
    bench: Bench, positions: Sequence[int], together: int, head_dim: int
) -> None:
    heads = Heads(head_dim, 6, 2, Rope("norm", 48), n_ctx=300)
    size, splits, variant = heads.n_head * heads.head_dim, 16, FlashAttnVec(64, heads=together)
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
    parts_size = heads.n_head * splits * (width(heads.head_dim) + 4)
    parts = library.flash_attn_vec(*shape, splits=splits, variant=variant)
    found = bench.run([Case(parts, s | {"y": poisoned(parts_size)}) for s in slots])
    reduce = library.flash_attn_reduce(heads.head_dim, heads.n_head, splits)
    inputs = [guarded(result(f["y"], parts_size)) for f in found]
    sums = bench.run([Case(reduce, {"x": x, "y": poisoned(size)}) for x in inputs])
    for one, part, sum in zip(whole, found, sums, strict=True):
        assert nmse(result(sum["y"], size), result(one["y"], size)) <= 1e-12
        np.testing.assert_array_equal(part["k_cache"], one["k_cache"])
        np.testing.assert_array_equal(part["v_cache"], one["v_cache"])


LENGTHS = {
    "shorter values": (Heads(26, 4, 2, Rope("norm", 10, offset=16)), 20, False),
    "longer values": (Heads(40, 3, 1, Rope("neox", 40)), 72, False),
    "values in keys": (Heads(576, 4, 1, Rope("norm", 64, offset=512)), 512, True),
}


@pytest.mark.parametrize(("heads", "head_dim_v", "in_keys"), LENGTHS.values(), ids=LENGTHS)
def test_values_may_be_of_another_length_than_keys_and_lie_in_them(
    bench: Bench, heads: Heads, head_dim_v: int, in_keys: bool
) -> None:
    attention = heads.attention(head_dim_v=head_dim_v, **({"type_v": None} if in_keys else {}))
    n_head, n_head_kv = heads.n_head, heads.n_head_kv
    row_k = (n_head + n_head_kv) * heads.head_dim
    for n_past, n_tokens in ((0, 1), (150, 1), (37, 45)):
        k, _ = caches(heads, n_past)
        v, _ = caches(replace(heads, head_dim=head_dim_v), n_past)
        qkv = normal(n_tokens, row_k + (0 if in_keys else n_head_kv * head_dim_v))
        qk = qkv[:, :row_k].reshape(n_tokens, -1, heads.head_dim)
        slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(n_tokens, n_past), "k_cache": k}
        slots |= {} if in_keys else {"v_cache": v}
        launches = [library.rope_kv(attention, 64), library.flash_attn(attention, 64, bench.profile)]
        if n_tokens == 1:
            launches = [library.flash_attn_vec(attention, bench.profile)]
        found = slots | {"y": poisoned(n_tokens, whole_blocks(n_head * head_dim_v))}
        for launch in launches:
            given = {slot.name: found[slot.name] for slot in launch.kernel.slots}
            found |= bench.run([Case(launch, given, n_tokens)])[0]
        turned, seen = rotated(qk, heads.rope, n_past), slice(0, n_past + n_tokens)
        keys, new = found["k_cache"][:, seen], slice(n_past, n_past + n_tokens)
        check_cached(keys[:, new], turned[:, n_head:].swapaxes(0, 1))
        values = keys[..., :head_dim_v] if in_keys else found["v_cache"][:, seen, :head_dim_v]
        if not in_keys:
            given_v = qkv[:, row_k:].reshape(n_tokens, -1, head_dim_v)
            np.testing.assert_array_equal(values[:, new], given_v.swapaxes(0, 1).astype(np.float16))
        expected = attended(turned[:, :n_head], keys, values, heads.scale, head_dim_v=head_dim_v)
        assert nmse(result_rows(found["y"], *expected.shape), expected) <= 1e-10


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
    shapes = ((Heads(64, 3, 1, NEOX, 40), 1), (Heads(36, 3, 1, Rope("neox", 36), 40), 3))
    for heads, together in (*shapes, (Heads(256, 4, 1, Rope("neox", 256), 40), 2)):
        attention = heads.attention(head_eps=1e-6)
        weight = normal(2, heads.head_dim)
        cases, expected = [], []
        for n_past, n_tokens in ((9, 1), (9, 6)):
            qkv, (k, v) = 3 * normal(n_tokens, heads.rows, heads.head_dim), caches(heads, n_past)
            slots = {"qkv": guarded(qkv), "phases": phases(heads.rope), "batch": batch(n_tokens, n_past)}
            slots |= {"head_norm": weight.reshape(-1), "k_cache": k, "v_cache": v}
            if n_tokens == 1:
                slots |= {"y": poisoned(heads.n_head * heads.head_dim)}
                variant = FlashAttnVec(64, heads=together)
                cases.append(Case(library.flash_attn_vec(attention, profile, variant=variant), slots))
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


@pytest.mark.parametrize("shares", [((0, 1), (1, 1), (2, 1)), ((0, 2), (2, 1))], ids=str)
@pytest.mark.parametrize("type", ["f16", "q8_0"])
def test_attention_over_a_cache_in_pieces_is_that_over_the_whole(
    bench: Bench, type: str, shares: Sequence[tuple[int, int]]
) -> None:
    heads, format = Heads(64, 6, 3, Rope("neox", 48), n_ctx=120), CACHE_FORMATS[type]
    plain = heads.attention(type_k=format, type_v=format)
    for n_past, n_tokens in ((0, 1), (77, 1), (0, 19), (77, 33)):
        qkv = guarded(normal(n_tokens, heads.rows, heads.head_dim))
        size = n_tokens * heads.n_head * heads.head_dim
        filled = {name: rng.integers(0, 60, plain.cache_bytes(format), np.uint8) for name in ("k_cache", "v_cache")}

        def run(attention: library.Attention, state: dict[str, np.ndarray], n_tokens: int = n_tokens) -> None:
            """Both kernels of a batch, or that of a token, over `state`."""
            launches = [library.rope_kv(attention, 40), library.flash_attn(attention, 40, bench.profile)]
            if n_tokens == 1:
                launches = [library.flash_attn_vec(attention, bench.profile, variant=FlashAttnVec(64, heads=2))]
            for launch in launches:
                slots = {slot.name for slot in launch.kernel.slots}
                case = Case(launch, {name: value for name, value in state.items() if name in slots}, n_tokens)
                state |= bench.run([case])[0]

        common = {"phases": phases(heads.rope), "batch": batch(n_tokens, n_past)}
        whole = {"qkv": qkv, "y": poisoned(size), **filled, **common}
        run(plain, whole)
        parts = {"qkv": qkv, "y": poisoned(size), **common}
        for bound in shares:
            attention = replace(plain, bound=bound)
            cut = {name: piece_of(cache, format, heads, bound) for name, cache in filled.items()}
            parts |= cut
            run(attention, parts)
            for name in cut:
                np.testing.assert_array_equal(parts[name], piece_of(whole[name], format, heads, bound))
        np.testing.assert_array_equal(result(parts["y"], size), result(whole["y"], size))


def piece_of(cache: np.ndarray, format: CacheFormat, heads: Heads, bound: tuple[int, int]) -> np.ndarray:
    """The bytes of some key-value heads: their values, then their scales."""
    data, (first, count) = cache.view(np.uint8).reshape(-1), bound
    quants = 4 * format.scales_at(heads.head_dim, heads.n_head_kv * heads.n_ctx)
    parts = [part.reshape(heads.n_head_kv, -1) for part in (data[:quants], data[quants:])]
    return np.concatenate([part[first : first + count].reshape(-1) for part in parts])
