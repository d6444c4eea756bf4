"""Kernels over rows that are no whole blocks of 32: behind each there is poison, which may not reach a result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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
    in_rows,
    poisoned,
    result,
    result_rows,
    rms_normed,
)

from llamaweb.ggml import GGMLType, dequantize
from llamaweb.kernels import library
from llamaweb.kernels.formats import FORMATS, Format, whole_blocks
from llamaweb.kernels.mul_mat import PLAIN, MulMat, mul_mat
from llamaweb.kernels.mul_mat_vec import mul_mat_vec
from llamaweb.operations.norm import rms_norm_kernel
from tests.blocks import quantized
from tests.plain_kernels import add, glu
from tests.reference import nmse

EPS = 1e-5
LIMIT = 1e-10
rng = np.random.default_rng(7)
NUMBERS = [f for f in FORMATS.values() if not f.repacked]
BY_FORMAT = pytest.mark.parametrize("format", NUMBERS, ids=lambda format: format.name)


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


@BY_FORMAT
@pytest.mark.parametrize("subgroups", [True, False])
def test_mul_mat_vec(bench: Bench, format: Format, subgroups: bool) -> None:
    profile = bench.profile if subgroups else replace(bench.profile, subgroup_size=0)
    shapes: list[tuple[int, int, dict[str, Any]]] = [  # n, columns, options
        (37, 50, {}),
        (2 * 33, 172, {"epilogue": "swiglu", "eps": EPS}),
        (5, 2, {"eps": EPS, "post_eps": 1e-6, "keeps_sum": True}),
        (11, 70, {"eps": EPS, "post_eps": 1e-6, "sum_scale": True, "epilogue": "by_geglu", "by": 3}),
        (7, 334, {"eps": EPS, "last_row": True}),
    ]
    cases, expected = [], []
    for n, columns, options in shapes:
        weight, k = bench.weight(format, normal(n, columns)), whole_blocks(columns)
        x = normal(3 if options.get("last_row") else 1, columns)
        total, norm = x[-1:], 1 + 0.1 * normal(columns)
        slots = {**weight.planes, "x": guarded(in_rows(x)), "norm_weight": in_lane_order(norm), "batch": batch(len(x))}
        if "post_eps" in options:
            post, post_norm = 3 * normal(1, columns), 1 + 0.1 * normal(columns)
            slots |= {"post": guarded(in_rows(post)), "post_norm_weight": in_lane_order(post_norm), "sum": poisoned(k)}
            total = total + rms_normed(post, post_norm, options["post_eps"])
        if "sum_scale" in options:
            total = total * np.float32(0.7)
            slots["sum_scale"] = np.array([0.7], np.float32)
        h = rms_normed(total, norm, EPS) if "eps" in options else total
        y = (h.astype(np.float64) @ weight.dense[:, :columns].astype(np.float64).T)[0]
        if "by" in options:
            slots["by"] = normal(options["by"] + n)
            y = GLU[options["epilogue"].removeprefix("by_")](y) * slots["by"][options["by"] :]
        elif "epilogue" in options:
            y = GLU[options["epilogue"]](y[: n // 2]) * y[n // 2 :]
        launch = mul_mat_vec(format, k, n, profile, columns=columns, **options)
        slots["y"] = poisoned(len(y))
        cases.append(Case(launch, {slot.name: slots[slot.name] for slot in launch.kernel.slots}))
        expected.append((y, total[0]))
    for found, (y, total) in zip(bench.run(cases), expected, strict=True):
        assert nmse(result(found["y"], len(y)), y) <= LIMIT
        if "sum" in found:
            assert nmse(result(found["sum"], whole_blocks(len(total)))[: len(total)], total) <= LIMIT


@BY_FORMAT
@pytest.mark.parametrize("variant", [PLAIN, MulMat(64, 64, 8, 8)], ids=str)
def test_mul_mat(bench: Bench, format: Format, variant: MulMat) -> None:
    cases, expected = [], []
    for n, columns, n_tokens in ((67, 50, 1), (66, 172, 35), (3, 2, 70)):
        weight, k, x = bench.weight(format, normal(n, columns)), whole_blocks(columns), normal(n_tokens, columns)
        stride = whole_blocks(n)
        launch = mul_mat(format, k, n, 80, bench.profile, stride=stride, columns=columns, variant=variant)
        slots = {**weight.planes, "x": guarded(in_rows(x)), "batch": batch(n_tokens), "y": poisoned(n_tokens, stride)}
        cases.append(Case(launch, slots, n_tokens))
        expected.append(x.astype(np.float64) @ weight.dense[:, :columns].astype(np.float64).T)
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result_rows(found["y"], *y.shape), y) <= LIMIT


@pytest.mark.parametrize("row", [2, 50, 172, 1030])
def test_rms_norm_alone_and_added_to_what_is_there(bench: Bench, row: int) -> None:
    weight, cases, expected = 1 + 0.1 * normal(row), [], []
    for epilogue in ("store", "add"):
        x, y = normal(5, row), normal(5, row)
        before = in_rows(y) if epilogue == "add" else poisoned(5, whole_blocks(row))[:-GUARD]
        launch = rms_norm_kernel(row, EPS, 128, epilogue=epilogue)
        slots = {"x": guarded(in_rows(x)), "norm_weight": in_lane_order(weight), "y": guarded(before)}
        cases.append(Case(launch, slots, 5))
        expected.append(rms_normed(x, weight, EPS) + (y if epilogue == "add" else 0))
    for found, y in zip(bench.run(cases), expected, strict=True):
        assert nmse(result_rows(found["y"], *y.shape), y) <= LIMIT


def test_additions_and_gated_linear_units(bench: Bench) -> None:
    x, y, both = normal(5, 50), normal(5, 50), normal(5, 100)
    sums, units = bench.run(
        [
            Case(add(50, 8), {"x": guarded(in_rows(x)), "y": guarded(in_rows(y))}, 5),
            Case(glu("swiglu", 50, 8), {"x": guarded(both), "y": poisoned(5, 64)}, 5),
        ]
    )
    np.testing.assert_array_equal(result_rows(sums["y"], 5, 50), x + y)
    assert nmse(result_rows(units["y"], 5, 50), GLU["swiglu"](both[:, :50].astype(np.float64)) * both[:, 50:]) <= LIMIT


@BY_FORMAT
def test_rows_are_padded_with_zeros_in_pieces_of_whole_rows(bench: Bench, format: Format) -> None:
    for rows, columns in ((9, 50), (5, 2), (4, 33)):
        values = normal(rows, columns)
        data, pitch = quantized(values, format.type).reshape(rows, -1).view(np.uint8), whole_blocks(columns)
        row = pitch * format.block_bytes
        w = np.full(rows * row + GUARD, 0xA5, np.uint8)
        for first in range(0, rows, 4):
            raw = data[first : first + 4]
            job = np.array([len(raw) * row // 4, first * row // 4, columns, pitch], np.uint32)
            raw_words = np.frombuffer(raw.tobytes() + bytes([0xFF] * 8), np.uint8)
            launch = library.pad_rows(format, int(job[0]))
            w = bench.run([Case(launch, {"raw": raw_words, "job": job, "w": w})])[0]["w"]
        assert (w[rows * row :] == 0xA5).all()
        expected = np.zeros((rows, row), np.uint8)
        expected[:, : data.shape[1]] = data
        np.testing.assert_array_equal(w[: rows * row].reshape(rows, row), expected)


def test_rows_behind_the_65535th_workgroup_are_padded_too(bench: Bench) -> None:
    rows, columns = 65_535 * 64 // 16 + 100, 15  # 16 words a row
    values = np.arange(rows * columns, dtype=np.uint32).astype(np.uint16).reshape(rows, columns)
    launch = library.pad_rows(FORMATS[GGMLType.F16], rows * 16)
    assert launch.workgroups == (65_535, 2, 1)
    job = np.array([rows * 16, 0, columns, 32], np.uint32)
    (found,) = bench.run([Case(launch, {"raw": values, "job": job, "w": np.zeros((rows, 32), np.uint16)})])
    np.testing.assert_array_equal(found["w"], np.pad(values, ((0, 0), (0, 17))))


@BY_FORMAT
@pytest.mark.parametrize("lane_order", [True, False])
def test_vectors_come_as_float32_in_pieces(bench: Bench, format: Format, lane_order: bool) -> None:
    for size, parts in ((50, (50,)), (172, (100, 72)), (96, (96,)), (7, (2, 5))):
        values = normal(size)
        w = np.zeros(whole_blocks(size) + GUARD, np.float32)
        at = 0
        for count in parts:
            raw = quantized(values[at : at + count][None], format.type).tobytes()
            launch = library.vector(format.type, count, lane_order=lane_order)
            slots = {"raw": np.frombuffer(raw, np.uint8), "job": np.array([count, at, whole_blocks(size)], np.uint32)}
            w = bench.run([Case(launch, {**slots, "w": w})])[0]["w"]
            at += count
        dense = dequantize(quantized(values[None], format.type), format.type).reshape(-1)
        expected = in_lane_order(dense) if lane_order else np.pad(dense, (0, -size % 32))
        np.testing.assert_array_equal(w, np.pad(expected, (0, GUARD)))
