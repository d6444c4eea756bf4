"""Wrong values of each family's hyperparameters: what the header says is planned, or refused in a sentence."""

from __future__ import annotations

import asyncio
import math
from binascii import crc32
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llamaweb.architectures import architecture, supported
from llamaweb.errors import LlamaWebError
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from llamaweb.profile import DESKTOP
from llamaweb.rope import phases
from tests.families import EMBEDDERS, MODELS
from tests.tiny import tiny_model

# None: the key is missing. A key gets two of them, others in each family.
WRONG: list[Any] = [None, 0, 1, 2, 3, 5, 7, 33, 255, 4096, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -(2**31)]
WRONG += [0.5, -0.0, math.nan, math.inf, -math.inf, 1e-40, 1e38, True, False, "", "neox", "yarn"]
WRONG += [np.array(each, np.int64) for each in ([], [1], [0, 0, 0], [-1, -1, -1], [2**31] * 3, [8, 0, 8], [0] * 1000)]
WRONG += [np.array([math.nan] * 3, np.float32), np.ones(3, bool)]
TRIED = 2
MOST_SAID = 500  # characters

FAMILIES = {model.spec.family: model for model in reversed([*MODELS.values(), *EMBEDDERS.values()])}


def header(family: str) -> GGUFFile:
    return unfused(asyncio.run(read_header(BytesSource(tiny_model(FAMILIES[family].spec)))))


