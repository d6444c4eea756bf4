"""What the metadata of a family means, and what is refused: keys and values that few files have."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from llamaweb.architectures.blocks import Dense
from llamaweb.errors import LlamaWebError, ModelFileError, UnsupportedError
from llamaweb.families import gemma2, gemma3, llama
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource, FileSource
from llamaweb.planner import plan_model
from llamaweb.planner.report import describe
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope, Yarn
from tests.families import EMBEDDERS, MODELS
from tests.headers import TINY, gemma3_header, llama_header
from tests.tiny import tiny_model

SMALL: dict[str, Any] = {"n_layer": 7, "n_embd": 64, "n_ff": 96, "n_vocab": 300, "head_dim": 32}


def llama_of(**keys: Any) -> Dense:
    """A tiny llama with some keys, in which __ stands for a dot."""
    return llama.hyperparameters(_with(llama_header(**TINY), keys))


def gemma3_of(shape: dict[str, Any] | None = None, **keys: Any) -> gemma3.Gemma3Hyperparameters:
    return gemma3.hyperparameters(_with(gemma3_header(**{**SMALL, **(shape or {})}), keys))


def _with(file: GGUFFile, keys: dict[str, Any]) -> GGUFFile:
    new = {f"{file.architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return replace(file, metadata={**file.metadata, **new})


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, Rope("norm", 16)),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, Rope("norm", 16)),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 0.0}, Rope("norm", 16)),
        (
            {"rope__scaling__type": "none", "rope__scaling__factor": 4.0, "rope__scaling__attn_factor": 0.5},
            Rope("norm", 16, attn_factor=0.5),
        ),
        ({"rope__scaling__factor": 4.0}, Rope("norm", 16, factor=4.0)),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 0.0}, Rope("norm", 16)),
        ({"rope__scale_linear": 2.0}, Rope("norm", 16, factor=2.0)),
        ({"rope__scale_linear": 0.0}, Rope("norm", 16)),
        ({"rope__scale_linear": 2.0, "rope__scaling__factor": 4.0}, Rope("norm", 16, factor=4.0)),
        ({"rope__freq_base": 500.0, "rope__dimension_count": 8}, Rope("norm", 8, 500.0)),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0},
            Rope("norm", 16, factor=4.0, yarn=Yarn(8192, 32.0, 1.0)),
        ),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 2048,
                "rope__scaling__attn_factor": 0.5,
                "rope__scaling__yarn_beta_fast": 30.0,
                "rope__scaling__yarn_beta_slow": 2.0,
            },
            Rope("norm", 16, factor=4.0, yarn=Yarn(2048), attn_factor=0.5),  # betas are other families'
        ),
    ],
)
def test_the_rotary_embedding_is_as_the_metadata_says(keys: dict[str, Any], expected: Rope) -> None:
    assert llama_of(**keys).rope == expected


@pytest.mark.parametrize("type", ["none", "linear", "yarn"])
def test_a_files_factors_hold_with_every_scaling(type: str) -> None:
    file = _with(llama_header(**TINY), {"rope__scaling__type": type})
    factors = replace(file.tensors["output_norm.weight"], name="rope_freqs.weight", shape=(8,), nbytes=32)
    assert llama.hyperparameters(replace(file, tensors={**file.tensors, factors.name: factors})).rope.factors


@pytest.mark.parametrize(
    ("keys", "kind", "sentence"),
    [
        ({"attention__head_count_kv": 3}, ModelFileError, "4 attention heads do not divide into 3 key-value heads"),
        ({"attention__value_length": 8}, ModelFileError, "The key length 16 and the value length 8 differ"),
        ({"attention__value_length": 32}, ModelFileError, "The key length 16 and the value length 32 differ"),
        ({"rope__dimension_count": 5}, ModelFileError, "The rope dimension 5 is odd or larger"),
        ({"rope__dimension_count": 34}, ModelFileError, "The rope dimension 34 is odd or larger"),
    ],
)
@pytest.mark.parametrize("family", [llama_of, gemma3_of])
def test_what_contradicts_itself_is_refused_in_each_family(
    family: Any, keys: dict[str, Any], kind: type[LlamaWebError], sentence: str
) -> None:
    shape = {"shape": {"n_head": 4, "n_head_kv": 2, "head_dim": 16}} if family is gemma3_of else {}
    with pytest.raises(kind, match=sentence):
        family(**shape, **keys)


def test_capped_logits_are_refused_and_their_zero_is_not() -> None:
    with pytest.raises(UnsupportedError, match="capped logits"):
        gemma3_of(final_logit_softcapping=30.0)
    gemma3_of(final_logit_softcapping=0.0)


@pytest.mark.parametrize(("n_layer", "divisor"), [(61, 32), (62, 16), (63, 32)])
def test_gemma_27b_alone_scales_its_attention_by_the_width_of_the_model(n_layer: int, divisor: int) -> None:
    shape = {"n_layer": n_layer, "n_head": 4, "n_head_kv": 2}  # of 64 / 4 and not 32 values each
    assert gemma3_of(shape).attention_scale == divisor**-0.5


@pytest.mark.parametrize(("n_layer", "divisor"), [(45, 16), (46, 24), (47, 16)])
def test_of_gemma_2_its_27b_alone_does_and_caps_are_googles_unless_they_are_told(n_layer: int, divisor: int) -> None:
    names = {"n_embd": 96, "n_head": 4, "n_head_kv": 2, "head_dim": 16}
    like = llama_header(**{**TINY, **names, "n_layer": n_layer})
    metadata = {key.replace("llama.", "gemma2."): value for key, value in like.metadata.items()}
    told = {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}
    of = replace(like, metadata={**metadata, "general.architecture": "gemma2", "gemma2.attention.sliding_window": 9})
    found = [gemma2.hyperparameters(each) for each in (of, _with(of, told))]
    assert [each.attention_scale for each in found] == [divisor**-0.5] * 2
    assert [(each.score_cap, each.logit_cap) for each in found] == [(50.0, 30.0), (20.0, 10.0)]


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [
        (None, [9, 9, 9, 9, 9, 0, 9]),
        (3, [9, 9, 0, 9, 9, 0, 9]),
        (1, [0] * 7),
        (0, [9] * 7),
        (np.array([True, False, True]), [9, 0, 9, 0, 0, 0, 0]),
        (np.array([1, 0, 1, 0, 1, 0, 1, 1, 1], np.int32), [9, 0, 9, 0, 9, 0, 9]),
    ],
)
def test_the_layers_with_a_window_are_those_of_the_pattern(pattern: Any, windows: list[int]) -> None:
    keys = {} if pattern is None else {"attention__sliding_window_pattern": pattern}
    assert gemma3_of(attention__sliding_window=9, **keys).windows == tuple(windows)
    assert gemma3_of(attention__sliding_window=0, **keys).windows == (0,) * 7


def test_layers_with_a_window_have_an_unscaled_rotary_embedding_of_their_own_base() -> None:
    scaled = {"rope__freq_base": 1e6, "rope__scaling__type": "linear", "rope__scaling__factor": 8.0}
    assert gemma3_of(**scaled).rope == Rope("neox", 32, 1e6, 8.0)
    assert gemma3_of(**scaled).rope_in_window == Rope("neox", 32, 10000.0)
    assert gemma3_of(**scaled, rope__freq_base_swa=5e3).rope_in_window == Rope("neox", 32, 5e3)


@pytest.mark.parametrize("alignment", [8, 16, 32, 64, 4096])
def test_tensors_are_found_at_every_alignment(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    values = {f"t{i}": np.arange(length, dtype=np.float32) + 100 * i for i, length in enumerate((3, 1, 17, 5))}
    for name, tensor in values.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = asyncio.run(read_header(FileSource(path)))
    data = path.read_bytes()
    assert file.alignment == alignment and file.data_offset % alignment == 0
    for name, tensor in values.items():
        info = file.tensors[name]
        assert np.frombuffer(data[info.offset : info.offset + info.nbytes], np.float32).tolist() == tensor.tolist()
        assert info.offset % alignment == 0
    # An offset that another alignment would allow is none here.
    if alignment > 8:
        where = data.index(b"t1") + 2 + 4 + 8 + 4
        moved = data[:where] + (alignment // 2).to_bytes(8, "little") + data[where + 8 :]
        with pytest.raises(ModelFileError, match=f"offset {alignment // 2} .* not a multiple of {alignment}"):
            asyncio.run(read_header(BytesSource(moved)))


FLOATS = {name: model for name, model in {**MODELS, **EMBEDDERS}.items() if model.spec.type == "F32"}


@pytest.mark.parametrize("subgroup_size", [0, 128])
@pytest.mark.parametrize("name", FLOATS)
def test_no_product_binds_more_than_a_device_allows(name: str, subgroup_size: int) -> None:
    """Five, where formats of four planes would make eight of them."""
    file = unfused(asyncio.run(read_header(BytesSource(tiny_model(FLOATS[name].spec)))))
    device = DeviceProfile(subgroup_size=subgroup_size, max_storage_buffers_per_shader_stage=5)
    plan = plan_model(file, device, n_ctx=64, n_ubatch=8)
    products = [kernel for kernel in plan.kernels if kernel.template in ("mul_mat", "mul_mat_vec")]
    assert products and max(len(kernel.slots) for kernel in products) <= 5


@pytest.mark.parametrize("name", [*MODELS, *EMBEDDERS])
def test_every_dispatch_of_a_plan_can_be_told_as_json(name: str) -> None:
    file = unfused(asyncio.run(read_header(BytesSource(tiny_model((MODELS | EMBEDDERS)[name].spec)))))
    told = json.loads(json.dumps(describe(plan_model(file, n_ctx=64, n_ubatch=8), dispatches=True), allow_nan=False))
    phase = told["plan"]["embed" if name in EMBEDDERS else "decode"]
    assert len(phase) == told["dispatches_per_token"] > 0
    assert all(isinstance(each["constants"], dict) for each in phase)
