"""Headers of models without their weights: shapes of real models for the planner."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from llamaweb.ggml import GGML_QUANT_SIZES, GGMLType
from llamaweb.model.gguf_file import GGUFFile, TensorInfo

SMOLLM2 = {"n_layer": 30, "n_embd": 576, "n_head": 9, "n_head_kv": 3, "n_ff": 1536, "n_vocab": 49152}
LLAMA_1B = {"n_layer": 16, "n_embd": 2048, "n_head": 32, "n_head_kv": 8, "n_ff": 8192, "n_vocab": 128256}
LLAMA_7B = {"n_layer": 32, "n_embd": 4096, "n_head": 32, "n_head_kv": 32, "n_ff": 11008, "n_vocab": 32000}
TINY = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_head_kv": 2, "n_ff": 96, "n_vocab": 300}
STORIES_260K = {"n_layer": 5, "n_embd": 64, "n_head": 8, "n_head_kv": 4, "n_ff": 172, "n_vocab": 512}
HEADS_OF_100 = {
    "n_layer": 2,
    "n_embd": 400,
    "n_head": 4,
    "n_head_kv": 4,
    "n_ff": 344,
    "n_vocab": 517,
}  # of OpenLLaMA 3B
WIDE = {**TINY, "n_embd": 256, "n_ff": 512}  # rows of whole superblocks


def llama_header(
    *,
    n_layer: int,
    n_embd: int,
    n_head: int,
    n_head_kv: int,
    n_ff: int,
    n_vocab: int,
    head_dim: int | None = None,
    n_ctx: int = 8192,
    type: str = "Q4_0",
    types: Mapping[str, str] | None = None,
    tied: bool = True,
    bias: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> GGUFFile:
    """type: format of all matrices; `types` overrides it by patterns of names. metadata: more keys, under "llama."."""
    dim = head_dim or n_embd // n_head
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_embd, n_vocab)}
    for p in (f"blk.{i}." for i in range(n_layer)):
        for part, rows in (("q", n_head * dim), ("k", n_head_kv * dim), ("v", n_head_kv * dim)):
            shapes[f"{p}attn_{part}.weight"] = (n_embd, rows)
            if bias:
                shapes[f"{p}attn_{part}.bias"] = (rows,)
        shapes[p + "attn_output.weight"] = (n_head * dim, n_embd)
        shapes |= {p + "ffn_gate.weight": (n_embd, n_ff), p + "ffn_up.weight": (n_embd, n_ff)}
        shapes[p + "ffn_down.weight"] = (n_ff, n_embd)
        shapes |= {p + "attn_norm.weight": (n_embd,), p + "ffn_norm.weight": (n_embd,)}
    shapes["output_norm.weight"] = (n_embd,)
    if not tied:
        shapes["output.weight"] = (n_embd, n_vocab)
    keys = {
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "block_count": n_layer,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **({"attention.key_length": dim, "attention.value_length": dim} if head_dim else {}),
        **(metadata or {}),
    }
    return _header("llama", keys, shapes, type, types or {})


def gemma3_header(
    *,
    n_layer: int = 18,
    n_embd: int = 640,
    n_head: int = 4,
    n_head_kv: int = 1,
    n_ff: int = 2048,
    n_vocab: int = 262144,
    head_dim: int = 256,
    window: int = 512,
    bias: bool = False,
    type: str = "Q5_0",
    types: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> GGUFFile:
    """As llama_header; by default Gemma 3 270M. metadata: more keys, under "gemma3."."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (n_embd, n_vocab), "output_norm.weight": (n_embd,)}
    for p in (f"blk.{i}." for i in range(n_layer)):
        for part, heads in (("q", n_head), ("k", n_head_kv), ("v", n_head_kv)):
            shapes[f"{p}attn_{part}.weight"] = (n_embd, heads * head_dim)
        shapes |= {f"{p}attn_{part}_norm.weight": (head_dim,) for part in "qk"}
        shapes[p + "attn_output.weight"] = (n_head * head_dim, n_embd)
        shapes |= {p + "ffn_gate.weight": (n_embd, n_ff), p + "ffn_up.weight": (n_embd, n_ff)}
        shapes[p + "ffn_down.weight"] = (n_ff, n_embd)
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        shapes |= {f"{p}{norm}.weight": (n_embd,) for norm in norms}
    if bias:
        products = [name for name, shape in shapes.items() if len(shape) > 1 and name.startswith("blk.")]
        shapes |= {name.replace(".weight", ".bias"): shapes[name][1:] for name in products}
    keys = {
        "context_length": 32768,
        "embedding_length": n_embd,
        "block_count": n_layer,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": window,
        "rope.freq_base": 1e6,
        **(metadata or {}),
    }
    return _header("gemma3", keys, shapes, type, types or {})


def _header(
    architecture: str,
    keys: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    type: str,
    types: Mapping[str, str],
) -> GGUFFile:
    tensors, at = {}, 4096
    for name, shape in shapes.items():
        fitting = [kind for pattern, kind in types.items() if fnmatch.fnmatch(name, pattern)]
        kind = GGMLType[(fitting or [type])[-1]] if len(shape) > 1 else GGMLType.F32
        block, block_bytes = GGML_QUANT_SIZES[kind]
        nbytes = shape[0] // block * block_bytes * (shape[1] if len(shape) > 1 else 1)
        tensors[name] = TensorInfo(name, kind, shape, at, nbytes)
        at += -(-nbytes // 32) * 32
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in keys.items()}}
    return GGUFFile(3, metadata, tensors, 32, 4096, at)
