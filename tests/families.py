"""Tiny models of every family, each with what is peculiar to it once there and once not, in odd sizes and formats.

What the page computes is compared with numpy's forward pass (`tests/browser/test_families_tiny.py`), and that with
llama.cpp's logits (`tests/unit/test_golden_families.py`), which `tests/golden/make_families_golden.py` keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tests.graph_reference import GraphReference
from tests.reference import (
    ReferenceGemma3,
    ReferenceLlama,
    ReferenceQwen,
    ReferenceSeedOss,
    ReferenceSmolLM3,
)
from tests.tiny import Tiny, TinyGemma3, TinyLlama
from tests.tiny_family import IN_FLOATS, TinyFamily

FOLDER = Path(__file__).parent / "golden" / "families"
TOKENS: list[int] = np.random.RandomState(7).randint(3, 290, 40).tolist()
POSITIONS = [4, 21, 39]  # of TOKENS, at which logits are kept
TEXTS = [TOKENS, TOKENS[5:12], TOKENS[7:8], TOKENS[3:30]]  # whose embeddings are kept, in one batch of the page's


class Forward(Protocol):
    def logits(self, tokens: list[int]) -> np.ndarray:
        """Logits after each of the tokens from an empty cache (n_tokens, n_vocab)."""
        ...


def embeddings(file: bytes) -> np.ndarray:
    """Of TEXTS, one below the other: a row of each, or without pooling one of each token; not normalized."""
    reference = GraphReference(file)
    return np.vstack([reference.embedding(text) for text in TEXTS])


@dataclass(frozen=True)
class Model:
    """A spec, and the forward pass that is its family's. limit: how far from llama.cpp it may be, as normalized mean
    squared error of the logits; more than float32 takes where llama.cpp looks up a GELU in a table of f16."""

    reference: Callable[..., Forward]
    spec: Tiny
    limit: float = 1e-10

    @property
    def golden(self) -> Path:
        """The file with llama.cpp's logits of the family's models by their names, float32 (positions, n_vocab); of
        those in EMBEDDERS the embeddings of TEXTS, as `embeddings` gives them."""
        return FOLDER / f"{self.spec.family}.npz"


RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
MEAN = {"attention.layer_norm_epsilon": 1e-5}
EVEN = {"embedding_length": 64, "feed_forward_length": 96}  # of whole blocks, for quantized formats
LARGE = {"embedding_length": 256, "feed_forward_length": 512, "block_count": 2}  # … for those in blocks of 256
WINDOW = {"attention.sliding_window": 9, "block_count": 5}
HEADS_OF_16 = {"attention.key_length": 16, "attention.value_length": 16}
STATE = {
    "ssm.inner_size": 96,
    "ssm.state_size": 20,
    "ssm.conv_kernel": 4,
    "ssm.time_step_rank": 6,
    "ssm.group_count": 2,
}
STATE |= {"embedding_length": 48, "attention.head_count": 3}
WIDER = EVEN | {"attention.head_count": 4, "ssm.inner_size": 128, "ssm.time_step_rank": 4}
HYBRID = STATE | {"block_count": 4, "attention.head_count_kv": [0, 1, 0, 0]}
DELTA = {
    "ssm.conv_kernel": 4,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 64,
}
DELTA |= {"rope.dimension_count": 8, "block_count": 4}
PLAIN_DELTA = dict(DELTA)
DELTA |= {"rope.dimension_sections": [3, 3, 2, 0]}
RWKV = MEAN | {"embedding_length": 128, "wkv.head_size": 64, "attention.head_count": 0}
RWKV |= {
    "attention.decay_lora_rank": 20,
    "attention.iclr_lora_rank": 20,
    "attention.value_residual_mix_lora_rank": 20,
    "attention.gate_lora_rank": 33,
    "attention.head_count_kv": 0,
}
UNUSED = ("blk.0.time_mix_v[012]*", "*norm*.bias", "output.weight")  # but llama.cpp asks for them
CONV = ("*conv1d.bias", "*ssm_norm.weight")
CONVS = {"attention.head_count_kv": [0, 2, 0, 0], "block_count": 4, "shortconv.l_cache": 3}
EXPERTS = {"expert_count": 5, "expert_used_count": 2, "expert_feed_forward_length": 54}
WHOLE = {"attention.head_count_kv": 4}
SHARED = {"expert_shared_feed_forward_length": 38}
SHARED_OF_32 = {"expert_shared_feed_forward_length": 32}
GATES = ("*ffn_gate_exps.weight",)  # of experts, which some families may lack
GLM = {
    "nextn_predict_layers": 1,
    "block_count": 4,
    "expert_shared_count": 1,
    "leading_dense_block_count": 1,
    "expert_gating_func": 2,
}
GEMMA4 = {
    "block_count": 7,
    "attention.sliding_window": 9,
    "attention.sliding_window_pattern": [True, True, False, True, False, True, False],
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
    "rope.freq_base": 100000.0,
    "rope.freq_base_swa": 10000.0,
    "feed_forward_length": [90, 90, 90, 90, 90, 180, 180],
    "embedding_length_per_layer_input": 0,
    "final_logit_softcapping": 4.0,
}
GEMMA3N = HEADS_OF_16 | {"attention.sliding_window": 9, "attention.layer_norm_rms_epsilon": 1e-5}
GEMMA3N |= {"rope.freq_base": 1e5}
# … whose 22 layers are many for rounding to stay small, unless each one's part is
SMALL_BRANCHES = {
    f"blk.{i}.{name}_norm.weight": [0.25] * 64 for i in range(22) for name in ("post", "post_attention", "post_ffw")
}
FREQS = [1.0] * 6 + [1e30] * 10
ROWS = {"attention.kv_lora_rank": 34, "rope.dimension_count": 10, "expert_shared_count": 1}  # attended to
LATENT = ROWS | {
    "attention.key_length": 44,
    "attention.value_length": 34,
    "attention.key_length_mla": 26,
    "attention.value_length_mla": 20,
    "attention.head_count_kv": 1,
}
EVEN_ROWS = {"attention.kv_lora_rank": 64, "rope.dimension_count": 16, "expert_feed_forward_length": 64}
EVEN_ROWS |= {"expert_shared_count": 1, "block_count": 2}  # … in whole blocks
FACTORS = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]

ALL = ("blk.*.bias", "output_norm.bias", "output.weight")
BIASES = ("*attn*.bias", "*ffn*.bias", "output.weight")
UNTIED = ("output.weight",)
SCALES = ("*attn*.scale", "*ffn_up*.scale", "*ffn_down*.scale", "*ffn_gate_exps.scale")
NORMS = ("*norm.bias", "output.weight")  # biases that llama.cpp asks for
GELU = 1e-6  # llama.cpp looks up a GELU in a table of f16


def of_graph(*spec: Any, limit: float = 1e-10, **more: Any) -> Model:
    """A family whose forward pass is its graph's."""
    return Model(GraphReference, TinyFamily(*spec, **more), limit)


