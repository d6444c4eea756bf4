"""Guards of the kernels' speed on the software adapter: ratios of two times in one run, so that they hold on any CPU.

Each bound is about half as good as what was found when it was written, which stands beside it; a machine may be busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from attention_bench import NORM, Heads, caches, normal
from kernel_bench import Bench, Case, batch, guarded, poisoned

from llamaweb.ggml import GGMLType
from llamaweb.kernels import library, peaks
from llamaweb.kernels.formats import FORMATS, Format
from llamaweb.kernels.mul_mat import mul_mat
from llamaweb.kernels.mul_mat_vec import MulMatVec, mul_mat_vec
from llamaweb.operations.norm import rms_norm_kernel
from tests.plain_kernels import glu

K, N = 1024, 2048
EPS = 1e-5
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
OF_READING = {
    "Q4_0": 0.07,
    "Q8_0": 0.1,
    "F16": 0.13,
    "Q4_K": 0.065,
    "Q6_K": 0.07,
}  # a CPU computes longer than it reads


@pytest.fixture(autouse=True)
def software_adapter(bench: Bench) -> None:
    if not bench.profile.software:
        pytest.skip("a GPU is measured by `llamaweb bench --profile`")


def format_of(name: str) -> Format:
    return FORMATS[GGMLType[name]]


def planes(format: Format, n: int, k: int) -> dict[str, np.ndarray]:
    """A matrix of n rows of k on the GPU; its values do not matter to its speed."""
    blocks = n * k // format.block_size
    return {f"w_{plane.name}": np.full(blocks * plane.bytes, 0x11, np.uint8) for plane in format.planes}


def of_a_token(bench: Bench, format: Format, **options: Any) -> Case:
    glu = options.get("epilogue") == "swiglu"
    launch = mul_mat_vec(format, K, N, bench.profile, **options)
    slots = {**planes(format, N, K), "x": guarded(normal(K)), "y": poisoned(N // 2 if glu else N)}
    if "eps" in options:
        slots["norm_weight"] = normal(K)
    return Case(launch, slots)


def reading(bench: Bench, size: int) -> Case:
    launch, _ = peaks.read(bench.profile)
    return Case(launch, {"src": np.zeros(size, np.uint8), "y": np.zeros(64, np.uint32)})


def reading_over_computing(bench: Bench, names: Sequence[str], **options: Any) -> dict[str, float]:
    """Of each format, the time of reading the bytes of a matrix as a share of its product's."""
    groups = {}
    for name in names:
        size = sum(plane.size for plane in planes(format_of(name), N, K).values())
        groups |= {name: [of_a_token(bench, format_of(name), **options)], f"{name} read": [reading(bench, size)]}
    us = bench.time(groups)
    return {name: us[f"{name} read"] / us[name] for name in names}


def test_a_matrix_vector_product_keeps_up_with_reading_its_bytes(bench: Bench) -> None:
    found = reading_over_computing(bench, list(OF_READING))
    assert all(found[name] > least for name, least in OF_READING.items()), found


def test_that_guard_sees_a_variant_that_is_slow(bench: Bench) -> None:
    (found,) = reading_over_computing(bench, ["Q4_0"], variant=MulMatVec(256, 128, 1, 0)).values()
    assert found < OF_READING["Q4_0"]


def test_no_k_quant_takes_much_longer_than_q4_0(bench: Bench) -> None:
    us = bench.time({name: [of_a_token(bench, format_of(name))] for name in ("Q4_0", *K_QUANTS)})
    ratios = {name: us[name] / us["Q4_0"] for name in K_QUANTS}
    assert max(ratios.values()) < 1.9, ratios  # 1.1 to 1.3


def test_a_norm_and_a_gated_unit_fused_into_a_product_cost_little(bench: Bench) -> None:
    format, x, wide = format_of("Q4_0"), guarded(normal(K)), guarded(normal(N))
    norm = Case(rms_norm_kernel(K, EPS, 1), {"x": x, "norm_weight": normal(K), "y": poisoned(K), "batch": batch(1)})
    unit = Case(glu("swiglu", N // 2, 1), {"x": wide, "y": poisoned(N // 2)})
    fused = of_a_token(bench, format, eps=EPS, epilogue="swiglu")
    us = bench.time({"fused": [fused], "apart": [norm, of_a_token(bench, format), unit]})
    # Every workgroup norms for itself, which a CPU feels; a GPU has two dispatches less.
    assert us["fused"] < 2 * us["apart"], us  # 1.3


def test_a_batch_costs_less_than_its_tokens_one_by_one(bench: Bench) -> None:
    n_tokens, format = 64, format_of("Q4_0")
    x = {"x": guarded(normal(n_tokens, K)), "batch": batch(n_tokens), "y": poisoned(n_tokens, N)}
    product = Case(mul_mat(format, K, N, n_tokens, bench.profile), planes(format, N, K) | x)
    us = bench.time({"batch": [product], "token": [of_a_token(bench, format)]}, n_tokens)
    assert us["batch"] < n_tokens * us["token"], us  # 0.55


def test_attention_of_a_batch_skips_what_its_window_or_its_past_hide(bench: Bench) -> None:
    heads, n_tokens = Heads(64, 8, 4, NORM, n_ctx=1024), 64
    k, v = (cache.reshape(-1) for cache in caches(heads, heads.n_ctx))

    def attention(n_past: int, window: int = 0) -> list[Case]:
        launch = library.flash_attn(heads.attention(window=window), n_tokens, bench.profile)
        slots = {"k_cache": k, "v_cache": v, "batch": batch(n_tokens, n_past)}
        slots |= {"qkv": guarded(normal(n_tokens, heads.rows, 64)), "y": poisoned(n_tokens, heads.n_head * 64)}
        return [Case(launch, slots)]

    behind = heads.n_ctx - n_tokens
    groups = {"all": attention(behind), "window": attention(behind, 128), "no past": attention(0)}
    us = bench.time(groups, n_tokens)
    assert us["window"] < 0.4 * us["all"], us  # 0.16, for 192 positions of 1,024
    assert us["no past"] < 0.2 * us["all"], us  # 0.05, for 64 of 1,024
