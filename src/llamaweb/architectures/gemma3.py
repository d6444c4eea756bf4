"""gemma3: Gemma 3, text. Norms before and behind each branch and of the heads, windows in most layers, GELU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamaweb.architectures.metadata import Metadata, layers, rope, tokens
from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope

_LAYERS_OF_27B = 62  # the one size whose attention is scaled by the width of the model


@dataclass(frozen=True)
class Gemma3Hyperparameters:
    """windows: of each layer, how many of the last tokens it sees; 0: all."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int
    rms_eps: float
    attention_scale: float
    windows: tuple[int, ...]
    rope: Rope
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> Gemma3Hyperparameters:
    meta = Metadata(file)
    n_layer, n_embd = layers(file, meta), meta.count("embedding_length")
    n_vocab = tokens(file, n_embd)
    n_head = meta.count("attention.head_count")
    n_head_kv = meta.count("attention.head_count_kv", n_head)
    head_dim = meta.count("attention.key_length", max(n_embd // n_head, 1))
    if n_head % n_head_kv:
        raise ModelFileError(f"{n_head} attention heads do not divide into {n_head_kv} key-value heads.")
    if meta.count("attention.value_length", head_dim) != head_dim:
        raise ModelFileError("The key and value lengths differ, which Gemma 3 does not have.")
    if meta.number("final_logit_softcapping", 0.0):
        raise UnsupportedError("Gemma 3 with capped logits (final_logit_softcapping) is not supported yet.")
    all_tokens = rope(meta, "neox", head_dim)
    return Gemma3Hyperparameters(
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=meta.count("feed_forward_length"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=n_vocab,
        n_ctx_train=meta.count("context_length", largest=1 << 31),
        rms_eps=meta.number("attention.layer_norm_rms_epsilon"),
        attention_scale=(n_embd // n_head if n_layer == _LAYERS_OF_27B else head_dim) ** -0.5,
        windows=_windows(meta, n_layer),
        rope=all_tokens,
        rope_in_window=Rope("neox", all_tokens.n_dims, meta.number("rope.freq_base_swa", 10000.0)),
    )


def _windows(meta: Metadata, n_layer: int) -> tuple[int, ...]:
    window = int(meta.number("attention.sliding_window", 0))
    if not window:
        return (0,) * n_layer
    pattern = meta.value("attention.sliding_window_pattern", 6)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern >= 0:
        within = [pattern == 0 or i % pattern < pattern - 1 for i in range(n_layer)]
    elif isinstance(pattern, np.ndarray) and pattern.dtype.kind in "biu":
        within = [i < len(pattern) and bool(pattern[i]) for i in range(n_layer)]  # the last ones may be left out
    else:
        raise ModelFileError("gemma3.attention.sliding_window_pattern is neither a number nor a value for each layer.")
    return tuple(window if inside else 0 for inside in within)


def build(graph: Graph, hparams: Gemma3Hyperparameters) -> None:
    g, hp = graph, hparams
    q_dim, kv_dim = hp.n_head * hp.head_dim, hp.n_head_kv * hp.head_dim
    table = g.weight("token_embd.weight", hp.n_embd, hp.n_vocab)
    x = g.scale(g.get_rows(table, "embd"), hp.n_embd**0.5, "embd_scaled")

    def norm(x: Tensor, name: str, size: int = hp.n_embd) -> Tensor:
        return g.rms_norm(x, g.weight(name + ".weight", size), hp.rms_eps, name)

    def product(name: str, x: Tensor, size: int) -> Tensor:
        return g.mul_mat(g.weight(name + ".weight", x.row, size), x, name, g.optional_weight(name + ".bias", size))

    for i, window in enumerate(hp.windows):
        p = f"blk.{i}."
        h = norm(x, p + "attn_norm")
        q, k, v = (product(f"{p}attn_{part}", h, dim) for part, dim in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)))
        a = g.flash_attn(
            norm(q, p + "attn_q_norm", hp.head_dim),
            norm(k, p + "attn_k_norm", hp.head_dim),
            v,
            layer=i,
            head_dim=hp.head_dim,
            rope=hp.rope_in_window if window else hp.rope,
            scale=hp.attention_scale,
            window=window,
            name=p + "attn",
        )
        o = norm(product(p + "attn_output", a, hp.n_embd), p + "post_attention_norm")
        x = g.add(x, o, p + "attn_residual")
        h = norm(x, p + "ffn_norm")
        glu = g.geglu(product(p + "ffn_gate", h, hp.n_ff), product(p + "ffn_up", h, hp.n_ff), p + "ffn_glu")
        x = g.add(x, norm(product(p + "ffn_down", glu, hp.n_embd), p + "post_ffw_norm"), p + "ffn_residual")
    x = norm(g.output_rows(x), "output_norm")
    output = g.weight("output.weight", hp.n_embd, hp.n_vocab) if g.has("output.weight") else table
    g.sample(g.mul_mat(output, x, "logits"))
