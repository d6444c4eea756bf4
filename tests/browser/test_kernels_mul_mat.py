"""Repack, get_rows and both matrix products in every format, against numpy in float64."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_bench import (
    GLU,
    Bench,
    Case,
    Weight,
    batch,
    codes,
    columns,
    each_format,
    guarded,
    in_lane_order,
    out_of_lane_order,
    poisoned,
    quantized_rows,
    result,
    rms_normed,
)

from llamaweb.ggml import GGMLType, dequantize
from llamaweb.kernels.formats import FORMATS, Format
from llamaweb.kernels.mul_mat import PRECISIONS, MulMat, can_be_packed, mul_mat
from llamaweb.kernels.mul_mat_vec import MulMatVec, mul_mat_vec, packed_works
from llamaweb.operations.get_rows import get_rows_kernel
from llamaweb.profile import DESKTOP, DeviceProfile
from tests.blocks import quantized
from tests.reference import nmse

EPS = 1e-5
LIMIT = 1e-10  # normalized mean squared error: nothing is rounded but float32 itself
PACKED_LIMIT = 3e-9  # activations rounded to 16 bits
PACKED_GLU_LIMIT = 1e-8  # … where two such results, gate and up, are multiplied
QUANTIZED_LIMIT = {8: 5e-5, 16: 1e-9}  # what rounding a batch's activations to so many bits takes from them
BY_NAME = pytest.mark.parametrize("format", each_format(), ids=lambda format: format.name)
rng = np.random.default_rng(2)


def matrix(rows: int, k: int) -> np.ndarray:
    return rng.standard_normal((rows, k), np.float32)


def product(weight: Weight, x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ weight.dense.astype(np.float64).T


@BY_NAME
@pytest.mark.parametrize(("rows", "k"), [(37, 96), (67, 32), (18, 1056)], ids=["3 blocks", "one block", "33 blocks"])
def test_repacked_rows_hold_exactly_the_files_weights(bench: Bench, format: Format, rows: int, k: int) -> None:
    k = columns(format, k)
    data = quantized(matrix(rows, k), format.type)
    dense = dequantize(data, format.type)
    if format.repacked:
        whole, pieces = bench.repack(format, [data.tobytes()])[0], bench.repack(format, [data.tobytes()], chunk=36)[0]
        blocks = rows * k // format.block_size
        for plane in format.planes:
            used = blocks * plane.bytes
            np.testing.assert_array_equal(whole[f"w_{plane.name}"][:used], pieces[f"w_{plane.name}"][:used])
            behind = whole[f"w_{plane.name}"][-(-blocks // format.unit) * format.unit * plane.bytes :]
            assert (behind == 0xA5).all(), "repack wrote behind the plane"
        planes = pieces | codes(format)
    else:
        planes = {"w_qs": data.reshape(-1)}
    tokens = [0, rows - 1, 5, 17, 17, 2, rows + 1000]  # the last one is not in the table, and is taken for its end
    launch = get_rows_kernel(format, k, rows, len(tokens))
    slots = {**planes, "batch": batch(len(tokens), tokens=tokens), "y": poisoned(len(tokens), k)}
    found = result(bench.run([Case(launch, slots, len(tokens))])[0]["y"], len(tokens), k)
    expected = dense[[min(token, rows - 1) for token in tokens]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.0**-23 * float(np.abs(expected).max()))


@BY_NAME
@pytest.mark.parametrize("reduce", ["subgroup", "shared"])
def test_mul_mat_vec_with_every_neighbour_fused(bench: Bench, format: Format, reduce: str) -> None:
    profile = bench.profile if reduce == "subgroup" else replace(bench.profile, subgroup_size=0)
    shapes = {  # name: (n, k, options)
        "store, scaled": (37, 96, {"offset": 5, "scaled": (8, 21)}),
        "add, long rows": (67, 1056, {"epilogue": "add"}),
        "swiglu, norm, bias": (2 * 33, 160, {"epilogue": "swiglu", "eps": EPS, "bias": True}),
        "last row, norm": (129, 32, {"last_row": True, "eps": EPS}),
    }
    if reduce == "shared":  # the loop over formats takes half of these: a kernel more is half a second more
        shapes = {name: shapes[name] for name in ("add, long rows", "swiglu, norm, bias")}
    check_mul_mat_vec(bench, format, profile, shapes)


@pytest.mark.parametrize("reduce", ["subgroup", "shared"])
def test_mul_mat_vec_of_shapes_that_do_not_divide_evenly(
    bench: Bench, reduce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A single number may be the small difference of large ones: whatever ran before, here it is the same, and is not.
    monkeypatch.setattr(sys.modules[__name__], "rng", np.random.default_rng(1))
    profile = bench.profile if reduce == "subgroup" else replace(bench.profile, subgroup_size=0)
    q4_1, f32 = (FORMATS[GGMLType[name]] for name in ("Q4_1", "F32"))
    for format, shapes in (
        (q4_1, {"one row, one block": (1, 32, {"scaled": ()}), "three rows": (3, 96, {"bias": True, "eps": EPS})}),
        (f32, {"two rows of one block": (2, 32, {"epilogue": "swiglu"}), "many rows": (8195, 32, {"eps": EPS})}),
    ):
        check_mul_mat_vec(bench, format, profile, shapes)


def test_mul_mat_vec_in_lane_order_and_in_every_shape_of_workgroup(bench: Bench) -> None:
    q4_1, size = FORMATS[GGMLType.Q4_1], bench.profile.subgroup_size
    variants = [(64, 16, 2, 0), (64, 8, 4, 0)]
    variants += [(32, size, 4, size), (64, 4 * size, 2, size), (128, 2 * size, 8, size)] if size else []
    variants += [(64, 8, 2, 0, False, 2)]  # blocks of a row at once: 33, 5 and 3 of them leave a rest
    variants += [(64, size, 2, size, False, 2), (128, size, 4, size, False, 4)] if size else []
    variants += [(64, 8, 2, 0, False, 1, True), (64, 8, 2, 0, False, 2, True)]  # ahead of the input
    both = {"lane_order": ("x", "y")}
    beside = {"lane_order": ("by", "y"), "by": 32, "by_row": 160}
    for variant in (MulMatVec(*v) for v in variants):
        shapes = {
            f"add {variant}": (96, 1056, {**both, "epilogue": "add", "variant": variant}),
            f"by_add {variant}": (96, 160, {**beside, "epilogue": "by_add", "variant": variant}),
            f"swiglu {variant}": (2 * 160, 160, {**both, "epilogue": "swiglu", "eps": EPS, "variant": variant}),
            f"store {variant}": (37, 96, {"lane_order": ("x",), "bias": True, "variant": variant}),
        }
        check_mul_mat_vec(bench, q4_1, bench.profile, shapes)


def test_rows_behind_the_65535th_workgroup_are_computed_too(bench: Bench) -> None:
    q4_0, rows = FORMATS[GGMLType.Q4_0], 65_535 + 70
    each_alone: dict[str, Any] = {"variant": MulMatVec(16, 16, 1, 0)}
    assert mul_mat_vec(q4_0, 32, rows, bench.profile, **each_alone).workgroups == (65_535, 2, 1)
    check_mul_mat_vec(bench, q4_0, bench.profile, {"store": (rows, 32, each_alone)})


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.packed], ids=lambda format: format.name)
def test_mul_mat_vec_with_the_packed_dot(bench: Bench, format: Format) -> None:
    size = bench.profile.subgroup_size
    assert packed_works(format, bench.profile)
    one, two = MulMatVec(64, size, 2, size, True), MulMatVec(64, 2 * size, 4, size, True)
    together = MulMatVec(64, size, 2, size, True, 4)
    both = {"lane_order": ("x", "y")}
    shapes: dict = {
        "more blocks than workgroup memory holds, norm": (67, 6240, {"eps": EPS, "variant": one}),
    }
    if format.name == "q4_1":
        shapes |= {
            "rows of one block": (67, 32, {"variant": two}),
            "add": (96, 1056, {**both, "epilogue": "add", "variant": one}),
            "last row": (129, 32, {"last_row": True, "eps": EPS, "variant": two}),
            "four blocks at once, and a rest": (67, 1056, {"eps": EPS, "variant": together}),
            "four blocks at once, and memory filled anew": (37, 6240, {"variant": together}),
            "ahead of the input, and of memory filled anew": (
                37,
                6240,
                {"eps": EPS, "post_eps": 1e-6, "variant": replace(together, ahead=True)},
            ),
            "ahead of the input, fewer blocks than lanes": (35, 96, {"variant": replace(together, ahead=True)}),
        }
    check_mul_mat_vec(bench, format, bench.profile, shapes, PACKED_LIMIT)
    glu = {**both, "epilogue": "swiglu", "eps": EPS, "bias": True, "scaled": (96,), "variant": two}
    check_mul_mat_vec(bench, format, bench.profile, {"swiglu, norm, bias": (2 * 96, 160, glu)}, PACKED_GLU_LIMIT)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("subgroups", [True, False])
def test_mul_mat_vec_of_a_sum_with_a_normed_branch(bench: Bench, packed: bool, subgroups: bool) -> None:
    profile = bench.profile if subgroups else replace(bench.profile, subgroup_size=0)
    size = profile.subgroup_size
    variant = MulMatVec(64, 2 * (size or 8), 2, size, packed=packed and subgroups)
    options = {"eps": EPS, "post_eps": 1e-6, "keeps_sum": True, "variant": variant}
    every = ("x", "post", "sum", "y")
    shapes: dict = {
        "geglu": (2 * 33, 160, {**options, "lane_order": (), "epilogue": "geglu"}),
        "store": (67, 1056, {**options, "lane_order": ("x", "post", "sum")}),
        "add": (96, 6240, {**options, "lane_order": every, "epilogue": "add"}),
    }
    del options["keeps_sum"]
    shapes["nobody needs the sum"] = (5, 32, {**options, "bias": True})
    q5_0 = FORMATS[GGMLType.Q5_0]
    check_mul_mat_vec(bench, q5_0, profile, shapes, PACKED_GLU_LIMIT if variant.packed else LIMIT)


def test_get_rows_scaled(bench: Bench) -> None:
    weight = bench.weight(FORMATS[GGMLType.Q8_0], matrix(7, 160))
    launch = get_rows_kernel(weight.format, 160, 7, 4, scale=25.298221)
    found = bench.run([Case(launch, {**weight.planes, "batch": batch(3, tokens=[5, 0, 6]), "y": poisoned(3, 160)}, 3)])
    assert nmse(result(found[0]["y"], 3, 160), 25.298221 * weight.dense[[5, 0, 6]]) <= LIMIT


def test_get_rows_in_lane_order(bench: Bench) -> None:
    weight = bench.weight(FORMATS[GGMLType.Q8_0], matrix(7, 160))
    launch = get_rows_kernel(weight.format, 160, 7, 1, y_lanes=True)
    slots = {**weight.planes, "batch": batch(1, tokens=[5]), "y": poisoned(1, 160)}
    found = result(bench.run([Case(launch, slots)])[0]["y"], 160)
    np.testing.assert_array_equal(found, in_lane_order(weight.dense[5]))


def check_mul_mat_vec(
    bench: Bench, format: Format, profile: DeviceProfile, shapes: dict[str, Any], limit: float = LIMIT
) -> None:
    assert (profile.subgroup_size == 0) or 4 <= profile.subgroup_size <= 64, profile
    cases, expected = [], []
    for n, k, options in shapes.values():
        k = columns(format, k)
        weight = bench.weight(format, matrix(n, k))
        n_tokens = 3 if options.get("last_row") else 1
        x, norm, bias = matrix(n_tokens, k), 1 + 0.1 * matrix(1, k)[0], matrix(1, n)[0]
        slots = {**weight.planes, "x": guarded(in_lane_order(x[0]) if "x" in options.get("lane_order", ()) else x)}
        total = x
        if "post_eps" in options:
            post, post_norm = 3 * matrix(1, k), 1 + 0.1 * matrix(1, k)[0]
            slots["post"] = guarded(in_lane_order(post[0]) if "post" in options.get("lane_order", ()) else post)
            slots["post_norm_weight"] = in_lane_order(post_norm)
            total = x + rms_normed(post, post_norm, options["post_eps"])
        if "keeps_sum" in options:
            slots["sum"] = poisoned(k)
        h = rms_normed(total, norm, EPS) if "eps" in options else total
        y = product(weight, h)[-1]
        if "eps" in options:
            slots["norm_weight"] = in_lane_order(norm)
        if "scaled" in options:
            slots["tensor_scales"] = matrix(1, len(options["scaled"]) + 1)[0]
            y = y * slots["tensor_scales"][np.digitize(np.arange(n), options["scaled"])]
        if options.get("bias"):
            slots["bias"] = bias
            y = y + bias
        if options.get("last_row"):
            slots["batch"] = batch(n_tokens)
        epilogue, offset = options.get("epilogue", "store"), options.get("offset", 0)
        out = n // 2 if epilogue in GLU else n
        if epilogue in GLU:
            y = GLU[epilogue](y[:out]) * y[out:]
        slots["y"] = poisoned(offset + out)
        if epilogue == "by_add":
            other = matrix(1, options["by_row"])[0]
            slots["by"] = guarded(in_lane_order(other) if "by" in options["lane_order"] else other)
            y = y + other[options["by"] :][:out]
        if epilogue == "add":
            residual = matrix(1, out)[0]
            slots["y"] = guarded(in_lane_order(residual) if "y" in options.get("lane_order", ()) else residual)
            y = y + residual
        cases.append(Case(mul_mat_vec(format, k, n, profile, **options), slots))
        expected.append((offset, in_lane_order(y) if "y" in options.get("lane_order", ()) else y, total))
    for (name, (_, _, options)), found, (offset, y, total) in zip(
        shapes.items(), bench.run(cases), expected, strict=True
    ):
        if "keeps_sum" in options:
            kept = result(found["sum"], total.size)
            kept = out_of_lane_order(kept) if "sum" in options["lane_order"] else kept
            assert nmse(kept, total[0]) <= LIMIT, name
        assert np.isnan(found["y"][:offset]).all(), f"{name}: wrote before its offset"
        assert nmse(result(found["y"][offset:], len(y)), y) <= limit, name


@BY_NAME
def test_mul_mat_of_batches_that_do_not_divide_evenly(bench: Bench, format: Format) -> None:
    shapes = {  # name: (n, k, tokens, options)
        "store, scaled": (67, 96, (2, 65), {"offset": 3, "stride": 80, "scaled": (5, 64)}),
        "add, bias": (66, 1056, (1, 34), {"epilogue": "add", "bias": True}),
        "geglu, bias": (2 * 37, 32, (5, 17), {"epilogue": "geglu", "bias": True}),
    }
    check_mul_mat(bench, format, bench.profile, shapes)


@pytest.mark.parametrize("full", [0, 9000])
@pytest.mark.parametrize("device", ["this adapter", "a desktop GPU"])
def test_mul_mat_in_every_size_of_tile(bench: Bench, device: str, full: int) -> None:
    profile = bench.profile if device == "this adapter" else DESKTOP
    shapes = {
        "one row": (1, 32, (1, 64, 129), {}),
        "three rows, long": (3, 1056, (2, 63), {"bias": True, "scaled": ()}),
        "swiglu over several tiles": (2 * 65, 64, (65,), {"epilogue": "swiglu"}),
    }
    check_mul_mat(bench, FORMATS[GGMLType.Q8_0], profile, shapes, full)


@pytest.mark.parametrize("bits", PRECISIONS.values())
@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.packed], ids=lambda format: format.name)
def test_mul_mat_with_the_packed_dot(bench: Bench, format: Format, bits: int) -> None:
    assert can_be_packed(format, bench.profile)
    one, two = MulMat(32, 64, 8, 8, "packed", 1, bits), MulMat(16, 32, 8, 16, "packed", 2, bits)
    shapes: dict = {
        "geglu, bias": (2 * 37, 160, (17,), {"epilogue": "geglu", "bias": True, "scaled": (37,), "variant": two})
    }
    if format.name in ("q4_1", "q6_k"):
        shapes |= {
            "store": (67, 96, (2, 65), {"offset": 3, "stride": 80, "variant": one}),
            "add": (129, 160, (1, 70), {"epilogue": "add", "variant": two}),
        }
    check_mul_mat(bench, format, bench.profile, shapes)


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (16, 32512)])
@pytest.mark.parametrize("packed_dot", [True, False])
def test_quantized_rows_are_the_nearest_codes(bench: Bench, bits: int, largest: int, packed_dot: bool) -> None:
    k, n_tokens = 160, 5
    x = matrix(n_tokens, k) * np.array([1e-3, 1, 30, 1, 1])[:, None].astype(np.float32)
    x[1, 32:64] = 0
    found = quantized_rows(bench, x, n_tokens + 6, bits, replace(bench.profile, packed_dot=packed_dot))
    codes, scales = unpacked(found, k, n_tokens, n_tokens + 6, bits)
    top = np.abs(x.reshape(n_tokens, -1, 32)).max(-1)
    np.testing.assert_allclose(scales, top / largest, rtol=1e-6)
    error = np.abs(codes * scales[..., None] - x.reshape(n_tokens, -1, 32))
    assert (error <= (0.501 if bits == 8 else 0.51) * scales[..., None]).all()  # float32 has 24 bits of its own


def unpacked(data: np.ndarray, k: int, n_tokens: int, capacity: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes (tokens, blocks, 32) and scales (tokens, blocks) of quantized rows."""
    parts = data[: n_tokens * k * bits // 8].reshape(n_tokens, k // 32, bits // 8, 32)
    codes = parts[:, :, 0].view(np.int8).astype(np.float64)
    if bits == 16:
        codes = 256 * codes + parts[:, :, 1].view(np.int8)
    after = data[capacity * k * bits // 8 :]
    scales = after[: capacity * k // 8].view(np.float32).reshape(k // 32, capacity)[:, :n_tokens].T
    return codes, scales.astype(np.float64)


def check_mul_mat(bench: Bench, format: Format, profile, shapes, full: int = 0) -> None:  # type: ignore[no-untyped-def]
    """`full` tokens are a full batch, which the kernel is chosen for; those of `shapes` are shorter."""
    names, cases, expected = [], [], []
    for name, (n, k, batches, options) in shapes.items():
        k = columns(format, k)
        weight, bias = bench.weight(format, matrix(n, k)), matrix(1, n)[0]
        capacity = full or max(batches) + 7
        launch = mul_mat(format, k, n, capacity, profile, **options)
        epilogue, offset = options.get("epilogue", "store"), options.get("offset", 0)
        out = n // 2 if epilogue in GLU else n
        stride = options.get("stride", out)
        for n_tokens in batches:
            x = matrix(n_tokens, k)
            given, bound = x, guarded(x)
            slot = "x"
            if launch.kernel.template == "mul_mat_packed":
                slot, bits = "x_q", dict(launch.kernel.constants)["bits"]
                bound = quantized_rows(bench, x, capacity, bits, bench.profile)
                codes_of_x, each = unpacked(bound, k, n_tokens, capacity, bits)
                given = (codes_of_x * each[..., None]).reshape(n_tokens, k)
                assert nmse(given, x) <= QUANTIZED_LIMIT[bits]
            y = product(weight, given)
            scales = matrix(1, len(options.get("scaled", ())) + 1)[0]
            if "scaled" in options:
                y = y * scales[np.digitize(np.arange(n), options["scaled"])]
            y = y + (bias if options.get("bias") else 0)
            if epilogue in GLU:
                y = GLU[epilogue](y[:, :out]) * y[:, out:]
            before = np.full((n_tokens, stride), np.nan, np.float32)
            if epilogue == "add":
                before[:, offset : offset + out] = matrix(n_tokens, out)
                y = y + before[:, offset : offset + out]
            slots = {**weight.planes, slot: bound, "batch": batch(n_tokens), "y": guarded(before)}
            slots |= {"bias": bias} if options.get("bias") else {}
            slots |= {"tensor_scales": scales} if "scaled" in options else {}
            names.append(f"{name}, {n_tokens} tokens")
            cases.append(Case(launch, slots, n_tokens))
            expected.append((offset, stride, y))
    for name, found, (offset, stride, y) in zip(names, bench.run(cases), expected, strict=True):
        n_tokens, out = y.shape
        rows = found["y"][: n_tokens * stride].reshape(n_tokens, stride)
        assert np.isnan(found["y"][n_tokens * stride :]).all(), f"{name}: wrote behind its result"
        outside = np.delete(rows, np.s_[offset : offset + out], axis=1)
        assert np.isnan(outside).all(), f"{name}: wrote outside its columns"
        assert nmse(rows[:, offset : offset + out], y) <= LIMIT, name