MODELS: dict[str, Model] = {
    "llama": Model(ReferenceLlama, TinyLlama(bias=True, ffn_bias=True, n_head=3, n_head_kv=1, n_embd=96, type="Q5_1")),
    "gemma3": Model(ReferenceGemma3, TinyGemma3(n_layer=3, pattern=2, factor=8.0, type="Q8_0"), limit=1e-5),
    "qwen2": Model(ReferenceQwen, TinyLlama("qwen2", bias=True, n_head=3, n_head_kv=1, n_embd=96)),
    "qwen2, odd and untied": Model(
        ReferenceQwen,
        TinyLlama("qwen2", n_embd=50, n_head=5, n_head_kv=1, n_ff=86, tied=False, type="F16"),
    ),
    "qwen2, of two bits": Model(ReferenceQwen, TinyLlama("qwen2", bias=True, n_ff=192, type="Q2_0")),
    # Of this family, llama.cpp v0.5.0 does not read the norms' epsilon: it is too small to matter.
    "qwen2vl": Model(ReferenceQwen, TinyLlama("qwen2vl", bias=True, sections=(2, 3, 3, 0), type="Q8_0", rms_eps=1e-8)),
    "qwen3": Model(ReferenceQwen, TinyLlama("qwen3", head_norms=True, head_dim=32, type="Q4_0")),
    "qwen3, scaled": Model(
        ReferenceQwen,
        TinyLlama("qwen3", head_norms=True, scaling="yarn", factor=4.0, n_ctx_orig=16, n_head_kv=4, tied=False),
    ),
    "qwen3, of one bit": Model(
        ReferenceQwen, TinyLlama("qwen3", head_norms=True, n_embd=128, n_ff=384, tied=False, type="Q1_0")
    ),
    "qwen3vl": Model(
        ReferenceQwen,
        TinyLlama("qwen3vl", head_norms=True, sections=(16, 8, 8, 0), n_layer=1, n_embd=256, n_ff=512, type="Q4_K"),
    ),
    "qwen35": of_graph(
        "qwen35",
        RMS | DELTA | HEADS_OF_16 | {"block_count": 5, "full_attention_interval": 2, "ssm.group_count": 4},
    ),
    "qwen35, Q8_0": of_graph("qwen35", RMS | DELTA | EVEN | HEADS_OF_16, "Q8_0", optional=UNTIED),
    "seed_oss": Model(ReferenceSeedOss, TinyLlama("seed_oss", bias=True, n_layer=3, rms_eps=1e-2)),
    "seed_oss, without biases": Model(
        ReferenceSeedOss, TinyLlama("seed_oss", n_embd=96, n_head=3, n_head_kv=1, head_dim=16, tied=False, type="BF16")
    ),
    "smollm3": Model(ReferenceSmolLM3, TinyLlama("smollm3", n_layer=5, rope_base=5e6)),
    "smollm3, quantized": Model(ReferenceSmolLM3, TinyLlama("smollm3", n_layer=4, n_head=2, tied=False, type="Q5_0")),
    "bitnet": of_graph("bitnet", RMS, optional=("*.scale",)),
    "bitnet, ternary": of_graph("bitnet", RMS | LARGE, "TQ2_0"),
    "cohere2": of_graph("cohere2", MEAN | WINDOW | {"logit_scale": 0.25}),
    "cohere2, Q8_0": of_graph("cohere2", MEAN | EVEN | WINDOW | {"logit_scale": 0.5}, "Q8_0"),
    "ernie4_5": of_graph("ernie4_5", RMS | HEADS_OF_16, optional=("*attn_?.bias", "output.weight")),
    "ernie4_5, Q4_0": of_graph("ernie4_5", RMS | EVEN, "Q4_0"),
    "exaone4": of_graph("exaone4", RMS, optional=UNTIED),
    "exaone4, Q4_K": of_graph("exaone4", RMS | LARGE, "Q4_K"),
    "falcon-h1": of_graph(
        "falcon-h1",
        RMS | HEADS_OF_16 | STATE | {"attention.head_count_kv": 1, "ssm.group_count": 1},
        optional=("*conv1d.bias", "output.weight"),
    ),
    "falcon-h1, Q8_0": of_graph(
        "falcon-h1",
        RMS | HEADS_OF_16 | STATE | WIDER | {"attention.head_count_kv": 1},
        "Q8_0",
        optional=CONV,
    ),
    "gemma": of_graph("gemma", RMS | {"attention.key_length": 20, "attention.value_length": 20}, limit=GELU),
    "gemma2": of_graph(
        "gemma2", RMS | WINDOW | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}, limit=GELU
    ),
    "gemma2, Q4_0": of_graph("gemma2", RMS | EVEN | {"attn_logit_softcapping": 2.0}, "Q4_0", limit=GELU),
    "deepseek2": of_graph(
        "deepseek2",
        RMS
        | LATENT
        | EXPERTS
        | {"attention.q_lora_rank": 22, "expert_gating_func": 2, "expert_weights_norm": True}
        | {"expert_weights_scale": 2.5, "expert_shared_count": 2, "leading_dense_block_count": 1}
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.yarn_log_multiplier": 0.1}
        | {"rope.scaling.original_context_length": 16},
        optional=("*exp_probs_b.bias", "output.weight"),
    ),
    "deepseek2, Q8_0": of_graph(
        "deepseek2",
        RMS
        | LATENT
        | EVEN
        | EXPERTS
        | EVEN_ROWS
        | {"attention.key_length": 80, "attention.key_length_mla": 48}
        | {"attention.value_length": 64, "attention.value_length_mla": 32}
        | {"attention.q_lora_rank": 32, "attention.temperature_scale": 0.3, "attention.temperature_length": 16}
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 16}
        | {"rope.scaling.attn_factor": 0.8},
        "Q8_0",
    ),
    "deepseek2, whole": of_graph(
        "deepseek2",
        RMS
        | EXPERTS
        | ROWS
        | {"attention.key_length": 26, "attention.value_length": 20, "attention.head_count_kv": 4}
        | {"attention.q_lora_rank": 22, "expert_count": 12, "expert_used_count": 4, "expert_group_count": 4}
        | {"expert_group_used_count": 2, "rope.scaling.type": "yarn", "rope.scaling.factor": 8.0}
        | {"rope.scaling.yarn_log_multiplier": 0.0707, "rope.scaling.original_context_length": 16},
    ),
    # llama.cpp knows by the 26 layers that queries have no rows.
    "deepseek2, lite, Q8_0": of_graph(
        "deepseek2",
        RMS
        | EVEN
        | EXPERTS
        | EVEN_ROWS
        | {"attention.key_length": 48, "attention.value_length": 32, "attention.head_count_kv": 4}
        | {"block_count": 26, "leading_dense_block_count": 25, "rope.scaling.factor": 4.0},
        "Q8_0",
        optional=UNTIED,
    ),
    # llama.cpp has ten layers with few open gates and twenty with keys of their own, whatever the file tells.
    "gemma3n": of_graph(
        "gemma3n",
        GEMMA3N
        | {"attention.sliding_window_pattern": [True, False, True], "feed_forward_length": 91}
        | {"embedding_length": 40, "attention.head_count": 3, "attention.head_count_kv": 1},
        limit=GELU,
    ),
    "gemma3n, with shared keys": of_graph(
        "gemma3n",
        GEMMA3N
        | EVEN
        | {"block_count": 22, "attention.sliding_window_pattern": [i % 5 < 4 and i < 21 for i in range(22)]}
        | {"attention.shared_kv_layers": 2, "activation_sparsity_scale": [1.6448536] * 10 + [-math.inf] * 12},
        "Q8_0",
        types=dict.fromkeys(IN_FLOATS, "F32") | {"*altup_*": "F32", "*altup_*proj.weight": "F16", "*laurel_*": "F16"},
        optional=("blk.2?.attn_[kv].weight", "blk.2?.attn_k_norm.weight"),
        more=SMALL_BRANCHES,
        limit=GELU,
    ),
    "gemma4": of_graph(
        "gemma4",
        RMS | GEMMA4 | {"attention.shared_kv_layers": 2, "embedding_length_per_layer_input": 10},
        optional=("*attn_v.weight", "*layer_output_scale.weight"),
        more={"rope_freqs.weight": FREQS},
        limit=GELU,
    ),
    "gemma4, Q8_0": of_graph(
        "gemma4",
        RMS | EVEN | GEMMA4 | {"feed_forward_length": 96, "attention.head_count_kv": [2, 2, 1, 2, 1, 2, 1]},
        "Q8_0",
        optional=("output.weight",),
        more={"rope_freqs.weight": FREQS},
        limit=GELU,
    ),
    "gemma4, experts": of_graph(
        "gemma4",
        RMS | EXPERTS | GEMMA4 | {"feed_forward_length": 90},
        optional=("*attn_v.weight", "*.[1-6].ffn_gate_inp.weight", "*ffn_gate_up_exps.weight", "*ffn_down_exps.scale"),
        more={"rope_freqs.weight": FREQS},
        limit=GELU,
    ),
    "glm4": of_graph(
        "glm4", RMS | {"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 8}
    ),
    "glm4, Q4_K": of_graph("glm4", RMS | LARGE, "Q4_K", optional=("*attn_?.bias", "output.weight")),
    "glm4moe": of_graph(
        "glm4moe",
        RMS | EXPERTS | GLM | {"expert_weights_scale": 1.5},
        optional=("*exp_probs_b.bias", "*attn_?_norm.weight"),
    ),
    "glm4moe, groups": of_graph(
        "glm4moe",
        RMS
        | EVEN
        | EXPERTS
        | GLM
        | {"expert_count": 12, "expert_used_count": 4, "expert_group_count": 4, "expert_group_used_count": 2}
        | {"expert_feed_forward_length": 64, "expert_shared_count": 2, "expert_weights_norm": True},
        "Q8_0",
        optional=("*exp_probs_b.bias", "*attn_?.bias", "output.weight"),
    ),
    "gpt-oss": of_graph("gpt-oss", RMS | HEADS_OF_16 | EXPERTS | WINDOW | {"expert_used_count": 3}, optional=BIASES),
    "gpt-oss, MXFP4": of_graph(
        "gpt-oss",
        RMS
        | EVEN
        | EXPERTS
        | {"expert_feed_forward_length": 64, "attention.sliding_window": 9, "attention.head_count_kv": 1}
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.original_context_length": 16},
        "Q8_0",
        types=dict.fromkeys(IN_FLOATS, "F32") | {"*_exps.weight": "MXFP4"},
        optional=BIASES,
    ),
    "gpt2": of_graph("gpt2", MEAN, optional=ALL, limit=GELU, fused=True),
    "gpt2, Q8_0": of_graph(
        "gpt2", MEAN | EVEN | {"attention.head_count_kv": 4}, "Q8_0", optional=ALL, limit=GELU, fused=True
    ),
    "granite": of_graph(
        "granite",
        RMS | {"embedding_scale": 3.0, "residual_scale": 0.55, "attention.scale": 0.35, "logit_scale": 0.8},
        optional=ALL,
    ),
    "granite, experts": of_graph("granite", RMS | EXPERTS | SHARED | {"logit_scale": 2.0, "residual_scale": 0.55}),
    "granite, without rotation": of_graph(
        "granite", RMS | EVEN | {"logit_scale": 2.0, "rope.scaling.finetuned": False}
    ),
    "granitehybrid": of_graph(
        "granitehybrid",
        RMS | HYBRID | {"logit_scale": 0.8, "residual_scale": 0.55, "rope.scaling.finetuned": False},
        optional=CONV,
    ),
    "granitehybrid, Q8_0": of_graph(
        "granitehybrid",
        RMS
        | HYBRID
        | EVEN
        | {"attention.head_count": 4, "ssm.inner_size": 128, "ssm.time_step_rank": 4, "logit_scale": 2.0},
        "Q8_0",
        optional=(*CONV, "output.weight"),
    ),
    "hunyuan-dense": of_graph("hunyuan-dense", RMS | EVEN),
    "hunyuan-dense, Q4_0": of_graph("hunyuan-dense", RMS | EVEN, "Q4_0", optional=UNTIED),
    "lfm2": of_graph("lfm2", RMS | CONVS),
    "lfm2, Q8_0": of_graph(
        "lfm2",
        RMS | EVEN | {"attention.head_count_kv": [2, 0, 0], "shortconv.l_cache": 4, "attention.sliding_window": 9},
        "Q8_0",
        optional=UNTIED,
    ),
    "lfm2moe": of_graph(
        "lfm2moe",
        RMS | EXPERTS | CONVS | {"leading_dense_block_count": 1, "expert_gating_func": 2},
        optional=("*exp_probs_b.bias", "output.weight"),
    ),
    "lfm2moe, Q4_0": of_graph(
        "lfm2moe",
        RMS | EVEN | EXPERTS | CONVS | {"expert_feed_forward_length": 64, "expert_gating_func": 2},
        "Q4_0",
        optional=("*exp_probs_b.bias",),
    ),
    "mamba2": of_graph("mamba2", RMS | STATE | {"ssm.state_size": 128}, optional=CONV),
    "mamba2, Q8_0": of_graph(
        "mamba2", RMS | STATE | EVEN | {"ssm.inner_size": 128, "ssm.time_step_rank": 4}, "Q8_0", CONV
    ),
    "granitemoe": of_graph("granitemoe", RMS | EXPERTS | SHARED | {"logit_scale": 2.0}, optional=GATES),
    "granitemoe, Q4_K": of_graph(
        "granitemoe", RMS | LARGE | EXPERTS | {"logit_scale": 0.5}, "Q4_K", optional=(*GATES, "*attn_?.bias")
    ),
    "llama, experts": of_graph("llama", RMS | EXPERTS, optional=GATES),
    "llama, experts, Q8_0": of_graph("llama", RMS | EVEN | EXPERTS, "Q8_0", optional=UNTIED),
    "minicpm": of_graph("minicpm", RMS),
    "minicpm, experts": of_graph("minicpm", RMS | EXPERTS | {"expert_used_count": 5}, optional=GATES),
    "mistral3": of_graph(
        "mistral3",
        RMS
        | HEADS_OF_16
        | {"attention.temperature_scale": 0.4}
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.yarn_log_multiplier": 1.0}
        | {"rope.scaling.original_context_length": 16},
    ),
    "mistral3, experts": of_graph(
        "mistral3", RMS | HEADS_OF_16 | EXPERTS | {"expert_used_count": 1}, "F16", optional=GATES
    ),
    "nemotron": of_graph("nemotron", MEAN, optional=ALL),
    "nemotron, Q4_K": of_graph("nemotron", MEAN | LARGE, "Q4_K", optional=NORMS),
    "nemotron_h": of_graph(
        "nemotron_h",
        RMS | MEAN | HEADS_OF_16 | HYBRID | {"feed_forward_length": [0, 0, 90, 0]},
        optional=(*CONV, "output.weight"),
    ),
    "olmo2": of_graph("olmo2", RMS, optional=UNTIED),
    "olmo2, windows": of_graph("olmo2", RMS | EVEN | WINDOW, "Q8_0", optional=UNTIED),
    "olmoe": of_graph("olmoe", RMS | WHOLE | EXPERTS, optional=UNTIED),
    "olmoe, Q5_0": of_graph(
        "olmoe", RMS | WHOLE | EVEN | {"expert_count": 33, "expert_used_count": 8}, "Q5_0", optional=UNTIED
    ),
    "phi3": of_graph("phi3", RMS | {"rope.scaling.attn_factor": 1.13}),
    "phi3, long": of_graph(
        "phi3",
        RMS | EVEN | {"rope.scaling.original_context_length": 32},
        "Q8_0",
        more={"rope_factors_short.weight": [1.0] * 8, "rope_factors_long.weight": FACTORS},
    ),
    "qwen2moe": of_graph("qwen2moe", RMS | EXPERTS | SHARED, optional=("*attn_?.bias", "output.weight")),
    "qwen2moe, Q4_0": of_graph(
        "qwen2moe", RMS | EVEN | {"expert_count": 6, "expert_used_count": 3}, "Q4_0", optional=UNTIED
    ),
    "qwen35moe": of_graph(
        "qwen35moe",
        RMS | DELTA | HEADS_OF_16 | EXPERTS | SHARED | {"full_attention_interval": 2, "ssm.group_count": 4},
        optional=("*ffn_gate_up_exps.weight", "output.weight"),
    ),
    "qwen35moe, Q8_0": of_graph(
        "qwen35moe",
        RMS | DELTA | EVEN | HEADS_OF_16 | EXPERTS | {"expert_feed_forward_length": 64, **SHARED_OF_32},
        "Q8_0",
    ),
    "qwen3moe": of_graph("qwen3moe", RMS | HEADS_OF_16 | EXPERTS | {"expert_used_count": 3}),
    "qwen3moe, Q6_K": of_graph(
        "qwen3moe", RMS | LARGE | EXPERTS | {"expert_feed_forward_length": 256}, "Q6_K", optional=UNTIED
    ),
    "qwen3moe, NVFP4": of_graph(
        "qwen3moe", RMS | EVEN | EXPERTS | {"expert_feed_forward_length": 64}, "NVFP4", optional=SCALES
    ),
    "qwen3next": of_graph(
        "qwen3next", RMS | PLAIN_DELTA | HEADS_OF_16 | EXPERTS | SHARED | {"full_attention_interval": 2}
    ),
    "qwen3next, Q4_0": of_graph(
        "qwen3next",
        RMS | PLAIN_DELTA | EVEN | HEADS_OF_16 | EXPERTS | {"expert_feed_forward_length": 64, **SHARED_OF_32},
        "Q4_0",
        optional=("*ffn_gate_up_exps.weight", "output.weight"),
    ),
    "qwen3vlmoe": of_graph("qwen3vlmoe", RMS | EXPERTS | {"rope.dimension_sections": [3, 3, 3, 0]}),
    "rwkv7": of_graph("rwkv7", RWKV | {"feed_forward_length": 150, "block_count": 2}, optional=UNUSED),
    "rwkv7, Q8_0": of_graph(
        "rwkv7",
        RWKV | {"embedding_length": 192, "feed_forward_length": 96},
        "Q8_0",
        types=dict.fromkeys(IN_FLOATS, "F32") | {"*time_mix_w?.weight": "F32", "*time_mix_[avg]?.weight": "F16"},
        optional=UNUSED,
    ),
    "stablelm": of_graph(
        "stablelm",
        MEAN | {"rope.dimension_count": 8},
        optional=("*ffn_norm.*", "*attn_?.bias", *NORMS),
    ),
    "stablelm, side by side": of_graph("stablelm", MEAN | EVEN, "Q8_0", optional=(*NORMS, "*attn_?_norm.weight")),
    "starcoder2": of_graph("starcoder2", MEAN, optional=ALL, limit=GELU),
    "starcoder2, NVFP4": of_graph(
        "starcoder2", MEAN | EVEN | {"feed_forward_length": 128}, "NVFP4", optional=(*ALL, SCALES[0]), limit=GELU
    ),
}

