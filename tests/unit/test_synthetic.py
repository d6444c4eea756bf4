"""Synthetic models: sound files of the right shape whose weights are numbers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamaweb.errors import ModelFileError
from llamaweb.ggml import GGMLType as T
from llamaweb.ggml import dequantize
from llamaweb.host import synthetic
from llamaweb.kernels.random_blocks import TYPES
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource, FileSource
from llamaweb.planner import plan_model
from llamaweb.tokenizer import load_tokenizer
from tests.tiny import TinyLlama, tiny_llama

SHAPE = replace(synthetic.SHAPES["tiny"], n_vocab=400)


@pytest.fixture(scope="module")
def tokenizer() -> dict:
    return asyncio.run(read_header(BytesSource(tiny_llama(TinyLlama())))).metadata


@pytest.mark.parametrize("type", TYPES)
def test_the_file_is_sound_and_its_weights_are_numbers(tmp_path: Path, tokenizer: dict, type: T) -> None:
    path, shape = tmp_path / "model.gguf", replace(SHAPE, n_embd=256, n_head=4)
    synthetic.write(path, shape, type, tokenizer)
    header = asyncio.run(read_header(FileSource(path)))
    assert header.tensors["blk.1.ffn_down.weight"].type == type
    assert header.tensors["blk.1.ffn_down.weight"].shape == (512, 256)
    for tensor in header.tensors.values():
        values = dequantize(np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset), tensor.type)
        expected = 1.0 if len(tensor.shape) == 1 else 0.02  # of norms, and of matrices
        assert np.sqrt(np.mean(np.square(values))) == pytest.approx(expected, rel=0.2), tensor.name


@pytest.mark.parametrize(("type", "table"), [(T.Q4_K, T.Q6_K), (T.Q1_0, T.Q1_0), (T.Q2_0, T.Q2_0), (T.F16, T.F16)])
def test_embeddings_are_as_models_of_the_format_have_them(tokenizer: dict, type: T, table: T) -> None:
    file = synthetic.HeaderSource("model.gguf", replace(SHAPE, n_embd=256, n_head=4), type, tokenizer)
    assert asyncio.run(read_header(file)).tensors["token_embd.weight"].type == table


@pytest.mark.parametrize("name", synthetic.SHAPES)
def test_each_shape_is_a_model_that_can_be_planned(tokenizer: dict, name: str) -> None:
    shape = replace(synthetic.SHAPES[name], n_vocab=400)
    header = asyncio.run(read_header(synthetic.HeaderSource("model.gguf", shape, T.Q4_0, tokenizer)))
    assert plan_model(header, n_ctx=64, n_ubatch=16).dispatches_per_token > 3 * shape.n_layer


def test_what_no_model_of_a_family_has_quantized_is_in_floats(tokenizer: dict) -> None:
    shape = replace(synthetic.SHAPES["rwkv7-1.5b"], n_vocab=400, n_layer=2)
    header = asyncio.run(read_header(synthetic.HeaderSource("model.gguf", shape, T.Q4_0, tokenizer)))
    types = {name.split(".")[2]: tensor.type for name, tensor in header.tensors.items() if name.startswith("blk.1.")}
    assert [types[f"time_mix_{name}"] for name in ("key", "lerp_fused", "w1", "w2", "a1", "g2")] == [
        *(T.Q4_0, T.F32, T.F32, T.F32, T.F16, T.F16),
    ]
    assert header.tensors["blk.1.time_mix_lerp_fused.weight"].shape == (2048, 1, 1, 6)
    assert plan_model(header).memory["state"] >= 2 * 4 * (32 * 64 * 64 + 2 * 2048)


def test_it_is_planned_and_its_tokenizer_is_the_donors_padded(tmp_path: Path, tokenizer: dict) -> None:
    path = tmp_path / "model.gguf"
    synthetic.write(path, SHAPE, T.Q4_0, tokenizer)
    header = asyncio.run(read_header(FileSource(path)))
    assert header.tensors["token_embd.weight"].type == T.Q8_0  # 192 columns are no whole block of Q6_K
    assert plan_model(header, n_ctx=128).dispatches_per_token == 2 * 5 + 3
    ours, donors = load_tokenizer(header.metadata), load_tokenizer(tokenizer)
    assert ours.n_vocab == 400
    assert ours.encode("the king is on the hill") == donors.encode("the king is on the hill")


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    for name, known in (("synthetic:gpt-9:Q4_0", "llama-3.2-1b"), ("synthetic:tiny:Q9", "Q4_K")):
        with pytest.raises(ModelFileError, match=known):
            synthetic.parse(name)
    shape, type, name = synthetic.parse("synthetic:llama-3.1-8b:Q4_K")
    assert (shape.n_layer, type, name) == (32, T.Q4_K, "synthetic-llama-3.1-8b-Q4_K.gguf")
