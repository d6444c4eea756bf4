"""What a file says in more than one place must agree, and may be written in every way that llama.cpp takes.

Each case was loaded with llama.cpp (September 2026), which does the same: takes it, or refuses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGUFValueType

from llamaweb.errors import LlamaWebError, ModelFileError, UnsupportedError
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import plan_model
from tests.crafted import ARRAY, crafted, header
from tests.tiny import TinyGemma3, TinyLlama

U32, I32, U64, F32, BOOL = (GGUFValueType[name] for name in ("UINT32", "INT32", "UINT64", "FLOAT32", "BOOL"))
PLAIN = header(crafted())
GEMMA3 = TinyGemma3(n_layer=2)


def same_plan(file: GGUFFile, other: GGUFFile) -> bool:
    """Whether two headers give one model: every kernel with its constants, every binding."""
    return plan_model(file) == plan_model(other)


@pytest.mark.parametrize("kind", [I32, U32])
@pytest.mark.parametrize(
    ("key", "value"), [("attention.head_count", 4), ("attention.head_count_kv", 2), ("feed_forward_length", 96)]
)
def test_one_number_a_layer_is_that_number_where_all_are_alike(key: str, value: int, kind: GGUFValueType) -> None:
    assert same_plan(header(crafted({f"llama.{key}": ([value, value], ARRAY, kind)})), PLAIN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.layer_norm_rms_epsilon", 1e-5),
        ("rope.freq_base", 1e4),
        ("rope.dimension_count", 16),
        ("attention.key_length", 16),
    ],
)
def test_that_holds_for_every_number_of_a_family(key: str, value: float) -> None:
    kind = F32 if isinstance(value, float) else U32
    assert same_plan(header(crafted({f"llama.{key}": ([value, value], ARRAY, kind)})), PLAIN)


@pytest.mark.parametrize(
    ("key", "value"), [("attention.head_count_kv", 1), ("feed_forward_length", 96), ("attention.sliding_window", 8)]
)
def test_that_holds_for_gemma3_too(key: str, value: int) -> None:
    file = header(crafted({f"gemma3.{key}": ([value, value], ARRAY, U32)}, spec=GEMMA3))
    assert same_plan(file, header(crafted(spec=GEMMA3)))


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ([2, 1], UnsupportedError, r"head_count_kv differs from layer to layer \(\[2, 1\]\)"),
        ([2], ModelFileError, "head_count_kv has 1 values, but llama.block_count says 2 layers"),
        ([2, 2, 2], ModelFileError, "head_count_kv has 3 values, but llama.block_count says 2 layers"),
        ([2.0, 2.0], ModelFileError, "head_count_kv is 2.0, not a whole number"),
        ([0, 0], ModelFileError, "head_count_kv is 0, not a whole number"),
    ],
)
def test_numbers_of_layers_that_make_no_model_are_refused_by_name(
    values: list[Any], error: type[LlamaWebError], told: str
) -> None:
    kind = F32 if isinstance(values[0], float) else U32
    with pytest.raises(error, match=told):
        plan_model(header(crafted({"llama.attention.head_count_kv": (values, ARRAY, kind)})))


def test_a_count_of_layers_is_one_number() -> None:
    with pytest.raises(ModelFileError, match=r"block_count is \[2, 2\], not a whole number"):
        plan_model(header(crafted({"llama.block_count": ([2, 2], ARRAY, U32)})))


@pytest.mark.parametrize("kind", [I32, U64, GGUFValueType.UINT8])
def test_a_whole_number_may_be_of_any_type_of_whole_numbers(kind: GGUFValueType) -> None:
    assert same_plan(header(crafted({"llama.feed_forward_length": (96, kind)})), PLAIN)


@pytest.mark.parametrize(
    ("match", "ones"), [("attn_norm", (1,)), ("attn_norm", (1, 1, 1)), ("ffn_down", (1,)), ("token_embd", (1, 1))]
)
def test_dimensions_of_one_at_a_shapes_end_change_nothing(match: str, ones: tuple[int, ...]) -> None:
    def change(name: str, data: np.ndarray) -> np.ndarray:
        return data.reshape(*ones, *data.shape) if match in name else data  # numpy's order is the other way round

    assert same_plan(header(crafted(change=change)), PLAIN)


def test_factors_of_the_rotation_may_have_them_too() -> None:
    spec = TinyLlama(rope_freqs=True)
    file = header(crafted(spec=spec, change=lambda name, data: data[None] if name == "rope_freqs.weight" else data))
    assert same_plan(file, header(crafted(spec=spec)))


@pytest.mark.parametrize("match", ["attn_norm", "ffn_down"])
def test_a_dimension_of_one_at_a_shapes_begin_is_another_shape(match: str) -> None:
    file = header(crafted(change=lambda name, data: data[..., None] if match in name else data))
    with pytest.raises(ModelFileError, match=rf"blk\.0\.{match}\.weight has shape \[1, "):
        plan_model(file)


@pytest.mark.parametrize("spec", [TinyLlama(), GEMMA3])
@pytest.mark.parametrize("rows", [296, 344])
def test_tokens_and_rows_of_the_embedding_are_as_many(rows: int, spec: TinyLlama | TinyGemma3) -> None:
    with pytest.raises(ModelFileError, match=rf"304 tokens, but token_embd\.weight has {rows} rows"):
        plan_model(header(crafted(rows=rows, spec=spec)))


def test_a_size_of_the_vocabulary_in_the_metadata_counts_for_nothing() -> None:
    """llama.cpp counts the tokens; files of fine-tunes tell their base model's size."""
    assert same_plan(header(crafted({"llama.vocab_size": (300, U32)})), PLAIN)


