"""What the self-check asks of each kernel: right ones hold it, broken ones do not. On Mesa's software Vulkan, which has
a compiler and a way to compute of its own; `tests/browser/test_selfcheck.py` sees the check in the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from llamaweb.ggml import GGMLType
from llamaweb.kernels import library
from llamaweb.kernels.cache import CACHE_FORMATS
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.flash_attn_vec import FlashAttnVec
from llamaweb.kernels.formats import BLOCK, FORMATS, Format
from llamaweb.kernels.kernel import Kernel, Launch
from llamaweb.kernels.library import Attention
from llamaweb.kernels.mul_mat import PLAIN, MulMat, mul_mat, quantize
from llamaweb.kernels.mul_mat_vec import MulMatVec, mul_mat_vec
from llamaweb.kernels.template import wgsl
from llamaweb.operations.altup import altup_kernel, altup_stack_kernel
from llamaweb.operations.elementwise import elementwise_kernel
from llamaweb.operations.experts import (
    TILE,
    ByExpert,
    mul_mat_id_kernel,
    mul_mat_id_tiles_kernel,
    sort_ids_kernel,
    top_k_kernel,
    weighted_sum_kernel,
)
from llamaweb.operations.flash_attn import rope_kernel
from llamaweb.operations.gated_delta_net import gated_delta_net_kernel
from llamaweb.operations.gaussian_geglu import gaussian_geglu_kernel
from llamaweb.operations.get_rows import get_rows_kernel
from llamaweb.operations.mul_mat_vecs import Product, mul_mat_vecs_kernel
from llamaweb.operations.norm import Groups, norm_kernel, rms_norm_kernel
from llamaweb.operations.operand import Operand
from llamaweb.operations.output import cross_entropy_kernel, sample_kernel
from llamaweb.operations.pool import pool_kernel
from llamaweb.operations.rwkv_wkv7 import rwkv_wkv7_kernel
from llamaweb.operations.ssm_conv import Convolution, ssm_conv_kernel
from llamaweb.operations.ssm_scan import ssm_scan_kernel
from llamaweb.operations.token_shift import token_shift_kernel
from llamaweb.planner import DeviceProfile
from llamaweb.rope import Rope
from tests.checked import wrong
from tests.naga import LAVAPIPE, LEAST, Naga
from tests.plain_kernels import add, glu

F32 = CACHE_FORMATS["f32"]
PROFILES = {"any device": LEAST, "subgroups and packed dot": LAVAPIPE}


@pytest.fixture(scope="module", params=PROFILES.values(), ids=PROFILES)
def profile(request: pytest.FixtureRequest) -> DeviceProfile:
    return request.param


@pytest.fixture(scope="module")
def naga(profile: DeviceProfile) -> Naga:
    return Naga(profile)


BOTH = ("scale", "shift")
HEADS: tuple[dict[str, Any], ...] = (
    {"routed": False},
    {"routed": False, "columns": 70, "x_first": 16, "y_first": 5, "apart": (90, 83), "piece": (120, 80)},
)
JOINED = (Product(70, 512, 0, 3), Product(3, 512, 1024, 80, "tanh"), Product(64, 512, 0, 128))
FLOATS = (
    Product(40, 70, 0, 0),
    Product(7, 33, 96, 192, "sigmoid"),
    Product(50, 300, 192, 64),
    Product(1, 20, 512, 512),
)


def places(**of: tuple[int, int]) -> dict[str, Operand]:
    """By slot, where the first token's numbers are, and how far from there the next token's."""
    return {slot: Operand(slot, *place) for slot, place in of.items()}


Q4_0, Q6_K = FORMATS[GGMLType.Q4_0], FORMATS[GGMLType.Q6_K]
PACKED_TILE = MulMat(TILE, 64, 16, 8, "packed", 2)
PACKED = MulMatVec(32, LAVAPIPE.subgroup_size, 2, LAVAPIPE.subgroup_size, packed=True, blocks=2)
EXPERTS = [
    ByExpert(Q4_0, 96, 40, 5, 2),
    ByExpert(Q6_K, 512, 37, 6, 3, stacked=2, epilogue="swiglu_oai", scaled=True),
    ByExpert(Q4_0, 96, 100, 4, 4, own=True, scaled=True, bias=True, epilogue="add", factor=0.5),
    ByExpert(Q4_0, 96, 40, 6, 3, stacked=2, epilogue="geglu", scaled=True, bias=True, piece=(60, 90)),
    ByExpert(Q4_0, 96, 40, 6, 3, stacked=2, scaled=True, y_first=5),
]
ADDED_UP = [
    ByExpert(Q4_0, 96, 100, 4, 4, own=True, sums=True, scaled=True, bias=True, epilogue="add", factor=0.5),
    ByExpert(Q4_0, 96, 40, 6, 3, own=True, sums=True, bias=True, piece=(60, 90)),
]
LONG_EXPERTS = [
    ByExpert(Q4_0, 2080, 37, 4, 2, columns=2051, stacked=2, epilogue="swiglu", bias=True),
    ByExpert(Q6_K, 2304, 9, 3, 3, stacked=2),
    ByExpert(FORMATS[GGMLType.Q8_0], 1056, 21, 4, 3, own=True, sums=True, bias=True, factor=0.5),
    ByExpert(FORMATS[GGMLType.Q4_K], 1280, 40, 6, 6, own=True, sums=True, epilogue="add", piece=(60, 90)),
    ByExpert(Q4_0, 2080, 40, 6, 3, stacked=2, epilogue="geglu", piece=(60, 90)),
]
PACKED_EXPERTS = [  # whose rows are quantized by the kernels that other products' are
    ByExpert(Q4_0, 512, 40, 5, 2),
    ByExpert(Q6_K, 512, 37, 6, 3, stacked=2, epilogue="swiglu_oai", scaled=True, bias=True),
    ByExpert(Q4_0, 128, 100, 4, 4, own=True, bias=True, epilogue="add", factor=0.5),
    ByExpert(Q4_0, 512, 40, 6, 3, stacked=2, scaled=True, piece=(60, 90)),
]


def shapes(profile: DeviceProfile) -> list[Launch]:
    """One of each template, or two."""
    q4_0, q4_k, q6_k = (FORMATS[type] for type in (GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.Q6_K))
    attention = library.Attention(Rope("norm", 64), 64, 6, 2, 300, 0.125)
    texts = replace(attention, rope=None, texts=(70, 500), causal=False, type_k=F32, type_v=F32)
    found = [
        library.flash_attn(texts, 8, profile),
        library.flash_attn(replace(texts, head_dim=18, window=4), 8, profile),
        library.flash_attn(replace(texts, causal=True, window=3, temperature=(0.4, 2), sinks=True), 8, profile),
        *(pool_kernel(kind, 70, 3, (96, 80), 90, x_first=5) for kind in ("mean", "cls", "last")),
        get_rows_kernel(q4_0, 96, 40, 8, by="position", texts=(70, 500)),
        library.vector(GGMLType.F16, 40, lane_order=True),
        library.vector(GGMLType.BF16, 40),
        library.pad_rows(FORMATS[GGMLType.F16], 64),
        get_rows_kernel(q6_k, 512, 40, 8, scale=3.5),
        get_rows_kernel(q4_0, 96, 40, 1, y_lanes=True, piece=(16, 24)),
        rms_norm_kernel(96, 1e-5, 8, epilogue="add"),
        add(96, 8),
        glu("geglu", 160, 8),
        elementwise_kernel(("mul", ("tanh", 0), 2.5), 96, 1, {"x0": Operand("x0", lanes=96)}, Operand("y", lanes=96)),
        elementwise_kernel(0, 48, 8, {"x0": Operand("x0", 16, 96, each=16, apart=32)}, Operand("y", 0, 64)),
        elementwise_kernel(0, 48, 8, {"x0": Operand("x0", 5, 96)}, Operand("y", 3, 128, each=12, apart=20)),
        elementwise_kernel(0, 48, 1, {"x0": Operand("x0", 5, 96, 12)}, Operand("y", 3, lanes=96, each=12, apart=20)),
        elementwise_kernel(0, 40, 1, {"x0": Operand("x0", 3, 96)}, Operand("y"), last_row=True),
        elementwise_kernel(
            ("add", 0, ("mul", 1, 2)),
            96,
            8,
            {"x0": Operand("x0", 0, 96), "x1": Operand("x1", 5, 120, 8), "x2": Operand("x2", repeats=16)},
            Operand("y", 4, 128),
            {"x2"},
        ),
        norm_kernel("rms", (Groups(16, 4, 3, 5),), (96, 80), 1e-5, 8, ("scale",)),
        norm_kernel(
            "layer", (Groups(32, 3, 0, 0, 0, 32),), (96, 96), 1e-5, 8, ("scale", "bias_of_norm"), in_place=True
        ),
        norm_kernel("layer", (Groups(70, 1, 0, 0),), (96, 96), 1e-5, 8, ("norm_weight", "norm_bias")),
        norm_kernel("l2", (Groups(16, 4, 0, 0), Groups(8, 2, 64, 64)), (96, 96), 1e-5, 1),
        *(rope_kernel(Rope(mode, 12), 16, 3, (3, 96), (0, 64), 8) for mode in ("norm", "neox")),
        rope_kernel(Rope("neox", 16), 16, 3, (8, 96), (8, 96), 8, in_place=True),
        rope_kernel(Rope("norm", 6, offset=8), 16, 3, (8, 96), (8, 64), 8),
        norm_kernel(
            *("rms", (Groups(16, 2, 8, 0),), (96, 0), 1e-5, 1, ("scale",), Operand("x", 48)),
            epilogue=("mul", 0, ("silu", 1)),
            y_lanes=32,
        ),
        norm_kernel(
            *("l2", (Groups(16, 4, 0, 0),), (96, 96), 1e-5, 8, (), Operand("gate", 5, 128)), epilogue=("add", 1, 0)
        ),
        norm_kernel("rms", (Groups(10, 7, 0, 0),), (96, 96), 1e-5, 1, (), Operand("gate"), epilogue=("add", 0, 1)),
        gated_delta_net_kernel(16, 2, 4, False, 1e-6, places(qkv=(5, 160), alpha=(0, 32), beta=(3, 32), y=(0, 64))),
        gated_delta_net_kernel(
            *(38, 2, 4, True, 1e-6, places(qkv=(0, 320), alpha=(0, 0), y=(0, 0)) | {"beta": Operand("alpha", 4)})
        ),
        gated_delta_net_kernel(128, 1, 2, True, 1e-6, places(qkv=(0, 512), alpha=(0, 32), beta=(0, 32), y=(5, 288))),
        ssm_scan_kernel(6, 16, 20, 2, places(xbc=(5, 192), dt=(3, 64), y=(0, 96))),
        ssm_scan_kernel(
            2, 40, 128, 1, places(xbc=(0, 336), dt=(0, 32), gate=(7, 96), y=(3, 96)), ("mul", 0, ("silu", 1))
        ),
        ssm_scan_kernel(
            *(2, 48, 90, 1, places(xbc=(0, 0), dt=(96, 0)) | {"gate": Operand("dt"), "y": Operand("y", lanes=96)}),
            epilogue=("mul", 1, 0),
        ),
        gated_delta_net_kernel(
            *(16, 2, 4, False, 1e-6),
            places(qkv=(0, 128), y=(0, 64))
            | {"alpha": Operand("alpha", 2, 8, each=2, apart=4), "beta": Operand("alpha", 0, 8, each=2, apart=4)},
        ),
        ssm_scan_kernel(
            *(4, 16, 20, 2, places(xbc=(5, 0), y=(0, 0)) | {"dt": Operand("xbc", 150)}),
            conv=Convolution(4, 144, True, ("silu", 0)),
        ),
        gated_delta_net_kernel(
            *(18, 2, 4, True, 1e-6),
            places(qkv=(0, 0), y=(0, 0)) | {"alpha": Operand("qkv", 144), "beta": Operand("qkv", 148)},
            Convolution(3, 144, False, 0),
        ),
        ssm_conv_kernel(3, 70, 8, places(x=(5, 96), y=(0, 96)), bias=True),
        ssm_conv_kernel(
            *(4, 64, 8),
            places(x=(64, 192), y=(0, 64)) | {"x1": Operand("x", 0, 192), "gate": Operand("x", 128, 192)},
            prologue=("mul", 0, 1),
            epilogue=("add", ("silu", 0), 1),
        ),
        ssm_conv_kernel(2, 64, 1, places(x=(0, 0)) | {"y": Operand("y", lanes=64)}, epilogue=("silu", 0)),
        token_shift_kernel(70, 6, 3, (5, 96), (96, 320)),
        token_shift_kernel(96, 1, 1, (0, 96), (96, 128), center_eps=1e-5, norm_bias=True, lanes=("x", "y")),
        token_shift_kernel(300, 2, 1, (3, 320), (320, 320), eps=1e-5),
        *(mul_mat_vecs_kernel(JOINED, (format,) * 3, profile, x_lanes=True) for format in (q4_0, q4_k)),
        mul_mat_vecs_kernel(FLOATS, tuple(FORMATS[GGMLType[t]] for t in ("F32", "F16", "BF16", "F16")), profile),
        rwkv_wkv7_kernel(64, 2, 64e-5, 2048, 128),
        rwkv_wkv7_kernel(20, 3, 64e-5, 960, 64, mixed=True),
        rwkv_wkv7_kernel(4, 3, 64e-5, 960, 32, alone=True),
        rwkv_wkv7_kernel(32, 3, 64e-5, 128, 0, mixed=True, lanes=True),
        altup_stack_kernel(70, 4, 8, {"x": (5, 96), "others": (3, 224), "y": (96, 320)}),
        altup_stack_kernel(300, 2, 1, {"x": (0, 320), "others": (0, 320), "y": (0, 320)}),
        altup_kernel(70, 4, 8, {"x": (96, 320), "y": (96, 320)}, 1e-5),
        altup_kernel(300, 3, 1, {"x": (0, 320), "branch": (5, 320), "y": (0, 320)}, 1e-5),
        altup_kernel(70, 2, 8, {"x": (96, 320), "activated": (3, 96), "y": (96, 320)}, 1e-5),
        altup_kernel(300, 4, 1, {"x": (0, 320), "activated": (0, 320), "y": (0, 320)}, 0.5),
        gaussian_geglu_kernel(91, 8, 1.65, {"gate": (3, 192), "up": (96, 192), "y": (0, 96)}, beside=True),
        gaussian_geglu_kernel(320, 1, 0.5, {"gate": (0, 320), "up": (5, 352), "y": (0, 320)}, lanes=True),
        library.rope_kv(replace(attention, rope=None), 8),
        library.flash_attn(replace(attention, softcap=1.5, temperature=(0.4, 16)), 8, profile),
        library.flash_attn(replace(attention, sinks=True), 8, profile),
        *(library.flash_attn_vec(replace(attention, sinks=True), profile, splits=splits) for splits in (1, 4)),
        library.flash_attn_vec(replace(attention, sinks=True, bound=(1, 1), n_head_kv=2), profile, rotated=True),
        library.flash_attn_vec(replace(attention, softcap=1.5), profile),
        library.flash_attn_vec(replace(attention, temperature=(0.4, 16)), profile, rotated=True),
        library.rope_kv(replace(attention, head_eps=1e-5, norm_behind=True), 8),
        library.flash_attn_vec(replace(attention, head_eps=1e-5, norm_behind=True), profile),
        library.flash_attn_vec(replace(attention, rope=None, head_eps=1e-5), profile),
        mul_mat_vec(q4_0, 96, 80, profile, center_eps=1e-5, norm_bias=True, lane_order=("x",)),
        mul_mat_vec(q4_0, 96, 80, profile, eps=1e-5, epilogue="by_geglu", by=7, factor=0.5),
        mul_mat_vec(q4_0, 96, 80, profile, epilogue="by_add", by=16, by_row=96, lane_order=("by",), scaled=(7, 30)),
        mul_mat_vec(q4_0, 96, 80, profile, post_eps=1e-5, sum_scale=True, keeps_sum=True),
        mul_mat_vec(FORMATS[GGMLType.F16], 96, 80, profile, center_eps=1e-5, columns=70, last_row=True),
        mul_mat_vec(q4_0, 96, 80, profile, epilogue="relu_sqr", factor=0.5, scaled=(), bias=True),
        mul_mat(q4_0, 96, 80, 20, profile, epilogue="gelu", scaled=(5, 30), variant=MulMat(32, 32, 16, 16)),
        *(
            library.flash_attn_vec(replace(a, shared=True), profile)
            for a in (attention, replace(attention, head_eps=1e-5))
        ),
        library.flash_attn(replace(attention, shared=True), 8, profile),
        *(library.flash_attn_vec(replace(attention, head_eps=eps, v_eps=1e-3), profile) for eps in (1e-5, None)),
        library.rope_kv(replace(attention, head_eps=1e-5, v_eps=1e-3), 8),
        library.rope_kv(replace(attention, v_eps=1e-3), 8),
        library.rope_kv(attention, 8),
        library.flash_attn(attention, 8, profile),
        library.flash_attn_vec(attention, profile, y_lanes=True),
        library.flash_attn_vec(attention, profile, splits=8),
        library.flash_attn_reduce(64, 6, 8),
        top_k_kernel(5, 2, 8, norm=True, x_first=3, x_pitch=32, y_pitch=32),
        top_k_kernel(300, 6, 8, gating="sigmoid", bias=True, groups=(10, 4), norm=True, scale=2.5),
        top_k_kernel(32, 4, 8, gating="softmax_weight"),
        weighted_sum_kernel(70, 3, 8, (224, 32, 96)),
        sort_ids_kernel(5, 2, 8, 32),
        *(mul_mat_id_tiles_kernel(experts, 8, profile) for experts in EXPERTS),
        *(mul_mat_id_kernel(experts, 8, profile) for experts in (*EXPERTS, *ADDED_UP)),
        *(mul_mat_id_kernel(ByExpert(q4_0, 96, 40, 5, 5, own=True, **heads), 8, profile) for heads in HEADS),
        *(mul_mat_id_kernel(experts, 8, profile, PACKED if profile.packed_dot else None) for experts in LONG_EXPERTS),
        *(mul_mat_id_tiles_kernel(ByExpert(q4_0, 96, 70, 5, 5, own=True, **heads), 80, profile) for heads in HEADS),
        sample_kernel(300),
        cross_entropy_kernel(300, 8, 72, 80),
        mul_mat_vec(q4_0, 96, 80, profile, eps=1e-5, scaled=(40,), epilogue="swiglu", lane_order=("x", "y")),
        mul_mat_vec(q6_k, 512, 37, profile, epilogue="add", offset=3, y_row=96, last_row=True),
        mul_mat_vec(q4_0, 96, 80, profile, post_eps=1e-6, keeps_sum=True, eps=1e-5),
        mul_mat(q4_0, 96, 300, 80, profile, bias=True, scaled=(150,), epilogue="swiglu", variant=PLAIN),
        mul_mat(q6_k, 512, 37, 80, profile, epilogue="add", offset=3, stride=48, variant=MulMat(64, 64, 8, 8)),
    ]
    if profile.packed_dot:
        size = profile.subgroup_size
        packed = MulMatVec(64, 2 * size, 2, size, True)
        halves = [MulMatVec(64, size // 2, 2, size, True, 3), MulMatVec(64, size // 2, 2, size)]
        found += [
            quantize(512, 80, "i8", profile),
            quantize(512, 80, "i16", profile),
            mul_mat_vec(q4_0, 96, 80, profile, eps=1e-5, epilogue="geglu", variant=packed),
            *(mul_mat_vec(q4_0, 384, 74, profile, eps=1e-5, epilogue="geglu", variant=v) for v in halves),
            mul_mat_id_kernel(ByExpert(q4_0, 384, 40, 5, 2), 8, profile, halves[0]),
            mul_mat_vec(q4_0, 96, 80, profile, center_eps=1e-5, norm_bias=True, variant=packed),
            mul_mat(q6_k, 512, 37, 80, profile, variant=MulMat(32, 64, 16, 8, "packed", 2)),
            mul_mat(q4_0, 512, 300, 80, profile, epilogue="geglu", variant=MulMat(32, 64, 8, 8, "packed", 1)),
            mul_mat(q4_0, 512, 37, 80, profile, variant=MulMat(32, 64, 8, 8, "packed", 1, 8)),
            *(mul_mat_id_tiles_kernel(e, 80, profile, PACKED_TILE) for e in PACKED_EXPERTS),
        ]
    return found


def assert_right(naga: Naga, launches: list[Launch]) -> None:
    assert wrong(naga, [launch.kernel for launch in launches]) == []


def test_every_kernel_holds_what_is_asked_of_it(naga: Naga, profile: DeviceProfile) -> None:
    assert_right(naga, shapes(profile))


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_weights_of_every_format_are_read_as_they_are(naga: Naga, profile: DeviceProfile, format: Format) -> None:
    k = 3 * max(format.block_size, BLOCK)
    launches = [get_rows_kernel(format, k, 40, 4), mul_mat_vec(format, k, 2 * 36, profile, epilogue="swiglu")]
    launches.append(mul_mat_id_kernel(ByExpert(format, k, 40, 3, 2, stacked=2, epilogue="swiglu"), 8, profile))
    assert_right(naga, [*launches, mul_mat(format, k, 40, 8, profile, variant=MulMat(32, 32, 8, 8))])


@pytest.mark.parametrize("dim", [36, 100])
def test_heads_and_rows_of_odd_sizes(naga: Naga, profile: DeviceProfile, dim: int) -> None:
    launches = [rms_norm_kernel(172, 1e-5, 8), glu("swiglu", 43, 8), add(172, 8)]
    for type in (GGMLType.F32, GGMLType.F16):
        format, odd = FORMATS[type], {"columns": 172}
        launches.append(mul_mat_vec(format, 192, 37, profile, eps=1e-5, post_eps=1e-6, keeps_sum=True, **odd))
        launches.append(mul_mat(format, 192, 37, 80, profile, epilogue="add", variant=MulMat(32, 32, 16, 16), **odd))
        launches.append(mul_mat_id_kernel(ByExpert(format, 192, 37, 6, 3, own=True, **odd), 8, profile))
        launches.append(mul_mat_id_tiles_kernel(ByExpert(format, 64, 37, 6, 3, own=True, columns=47), 8, profile))
        launches.append(mul_mat_id_kernel(ByExpert(format, 64, 37, 6, 3, own=True, sums=True, columns=47), 8, profile))
    attention = library.Attention(Rope("norm", dim), dim, 6, 3, 300, 0.125)
    launches += [library.rope_kv(attention, 8), library.flash_attn(attention, 8, profile)]
    launches += [library.flash_attn_vec(attention, profile, splits=splits) for splits in (1, 8)]
    assert_right(naga, [*launches, library.flash_attn_reduce(dim, 6, 8)])


CACHES = [("f32", 64, LEAST), ("q8_0", 96, LEAST), ("q8_0", 64, LAVAPIPE), ("q4_0", 128, LAVAPIPE)]


@pytest.mark.parametrize(
    ("name", "dim", "profile"), CACHES, ids=lambda value: str(getattr(value, "subgroup_size", value))
)
def test_caches_of_every_format_rings_windows_and_pieces(name: str, dim: int, profile: DeviceProfile) -> None:
    format = CACHE_FORMATS[name]
    types = {"type_k": format, "type_v": format}
    plain = library.Attention(Rope("neox", 32), dim, 4, 2, 400, dim**-0.5, head_eps=1e-6, **types)
    ring = replace(plain, n_ctx=120, window=70, ring=True)
    launches = [library.flash_attn_vec(plain, profile, rotated=True)]
    for attention in (plain, ring, replace(plain, window=100, bound=(1, 1))):
        together = FlashAttnVec(64, heads=2)
        launches += [library.rope_kv(attention, 8), library.flash_attn_vec(attention, profile, variant=together)]
        launches.append(library.flash_attn(attention, 8, profile, variant=FlashAttn(16, 16, 16, 8, 4)))
    assert_right(Naga(profile), launches)


LENGTHS = {
    "shorter values": Attention(Rope("norm", 16, offset=32), 48, 6, 2, 300, 0.14, head_dim_v=40),
    "longer values, odd": Attention(Rope("neox", 10, offset=6), 20, 4, 2, 300, 0.2, head_dim_v=26, head_eps=1e-6),
    "q8_0 and f32": Attention(
        None, 96, 4, 2, 300, 0.1, head_dim_v=32, type_k=CACHE_FORMATS["q8_0"], type_v=CACHE_FORMATS["f32"]
    ),
    "in keys": Attention(Rope("norm", 8, offset=24), 32, 6, 1, 300, 0.17, head_dim_v=24, type_v=None),
    "in keys, odd": Attention(Rope("norm", 6, offset=20), 26, 4, 1, 300, 0.2, head_dim_v=20, type_v=None),
    "in keys, q4_0": Attention(
        None, 96, 4, 2, 300, 0.1, head_dim_v=64, type_k=CACHE_FORMATS["q4_0"], type_v=None, bound=(1, 1)
    ),
}
LARGEST = {
    "values in keys": Attention(Rope("norm", 64, offset=512), 576, 4, 1, 300, 0.04, head_dim_v=512, type_v=None),
    "values": Attention(Rope("norm", 64), 576, 2, 1, 300, 0.04),
}


@pytest.mark.parametrize("attention", LENGTHS.values(), ids=LENGTHS)
def test_heads_of_keys_and_values_of_different_lengths(
    naga: Naga, profile: DeviceProfile, attention: Attention
) -> None:
    check_attention(naga, profile, attention)


@pytest.mark.parametrize("attention", LARGEST.values(), ids=LARGEST)
def test_the_largest_heads_run_on_any_device(attention: Attention) -> None:
    check_attention(Naga(LEAST), LEAST, attention)


def check_attention(naga: Naga, profile: DeviceProfile, attention: Attention) -> None:
    """Every kernel of it, whole and in splits."""
    launches = [library.rope_kv(attention, 8), library.flash_attn(attention, 8, profile)]
    launches += [library.flash_attn_vec(attention, profile, splits=splits) for splits in (1, 4)]
    launches.append(library.flash_attn_vec(replace(attention, rope=None, head_eps=None), profile, rotated=True))
    assert_right(naga, [*launches, library.flash_attn_reduce(attention.of_value, attention.n_head, 4)])


BREAKS = {  # template: a text of its shader, and what makes it wrong
    "cross_entropy": ("log(sums[0])", "log2(sums[0])"),
    "flash_attn": ("position <= at", "position < at"),
    "flash_attn_reduce": ("sum / norm", "1.01 * sum / norm"),
    "flash_attn_vec": ("rope_turn(position,", "rope_turn(position + 1u,"),
    "get_rows": ("block.q[1]", "block.q[2]"),
    "mul_mat": ("dot(v, w0)", "1.01 * dot(v, w0)"),
    "mul_mat_id": ("dot(w0.q[3], a3)", "dot(w0.q[3], a2)"),
    "mul_mat_id_tiles": ("dot(v, w0)", "1.01 * dot(v, w0)"),
    "mul_mat_id_packed": ("let scale = scales_x[", "let scale = 1.01 * scales_x["),
    "mul_mat_packed": ("let scale = scales_x[", "let scale = 1.01 * scales_x["),
    "mul_mat_vec": ("dot(w0_0.q[3], a3)", "dot(w0_0.q[3], a2)"),
    "mul_mat_vec_packed": ("<< 8u", "<< 7u"),
    "pool": ("+ id.x] = ", "+ id.x] = 1.01 * "),
    "pad_rows": ("at + column + 1u", "at + column + 2u"),
    "quantize": ("round(v1 * inverse)", "round(v2 * inverse)"),
    "elementwise": ("y[", "y[1u + "),
    "norm": ("let factor = ", "let factor = 1.01 * "),
    "rms_norm": ("inverseSqrt(", "1.01 * inverseSqrt("),
    "gated_delta_net": ("let fade = ", "let fade = 1.01 * "),
    "ssm_scan": ("let fade = ", "let fade = 1.01 * "),
    "ssm_conv": ("let v0 = w0 * x0", "let v0 = w0 + x0"),
    "mul_mat_vecs": ("dot(w0.q[3], a3)", "dot(w0.q[3], a2)"),
    "token_shift": ("(before - now)", "(now - before)"),
    "rwkv_wkv7": ("let back = ", "let back = 1.1 * "),
    "altup": ("op_tanh(partial", "1.01 * op_tanh(partial"),
    "altup_stack": ("* lengths.x", "* lengths.y"),
    "gaussian_geglu": ("let cutoff = ", "let cutoff = 0.1 + "),
    "rope": ("rope_turn(batch[0u]", "rope_turn(1u + batch[0u]"),
    "rope_kv": ("rope_turn(position,", "rope_turn(position + 1u,"),
    "sample": ("747796405u", "747796407u"),
    "sort_ids": ("at += mine", "at += mine + 1u"),
    "top_k": ("&& o < i", "&& o <= i"),
    "vector": ("= number(n)", "= number(n + 1u)"),
    "weighted_sum": ("sum += ", "sum += 1.01 * "),
}


PACKED_TILES = ("mul_mat_packed", "mul_mat_id_packed")  # which read what `quantize` writes


def broken(changes: Mapping[str, tuple[str, str]], kernel: Kernel) -> str:
    text = wgsl(kernel)
    if kernel.template in changes:
        before, after = changes[kernel.template]
        assert before in text
        text = text.replace(before, after)
    return text


def test_a_kernel_that_is_broken_is_found_whatever_its_template() -> None:
    naga, kernels = Naga(LAVAPIPE), [launch.kernel for launch in shapes(LAVAPIPE)]
    assert set(BREAKS) == {kernel.template for kernel in kernels}
    for template in BREAKS:
        mine = [k for k in kernels if k.template in (template, "quantize" if template in PACKED_TILES else "")]
        mine = [k for k in mine if template != k.template or BREAKS[template][0] in wgsl(k)]  # some rotate nothing
        mine = mine or [k for k in kernels if k.template == "mul_mat_packed"]
        if template == "quantize":
            mine += [k for k in kernels if k.template == "mul_mat_packed"]
        found = wrong(naga, mine, lambda kernel, template=template: broken({template: BREAKS[template]}, kernel))
        assert found == [k for k in mine if k.template != "quantize"], template


OF_A_BATCH = {
    "a tile's last rows": ("mul_mat", ("t < n_tokens", "(t < 100u || t >= 128u) && t < n_tokens")),
    "its next tile": ("mul_mat", ("t < n_tokens", "t < min(n_tokens, 128u)")),
    "an expert's last pairs": ("mul_mat_id_tiles", ("< mine.z", "< min(mine.z, 30u)")),
    "its next tile of pairs": (
        "mul_mat_id_tiles",
        ("routes[3u + 3u * tile_at])", "(routes[3u + 3u * tile_at] / 32u * 32u))"),
    ),
    "each head's next tile": ("mul_mat_id_tiles", ("t0 = group.y", "t0 = 0u * group.y")),
    "pairs' next tiles": ("sort_ids", ("i += 32u", "i += 64u")),
}


@pytest.mark.parametrize(("template", "change"), OF_A_BATCH.values(), ids=OF_A_BATCH)
def test_of_a_batch_whole_tiles_are_looked_at_and_what_comes_behind(template: str, change: tuple[str, str]) -> None:
    large = MulMat(128, 64, 16, 16)
    kernels = [
        mul_mat(Q4_0, 96, 70, 512, LAVAPIPE, epilogue="swiglu", variant=large),
        mul_mat_id_tiles_kernel(ByExpert(Q6_K, 256, 37, 6, 3, stacked=2, epilogue="swiglu"), 512, LAVAPIPE),
        mul_mat_id_tiles_kernel(ByExpert(Q4_0, 96, 40, 6, 4, own=True, bias=True), 512, LAVAPIPE),
        mul_mat_id_tiles_kernel(ByExpert(Q4_0, 96, 40, 6, 6, own=True, routed=False), 512, LAVAPIPE),
        sort_ids_kernel(40, 8, 512),
    ]
    mine = [k for k in (launch.kernel for launch in kernels) if k.template == template and change[0] in wgsl(k)]
    assert mine and wrong(Naga(LAVAPIPE), mine) == []
    assert wrong(Naga(LAVAPIPE), mine, lambda kernel: broken({template: change}, kernel)) == mine


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "change",
    [("position < to", "position <= to"), ("position >= from", "position > from"), ("text_begin(t0 + t)", "0u")],
    ids=str,
)
def test_attention_to_another_text_or_too_far_is_found(causal: bool, change: tuple[str, str]) -> None:
    plain = library.Attention(None, 64, 6, 2, 300, 0.125, type_k=F32, type_v=F32)
    texts = replace(plain, texts=(70, 500), causal=causal, window=5, temperature=(0.4, 2))
    kernel = library.flash_attn(texts, 300, LAVAPIPE).kernel
    assert wrong(Naga(LAVAPIPE), [kernel]) == []
    assert wrong(Naga(LAVAPIPE), [kernel], lambda kernel: broken({"flash_attn": change}, kernel)) == [kernel]


REPACKED = {
    "scales": ("Q8_0", ("raw_halves(at,", "raw_halves(at + 2u,")),
    "codes": ("Q4_K", (">> vec4<u32>(4u * j)", ">> vec4<u32>(3u * j)")),
}


@pytest.mark.parametrize(("type", "change"), REPACKED.values(), ids=REPACKED)
def test_weights_that_are_repacked_wrongly_are_found(type: str, change: tuple[str, str]) -> None:
    product = mul_mat_vec(FORMATS[GGMLType[type]], 512, 8, LEAST).kernel
    assert wrong(Naga(LEAST), [product], lambda kernel: broken({"repack": change}, kernel)) == [product]
