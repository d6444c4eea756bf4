"""gemma2: Gemma 2. Norms before and behind each branch, windows in every other layer, capped scores and logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, base_in_window, dims_in_window, windows
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope

_WINDOW = 4096  # unless the file tells
_LAYERS_OF_27B = 46  # the one size whose attention is scaled by the width of the model


@dataclass(frozen=True)
class Gemma2Hyperparameters(Dense):
    """windows: of each layer, how many of the last tokens it sees; 0: all. Caps: c * tanh(x / c)."""

    attention_scale: float
    score_cap: float
    logit_cap: float
    windows: tuple[int, ...]
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> Gemma2Hyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    of_model = common.n_layer == _LAYERS_OF_27B
    return Gemma2Hyperparameters(
        **vars(common),
        attention_scale=(common.n_embd // common.n_head if of_model else common.head_dim) ** -0.5,
        score_cap=meta.number("attn_logit_softcapping", 50.0, least=1e-6),
        logit_cap=meta.number("final_logit_softcapping", 30.0, least=1e-6),
        windows=windows(meta, common.n_layer, 2, window=_WINDOW),
        rope_in_window=replace(
            common.rope,
            n_dims=dims_in_window(meta, common.rope, common.head_dim),
            base=base_in_window(meta, common.rope.base),
        ),
    )


def build(graph: Graph, hparams: Gemma2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = ops.scale(g, b.embeddings(), hp.n_embd**0.5, "embd_scaled")
    for p, window in zip(b.layers(), hp.windows, strict=True):
        h = b.norm(x, p + "attn_norm")
        q, k, v = b.qkv(h, p)
        rotation = hp.rope_in_window if window else hp.rope
        a = b.attention(q, k, v, p, rotation, scale=hp.attention_scale, softcap=hp.score_cap, window=window)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.feed_forward(b.norm(x, p + "ffn_norm"), p, hp.n_ff, ops.geglu)
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
    b.logits(x, cap=hp.logit_cap)
