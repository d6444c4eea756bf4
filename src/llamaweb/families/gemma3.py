"""gemma3: Gemma 3, text. Norms before and behind each branch and of the heads, windows in most layers, GELU."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.metadata import Metadata, rope, rope_in_window, windows
from llamaweb.errors import UnsupportedError
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope

_LAYERS_OF_27B = 62  # the one size whose attention is scaled by the width of the model


@dataclass(frozen=True)
class Gemma3Hyperparameters(Decoder):
    """windows: of each layer, how many of the last tokens it sees; 0: all."""

    n_ff: int
    attention_scale: float
    windows: tuple[int, ...]
    rope: Rope
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> Gemma3Hyperparameters:
    meta = Metadata(file)
    sizes = decoder(file, meta)
    if meta.number("final_logit_softcapping", 0.0):
        raise UnsupportedError("Gemma 3 with capped logits (final_logit_softcapping) is not supported yet.")
    all_tokens = rope(meta, "neox", sizes.head_dim)
    of_model = sizes.n_layer == _LAYERS_OF_27B
    return Gemma3Hyperparameters(
        **vars(sizes),
        n_ff=meta.count("feed_forward_length"),
        attention_scale=(sizes.n_embd // sizes.n_head if of_model else sizes.head_dim) ** -0.5,
        windows=windows(meta, sizes.n_layer, 6, window=0),
        rope=all_tokens,
        rope_in_window=rope_in_window(meta, all_tokens, sizes.head_dim),
    )


def build(graph: Graph, hparams: Gemma3Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = ops.scale(g, b.embeddings(), hp.n_embd**0.5, "embd_scaled")
    for i, window in enumerate(hp.windows):
        p = f"blk.{i}."
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        rotation = hp.rope_in_window if window else hp.rope
        a = b.attention(*b.head_norms(q, k, p), v, p, rotation, scale=hp.attention_scale, window=window)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.feed_forward(b.norm(x, p + "ffn_norm"), p, hp.n_ff, ops.geglu)
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
    b.logits(x)
