"""What each dispatch costs, worked out from the shapes of its model."""

from __future__ import annotations

import pytest

from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.planner.cost import costs, shape
from llamaweb.profile import DESKTOP
from tests.families import MODELS
from tests.headers import gemma3_header, llama_header
from tests.reference import now
from tests.tiny import tiny_model

SIZES = {"n_layer": 1, "n_embd": 128, "n_head": 4, "n_head_kv": 2, "head_dim": 32, "n_ff": 192, "n_vocab": 300}
LLAMA = plan_model(llama_header(**SIZES), DESKTOP, n_ctx=1024, n_ubatch=64)
GEMMA = plan_model(gemma3_header(**SIZES, window=8, type="Q4_0"), DESKTOP, n_ctx=2048, n_ubatch=64)
ROW, FF, QKV = 4 * 128, 4 * 192, 4 * 256  # bytes of a token's activations in float32
CACHED = 2 * 32 * 2  # of a token's keys, or its values: 2 heads of 32 in f16


def q4_0(rows: int, columns: int) -> int:
    return rows * columns // 32 * 18


def codes(columns: int) -> int:
    """A token's activations of 16 bits, with a scale for each 32."""
    return columns * 2 + columns // 32 * 4


def found(plan: ModelPlan, phase: str, n_tokens: int, n_past: int) -> dict[str, tuple[str, int, int, int]]:
    """By the dispatch's name: its shape, and bytes read, bytes written and FLOPs of a token."""
    dispatches = plan.phases[phase].dispatches
    return {
        d.label.removeprefix("blk.0."): (shape(d.kernel), c.read, c.write, c.flops)
        for d, c in zip(dispatches, costs(plan, phase, n_tokens, n_past), strict=True)
    }


def test_a_token_costs_its_weights_its_activations_and_what_is_cached() -> None:
    assert found(LLAMA, "decode", 1, 7) == {
        "embd": ("128", q4_0(1, 128), ROW, 0),
        "attn_q+blk.0.attn_k+blk.0.attn_v": ("128×256", q4_0(256, 128) + 2 * ROW, QKV, 2 * 128 * 256),
        "attn": ("4/2 heads of 32", QKV + 2 * 8 * CACHED, ROW, 4 * 128 * 8),
        "attn_output": ("128×128 add", q4_0(128, 128) + 2 * ROW, ROW, 2 * 128 * 128),
        "ffn_gate+blk.0.ffn_up": ("128×384 swiglu", q4_0(384, 128) + 2 * ROW, FF, 2 * 128 * 384),
        "ffn_down": ("192×128 add", q4_0(128, 192) + FF + ROW, ROW, 2 * 192 * 128),
        "logits": ("128×300", q4_0(300, 128) + 2 * ROW, 4 * 300, 2 * 128 * 300),
        "sample": ("300", 4 * 300, 0, 0),
    }


def test_a_batch_costs_its_weights_once_and_its_logits_for_the_last_token() -> None:
    assert found(LLAMA, "prefill", 5, 7) == {
        "embd": ("128", 5 * q4_0(1, 128), 5 * ROW, 0),
        **{f"{part}_norm": ("128", ROW + 5 * ROW, 5 * ROW, 0) for part in ("attn", "ffn")},
        **{f"{name}.q16": ("128", 5 * ROW, 5 * codes(128), 0) for name in ("attn_norm", "attn", "ffn_norm")},
        "ffn_glu.q16": ("192", 5 * FF, 5 * codes(192), 0),
        "attn_q+blk.0.attn_k+blk.0.attn_v": (
            "128×256",
            q4_0(256, 128) + 5 * codes(128),
            5 * QKV,
            5 * 2 * 128 * 256,
        ),
        "rope": ("4/2 heads of 32", 5 * QKV, 5 * 2 * CACHED, 0),
        "attn": ("4/2 heads of 32", 5 * QKV + 2 * 12 * CACHED, 5 * ROW, 4 * 128 * (8 + 9 + 10 + 11 + 12)),
        "attn_output": ("128×128 add", q4_0(128, 128) + 5 * codes(128) + 5 * ROW, 5 * ROW, 5 * 2 * 128 * 128),
        "ffn_gate+blk.0.ffn_up": ("128×384 swiglu", q4_0(384, 128) + 5 * codes(128), 5 * FF, 5 * 2 * 128 * 384),
        "ffn_down": ("192×128 add", q4_0(128, 192) + 5 * codes(192) + 5 * ROW, 5 * ROW, 5 * 2 * 192 * 128),
        "logits": ("128×300", q4_0(300, 128) + 2 * ROW, 4 * 300, 2 * 128 * 300),
        "sample": ("300", 4 * 300, 0, 0),
    }


def test_a_recurrence_goes_through_all_tokens_and_moves_its_state_once() -> None:
    plan = plan_model(now(read_header(BytesSource(tiny_model(MODELS["granitehybrid"].spec)))), n_ubatch=64)
    joint, xbc, vectors, state = 4 * 288, 4 * 192, 128, 4 * 6 * 16 * 20  # rows in whole blocks, vectors where they lie
    for n_tokens in (5, 64):
        expected = ("6 heads of 16", vectors + n_tokens * (joint + xbc), n_tokens * 4 * 96 + 2 * state)
        assert found(plan, "prefill", n_tokens, 7)["ssm_scan"] == (*expected, n_tokens * 6 * 6 * 16 * 20)


def test_behind_a_window_a_token_costs_what_the_window_holds() -> None:
    split = found(GEMMA, "decode_long", 1, 700)
    norms = 2 * 32 * 4  # of queries and of keys
    assert split["attn"][1] == QKV + norms + 2 * 8 * CACHED
    assert split["attn"][3] == 4 * 128 * 8
    assert split["attn.sum"] == ("4 heads of 32", split["attn"][2], ROW, 0)
    assert split["ffn_gate+blk.0.ffn_up"][1:3] == (q4_0(384, 128) + 4 * ROW, ROW + FF)  # the sum is written, too
    assert split["ffn_down"] == ("192×128", q4_0(128, 192) + FF, ROW, 2 * 192 * 128)
    batch = found(GEMMA, "prefill", 5, 700)
    assert batch["attn"][1:] == (5 * QKV + 2 * (8 + 4) * CACHED, 5 * ROW, 5 * 4 * 128 * 8)
    assert batch["rope"][1:3] == (5 * QKV + norms, 5 * 2 * CACHED)
    assert batch["post_attention_norm"] == ("128 add", ROW + 2 * 5 * ROW, 5 * ROW, 0)


def test_a_batch_whose_logits_are_all_wanted_pays_for_each_token() -> None:
    plan = plan_model(llama_header(**SIZES), DESKTOP, n_ctx=1024, n_ubatch=64, logits_all=True)
    (phase,) = [name for name in plan.phases if "decode" not in name and name != "prefill"] or ["prefill"]
    every = found(plan, phase, 5, 7)
    assert every["logits"][2:] == (5 * 4 * 300, 5 * 2 * 128 * 300)


@pytest.mark.parametrize(("position", "long"), [(0, False), (511, False), (512, True), (2047, True)])
def test_from_512_tokens_on_the_long_phase_computes_a_token(position: int, long: bool) -> None:
    assert GEMMA.decode_phase(position) == ("decode_long" if long else "decode")
    assert "decode_long" not in plan_model(llama_header(**SIZES), DESKTOP, n_ctx=256).phases
    assert plan_model(llama_header(**SIZES), DESKTOP, n_ctx=256).decode_phase(position) == "decode"