@pytest.mark.parametrize("count", [1, 3])
def test_layers_are_as_many_as_the_tensors_have(count: int) -> None:
    with pytest.raises(ModelFileError, match=rf"block_count says {count} layers, but the file has tensors of 2"):
        plan_model(header(crafted({"llama.block_count": (count, U32)})))


def test_the_width_is_that_of_the_embedding() -> None:
    with pytest.raises(ModelFileError, match=r"embedding_length is 32, but the rows of token_embd\.weight have 64"):
        plan_model(header(crafted({"llama.embedding_length": (32, U32)})))


@pytest.mark.parametrize(
    ("key", "tensor"), [("attention.head_count_kv", r"blk\.0\.attn_k"), ("feed_forward_length", r"blk\.0\.ffn_gate")]
)
def test_other_counts_are_told_beside_the_tensors_shape(key: str, tensor: str) -> None:
    with pytest.raises(ModelFileError, match=rf"{tensor}\.weight has shape \[64, \d+\], but .* asks for \[64, \d+\]"):
        plan_model(header(crafted({f"llama.{key}": (4, U32)})))


def test_experts_that_a_file_tells_of_and_does_not_have_are_named() -> None:
    assert same_plan(header(crafted({"llama.expert_count": (0, U32)})), PLAIN)
    with pytest.raises(ModelFileError, match=r"lacks llama\.expert_used_count"):
        plan_model(header(crafted({"llama.expert_count": (8, U32)})))
    with pytest.raises(ModelFileError, match=r"no tensor blk\.0\.ffn_gate_inp\.weight"):
        plan_model(header(crafted({"llama.expert_count": (8, U32), "llama.expert_used_count": (2, U32)})))
    with pytest.raises(ModelFileError, match=r"llama\.expert_count has 3 values"):  # which are neither true nor false
        plan_model(header(crafted({"llama.expert_count": ([8, 2, 8], ARRAY, U32)})))


def test_windows_that_are_not_asked_for_need_no_pattern() -> None:
    key = "gemma3.attention.sliding_window_pattern"
    file = header(crafted({key: ([1.0], ARRAY, F32)}, spec=GEMMA3, without=["gemma3.attention.sliding_window"]))
    assert not plan_model(file).rings


def test_plans_of_models_that_differ_are_not_the_same() -> None:
    """So that the comparisons above can fail."""
    for spec in (TinyLlama(rms_eps=1e-6), TinyLlama(rope_base=5e4), TinyLlama(n_ff=128), TinyLlama(n_head_kv=4)):
        assert not same_plan(header(crafted(spec=spec)), PLAIN)