def planned(file: GGUFFile) -> None:
    """A plan, and the angles of its rotations."""
    for table in plan_model(file, DESKTOP, n_ctx=64, n_ubatch=16).rope_tables:
        factors = np.ones(table.rope.n_dims // 2, np.float32) if table.rope.factors else None
        with np.errstate(all="raise", under="ignore"):
            phases(table.rope, factors)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_wrong_hyperparameter_is_planned_or_refused_in_a_sentence(family: str) -> None:
    file = header(family)
    keys = [key for key in file.metadata if key.startswith(f"{family}.")]
    assert len(keys) > 5
    for key in keys:
        first = crc32(key.encode())
        for i in range(TRIED):
            wrong = WRONG[(first + i * 17) % len(WRONG)]
            metadata = {**file.metadata, key: wrong} if wrong is not None else {**file.metadata}
            if wrong is None:
                del metadata[key]
            try:
                planned(replace(file, metadata=metadata))
            except LlamaWebError as error:
                said = str(error)
                assert len(said) <= MOST_SAID and "\n" not in said and said.endswith("."), (key, wrong, said)


@pytest.mark.parametrize("wrong", [3, "yes", [True, False, True]])
def test_a_flag_is_true_or_false(wrong: Any) -> None:
    file = header("deepseek2")
    wrong = np.array(wrong) if isinstance(wrong, list) else wrong
    broken = replace(file, metadata={**file.metadata, "deepseek2.expert_weights_norm": wrong})
    with pytest.raises(LlamaWebError, match=r"^deepseek2.expert_weights_norm "):
        plan_model(broken, DESKTOP, n_ctx=64)


def test_no_heads_of_keys_are_refused() -> None:
    file = header("gemma4")
    broken = replace(file, metadata={**file.metadata, "gemma4.attention.head_count_kv": 0})
    with pytest.raises(LlamaWebError, match="do not divide into 0 key-value heads"):
        plan_model(broken, DESKTOP, n_ctx=64)


@pytest.mark.parametrize(
    "family", ["gemma2", "gemma3", "gemma3n", "gemma4", "gemma-embedding", "modern-bert", "gpt-oss"]
)
@pytest.mark.parametrize("base", [0, 1e-40, 1.0, -5.0])
def test_a_base_of_which_no_angles_come_is_refused(family: str, base: float) -> None:
    file = header(family)
    broken = replace(file, metadata={**file.metadata, f"{family}.rope.freq_base_swa": base})
    with pytest.raises(LlamaWebError, match=f"^{family}.rope.freq_base_swa is "):
        plan_model(broken, DESKTOP, n_ctx=64)


REFUSED = [  # a family, what it tells, and what is said of it
    ("lfm2", {"nextn_predict_layers": 4096}, "lfm2.nextn_predict_layers is 4096, of .* layers in lfm2.block_count"),
    ("deepseek2", {"rope.scaling.factor": math.exp(-10)}, "The rope scaling factor .* is too small"),
    ("deepseek2", {"rope.scaling.attn_factor": 1e200}, "deepseek2.rope.scaling.attn_factor is 1e[+]200, not"),
    ("deepseek2", {"rope.scaling.attn_factor": 1e29}, "deepseek2.rope.scaling makes scores .* times as large"),
    ("gemma2", {"attention.sliding_window": 2**33}, "gemma2.attention.sliding_window is 8589934592, not"),
    ("gemma2", {"attention.sliding_window": 0.5}, "gemma2.attention.sliding_window is 0.5, not"),
    ("gemma2", {"attn_logit_softcapping": 1e39}, "gemma2.attn_logit_softcapping is 1e[+]39, not"),
    ("gemma4", {"attention.sliding_window_pattern": np.ones(1000, bool)}, "gemma4.attention.sliding_window_pattern is"),
    ("qwen35", {"attention.recurrent_layers": "nonsense"}, "qwen35.attention.recurrent_layers is 'nonsense', not"),
    ("qwen35", {"attention.recurrent_layers": np.ones(1000, bool)}, "qwen35.attention.recurrent_layers is "),
    ("lfm2", {"attention.head_count_kv": None}, "The file's metadata lacks lfm2.attention.head_count_kv"),
    ("lfm2", {"attention.head_count_kv": "many"}, "lfm2.attention.head_count_kv is 'many', not whole numbers"),
    *(
        (family, {"attention.sliding_window": None}, f"The file's metadata lacks {family}.attention.sliding_window")
        for family in ("cohere2", "gpt-oss", "gemma3n", "gemma4", "gemma-embedding")
    ),
    ("llama", {"attention.causal": False}, "The model's tokens see those behind them .llama.attention.causal is false"),
    ("qwen3", {"attention.causal": "no"}, "qwen3.attention.causal is 'no', not true or false"),
    ("gemma2", {"attention.sliding_window_pattern": 2**31}, "gemma2.attention.sliding_window_pattern is no number"),
    ("lfm2moe", {"expert_gating_func": None}, "The file's metadata lacks lfm2moe.expert_gating_func"),
    ("qwen2", {"attention.head_count": 256}, "256 attention heads are more than the 96 values of a row"),
    ("glm4moe", {"leading_dense_block_count": True}, "glm4moe.leading_dense_block_count is True, not a whole number"),
    ("qwen2", {"block_count": 513}, "qwen2.block_count is 513, not a whole number from 1 to 512"),
]


@pytest.mark.parametrize(("family", "told", "said"), REFUSED, ids=lambda each: str(each)[:60])
def test_what_contradicts_the_rest_is_refused_by_name(family: str, told: dict[str, Any], said: str) -> None:
    file = header(family)
    metadata = {**file.metadata, **{f"{family}.{key}": value for key, value in told.items()}}
    broken = replace(file, metadata={key: value for key, value in metadata.items() if value is not None})
    with pytest.raises(LlamaWebError, match=f"^{said}"):
        plan_model(broken, DESKTOP, n_ctx=64)


@pytest.mark.parametrize("family", ["lfm2", "lfm2moe", "granitehybrid", "nemotron_h"])
def test_layers_that_guess_further_tokens_are_left_alone_where_layers_differ(family: str) -> None:
    file = header(family)
    whole = file.metadata[f"{family}.block_count"]
    metadata = {**file.metadata, f"{family}.nextn_predict_layers": 1}
    tensors = {name: info for name, info in file.tensors.items() if not name.startswith(f"blk.{whole - 1}.")}
    for kept in (file.tensors, tensors):
        plan_model(replace(file, metadata=metadata, tensors=kept), DESKTOP, n_ctx=64)


NEEDED = {  # tensors that a file lacks, by family
    "gpt2": ("blk.0.attn_norm.bias", "blk.1.attn_output.bias", "blk.0.ffn_up.bias", "output_norm.bias"),
    "starcoder2": ("blk.0.attn_output.bias", "blk.0.ffn_down.bias"),
    "gpt-oss": ("output.weight", "blk.0.attn_output.bias", "blk.0.ffn_gate_inp.bias", "blk.1.ffn_up_exps.bias"),
    "nemotron": ("output.weight", "blk.0.ffn_norm.bias"),
    "stablelm": ("output.weight", "blk.0.attn_norm.bias"),
    "rwkv7": ("output.weight", "token_embd_norm.bias"),
    "olmo2": ("output.weight",),
    "olmoe": ("output.weight",),
    "qwen2moe": ("output.weight",),
    "gemma4": ("rope_freqs.weight",),
    "lfm2moe": ("exp_probs_b.bias",),
    "bert": ("token_embd_norm.bias",),
}


@pytest.mark.parametrize(("family", "lacks"), [(family, name) for family, names in NEEDED.items() for name in names])
def test_a_tensor_that_a_family_needs_is_missed_by_name(family: str, lacks: str) -> None:
    file = header(family)
    kept = {name: info for name, info in file.tensors.items() if not name.endswith(lacks)}
    assert len(kept) < len(file.tensors)
    with pytest.raises(LlamaWebError, match=rf"^The file has no tensor .*{lacks} of shape \["):
        plan_model(replace(file, tensors=kept), DESKTOP, n_ctx=64)


def test_scales_of_inputs_that_are_not_rounded_are_left_alone_and_other_tensors_are_named() -> None:
    file = header("qwen2")
    scale = replace(file.tensors["output_norm.weight"], shape=(1,))
    plan_model(replace(file, tensors={**file.tensors, "blk.0.ffn_up.input_scale": scale}), DESKTOP, n_ctx=64)
    with pytest.raises(LlamaWebError, match=r"^The file has the tensor 'blk\.0\.ffn_up\.output_scale', which qwen2"):
        plan_model(replace(file, tensors={**file.tensors, "blk.0.ffn_up.output_scale": scale}), DESKTOP, n_ctx=64)


@pytest.mark.parametrize("family", ["granitehybrid", "nemotron_h", "lfm2"])
@pytest.mark.parametrize("key", ["head_count", "head_count_kv"])
def test_layers_with_attention_have_as_many_heads_as_each_other(family: str, key: str) -> None:
    file = header(family)
    key = f"{family}.attention.{key}"
    counts = np.zeros(file.metadata[f"{family}.block_count"], np.int64)
    counts[:2] = 2, 1
    with pytest.raises(LlamaWebError, match=f"^{key} is .* not 0 or one number of heads a layer"):
        plan_model(replace(file, metadata={**file.metadata, key: counts}), DESKTOP, n_ctx=64)


@pytest.mark.parametrize("family", ["gemma2", "exaone4"])
def test_a_window_that_is_not_told_is_the_familys(family: str) -> None:
    file = header(family)
    metadata = {key: value for key, value in file.metadata.items() if ".sliding_window" not in key}
    if family == "exaone4":  # whose largest alone has windows
        metadata["exaone4.block_count"] = 64
        names = {name: info for name, info in file.tensors.items() if name.startswith("blk.0.")}
        more = {name.replace("blk.0.", f"blk.{i}."): info for i in range(64) for name, info in names.items()}
        file = replace(file, tensors=file.tensors | more)
    windows = architecture(file).hyperparameters(replace(file, metadata=metadata)).windows
    assert set(windows) == {0, 4096} and windows[:2] == ((4096, 0) if family == "gemma2" else (4096, 4096))


def test_an_alpha_raises_the_base_of_hunyuans_rotation() -> None:
    file = header("hunyuan-dense")
    base = file.metadata.get("hunyuan-dense.rope.freq_base", 10000.0)
    metadata = {**file.metadata, "hunyuan-dense.rope.scaling.alpha": 50.0}
    found = architecture(file).hyperparameters(replace(file, metadata=metadata))
    assert found.rope.base == pytest.approx(base * 50 ** (found.head_dim / (found.head_dim - 2)))


@pytest.mark.parametrize("name", ["seed-oss", "nemotron-h", "ernie4-5", "gpt_oss", "Qwen3"])
def test_an_architecture_is_known_by_its_very_name_alone(name: str) -> None:
    file = header("qwen2")
    with pytest.raises(LlamaWebError, match=f"^The model's architecture '{name}' is not supported yet") as caught:
        plan_model(replace(file, metadata={**file.metadata, "general.architecture": name}), n_ctx=64)
    near = str(caught.value).split("such as ")[1].rstrip(".").split(", ")
    assert set(near) <= set(supported()) and {"seed_oss", "nemotron_h", "ernie4_5"} < set(supported())


@pytest.mark.parametrize("family", ["mamba2", "granitehybrid", "nemotron_h", "falcon-h1"])
def test_the_norm_of_mamba_2_may_be_missing_in_falcon_h1_alone(family: str) -> None:
    file = header(family)
    without = {name: info for name, info in file.tensors.items() if not name.endswith("ssm_norm.weight")}
    if family == "falcon-h1":
        plan_model(replace(file, tensors=without), DESKTOP, n_ctx=64)
        return
    with pytest.raises(LlamaWebError, match=r"has no tensor blk\.[0-9]\.ssm_norm\.weight of shape \["):
        plan_model(replace(file, tensors=without), DESKTOP, n_ctx=64)


def test_a_name_of_megabytes_is_answered_as_quickly_as_a_short_one() -> None:
    file = header("qwen2")
    with pytest.raises(LlamaWebError, match="is not supported yet; use a model of one that is"):
        plan_model(replace(file, metadata={**file.metadata, "general.architecture": "lxama" * 4_000_000}), n_ctx=64)


def test_more_workgroups_than_a_device_has_are_refused() -> None:
    small = replace(DESKTOP, max_compute_workgroups_per_dimension=3)
    with pytest.raises(LlamaWebError, match=r" workgroups in a row, but the device computes 3; use a model"):
        plan_model(header("qwen2"), small, n_ctx=64)
