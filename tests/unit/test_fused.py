"""Tensors that a converter has stacked are read as the single ones that they were."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from llamaweb.errors import ModelFileError
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.model.shards import read_model
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from tests.crafted import crafted, header
from tests.tiny import TinyLlama, tiny_llama

SPEC = TinyLlama(n_head=4, n_head_kv=2, bias=True)


def read(data: bytes) -> GGUFFile:
    return asyncio.run(read_model(BytesSource(data, "fused.gguf")))[0]


@pytest.mark.parametrize("type", ["F32", "BF16", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("without", [(), ("*.bias",)], ids=["biases", "none"])
def test_q_k_and_v_are_the_rows_of_one_tensor(type: str, without: tuple[str, ...]) -> None:
    spec = replace(SPEC, type=type, without=without)
    apart, together = tiny_llama(spec), tiny_llama(replace(spec, fused=True))
    one, other = read(apart), read(together)
    assert b"attn_qkv" in together and one.tensors.keys() == other.tensors.keys()
    for name, info in other.tensors.items():
        same = one.tensors[name]
        assert (info.name, info.type, info.shape, info.nbytes) == (name, same.type, same.shape, same.nbytes)
        assert together[info.offset :][: info.nbytes] == apart[same.offset :][: same.nbytes], name
    assert plan_model(other).memory == plan_model(one).memory


def test_biases_of_their_own_may_stand_beside_a_stacked_weight() -> None:
    data = tiny_llama(replace(SPEC, fused=True)).replace(b"blk.0.attn_qkv.bias", b"blk.0.attn_xxx.bias")
    assert {"blk.0.attn_q.weight", "blk.0.attn_xxx.bias", "blk.1.attn_v.bias"} <= read(data).tensors.keys()


def test_a_stacked_tensor_beside_one_of_its_parts_stays_what_it_is() -> None:
    file = header(tiny_llama(replace(SPEC, fused=True)))
    both = file.tensors | {"blk.0.attn_k.weight": file.tensors["blk.1.attn_qkv.weight"]}
    found = unfused(replace(file, tensors=both)).tensors
    assert found["blk.0.attn_k.weight"] is both["blk.0.attn_k.weight"] and "blk.0.attn_qkv.weight" in found
    assert "blk.0.attn_q.weight" not in found and "blk.1.attn_qkv.weight" not in found


@pytest.mark.parametrize("rows", [0, 1, -1, -96])
def test_rows_that_do_not_come_out_are_refused(rows: int) -> None:
    def change(name: str, data: np.ndarray) -> np.ndarray:
        return np.resize(data, (len(data) + rows, *data.shape[1:])) if rows and "attn_qkv.weight" in name else data

    data = crafted(spec=replace(SPEC, fused=True), change=change)
    if not rows:
        plan_model(read(data))
        return
    with pytest.raises(ModelFileError, match=r"has no tensor blk.0.attn_q.weight"):
        plan_model(read(data))