BERT = MEAN | {"tokenizer.ggml.token_type_count": 2, "attention.causal": False, "attention.head_count_kv": 4}
NONE, MEAN_OF, CLS, LAST = ({"pooling_type": number} for number in range(4))
MODERN = MEAN | {"attention.causal": False, "attention.head_count_kv": 4}

EMBEDDERS: dict[str, Model] = {
    "bert": of_graph("bert", BERT | CLS, optional=("*.bias", "token_types.weight"), limit=GELU),
    "bert, Q8_0": of_graph("bert", BERT | EVEN | MEAN_OF, "Q8_0", optional=("*norm.bias",), limit=GELU),
    "bert, each token": of_graph("bert", BERT | NONE | {"block_count": 1}, optional=("*norm.bias",), limit=GELU),
    "nomic-bert": of_graph(
        "nomic-bert",
        BERT | MEAN_OF | {"rope.freq_base": 1000.0},
        optional=("*norm.bias", "*attn_?.bias", "*attn_output.bias", "token_types.weight"),
    ),
    "nomic-bert, Q4_0": of_graph("nomic-bert", BERT | EVEN | CLS, "Q4_0", optional=("*norm.bias",), fused=True),
    "modern-bert": of_graph("modern-bert", MODERN | WINDOW | CLS, limit=GELU, fused=True),
    "modern-bert, SwiGLU": of_graph(
        "modern-bert",
        MODERN | EVEN | MEAN_OF | WINDOW | {"attention.sliding_window_pattern": 2, "hidden_activation": "silu"},
        "Q8_0",
        optional=("blk.0.attn_norm.weight",),
        fused=True,
    ),
    "gemma-embedding": of_graph(
        "gemma-embedding",
        RMS
        | WINDOW
        | MEAN_OF
        | {"block_count": 7, "attention.head_count_kv": 1, "dense_2_feat_out": 100}
        | {"dense_2_feat_in": 72, "dense_3_feat_in": 100, "dense_3_feat_out": 72},
        optional=("dense_?.weight",),
        limit=GELU,
    ),
    "gemma-embedding, Q8_0": of_graph(
        "gemma-embedding", RMS | EVEN | WINDOW | LAST | {"block_count": 6}, "Q8_0", limit=GELU
    ),
    "qwen3, embeddings": of_graph("qwen3", RMS | HEADS_OF_16 | LAST, optional=UNTIED),
    "qwen3, both ways": of_graph("qwen3", RMS | EVEN | HEADS_OF_16 | MEAN_OF | {"attention.causal": False}, "Q8_0"),
    "lfm2, embeddings": of_graph(
        "lfm2", RMS | LAST | {"attention.head_count_kv": [0, 2, 0, 0], "block_count": 4, "shortconv.l_cache": 3}
    ),
}
