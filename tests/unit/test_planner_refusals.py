"""What cannot be planned is refused from the header, in a sentence that names the tensor or gives the figure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from llamaweb.errors import ContextError, ModelFileError, UnsupportedError
from llamaweb.ggml import GGMLType
from llamaweb.model.gguf_file import TensorInfo
from llamaweb.planner import plan_model
from tests.headers import SMOLLM2, TINY, llama_header


@pytest.mark.parametrize("n_ctx", [-1, 8193])
def test_a_context_the_model_does_not_have_is_refused_with_the_figure(n_ctx: int) -> None:
    with pytest.raises(ContextError, match=str(n_ctx)):
        plan_model(llama_header(**SMOLLM2, n_ctx=8192), n_ctx=n_ctx)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ContextError, match="n_ubatch is 0"):
        plan_model(llama_header(**TINY), n_ubatch=0)


def test_a_missing_tensor_is_named() -> None:
    file = llama_header(**TINY)
    for name in ("blk.1.ffn_down.weight", "output_norm.weight", "token_embd.weight"):
        tensors = {key: tensor for key, tensor in file.tensors.items() if key != name}
        with pytest.raises(ModelFileError, match=re.escape(name)):
            plan_model(replace(file, tensors=tensors))


def test_a_tensor_of_another_shape_is_named_with_both_shapes() -> None:
    file = llama_header(**TINY)
    wrong = replace(file.tensors["blk.0.attn_k.weight"], shape=(64, 48))
    with pytest.raises(ModelFileError, match=r"blk\.0\.attn_k\.weight has shape \[64, 48\].*\[64, 32\]"):
        plan_model(replace(file, tensors={**file.tensors, wrong.name: wrong}))


@pytest.mark.parametrize("name", ["blk.0.ffn_norm.bias", "blk.1.attn_q_norm.weight", "rope_table.weight"])
def test_a_tensor_that_would_not_be_read_is_named(name: str) -> None:
    file = llama_header(**TINY)
    more = TensorInfo(name, GGMLType.F32, (96,), 1 << 20, 384)
    with pytest.raises(UnsupportedError, match=rf"{re.escape(name)}' and 1 more, which llama models do not have"):
        plan_model(replace(file, tensors={**file.tensors, name: more, "other": replace(more, name="other")}))


@pytest.mark.parametrize(("type", "count"), [(GGMLType.Q8_0, 8), (GGMLType.F32, 9), (GGMLType.F16, 33)])
def test_factors_of_the_rotation_that_do_not_fit_are_told_from_the_header(type: GGMLType, count: int) -> None:
    file = llama_header(**TINY)
    factors = TensorInfo("rope_freqs.weight", type, (count,), 1 << 20, 4 * count)
    with pytest.raises(ModelFileError, match=rf"rope_freqs\.weight has shape \[{count}\] in {type.name}, not \[8\]"):
        plan_model(replace(file, tensors={**file.tensors, factors.name: factors}))


def test_a_format_that_is_not_there_yet_is_named_with_its_tensor() -> None:
    missing = GGMLType.I8
    file = llama_header(**TINY)
    tensor = replace(file.tensors["blk.1.attn_output.weight"], type=missing)
    with pytest.raises(UnsupportedError, match=rf"blk\.1\.attn_output\.weight is in {missing.name}"):
        plan_model(replace(file, tensors={**file.tensors, tensor.name: tensor}))


@pytest.mark.parametrize(
    ("name", "near"),
    [("mamba", "such as mamba2."), ("qwen4", "such as qwen3"), ("orion", "such as llama, gemma3, qwen3.")],
)
def test_an_unknown_architecture_is_named_with_those_that_begin_like_it(name: str, near: str) -> None:
    file = llama_header(**TINY)
    with pytest.raises(UnsupportedError) as caught:
        plan_model(replace(file, metadata={**file.metadata, "general.architecture": name}))
    assert repr(name) in str(caught.value) and near in str(caught.value)


@pytest.mark.parametrize(("head_dim", "rotated"), [(13, 12), (578, 578)])
def test_heads_that_no_kernel_takes_are_refused(head_dim: int, rotated: int) -> None:
    file = llama_header(**TINY, head_dim=head_dim, type="F16", metadata={"rope.dimension_count": rotated})
    with pytest.raises(UnsupportedError, match=rf"heads of {head_dim} values .*even sizes up to 576"):
        plan_model(file)


@pytest.mark.parametrize("head_dim", [8, 48, 100])
def test_a_cache_of_blocks_that_do_not_divide_the_heads_is_refused_with_a_way_out(head_dim: int) -> None:
    for options in ({"type_k": "q8_0"}, {"type_v": "q4_0"}):
        with pytest.raises(UnsupportedError, match=rf"multiple of 32, and the model's have {head_dim}; use f16"):
            plan_model(llama_header(**TINY, head_dim=head_dim, type="F16"), **options)


def test_a_vector_in_blocks_is_named() -> None:
    file = llama_header(**TINY)
    tensor = replace(file.tensors["blk.1.ffn_norm.weight"], type=GGMLType.Q8_0)
    with pytest.raises(UnsupportedError, match=r"blk\.1\.ffn_norm\.weight is a vector in Q8_0.*F32, F16, BF16"):
        plan_model(replace(file, tensors={**file.tensors, tensor.name: tensor}))


@pytest.mark.parametrize(("type", "block"), [("Q4_K", 256), ("Q1_0", 128)])
def test_rows_that_are_no_whole_blocks_are_refused_by_name(type: str, block: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"token_embd.weight has rows of 64; in {type}, multiples of {block}"):
        plan_model(llama_header(**TINY, type=type))
