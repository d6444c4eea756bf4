"""lfm2: LFM 2. Most layers mix tokens by a short convolution between two gates, the others by attention."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import MOST_WINDOW, Metadata, heads_by_layer
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations.ssm_conv import ssm_conv


@dataclass(frozen=True)
class LFM2Hyperparameters(Dense):
    """heads_kv: key-value heads of each layer; 0: it has a convolution of `taps` taps. window: how many of the last
    tokens attention sees; 0: all."""

    heads_kv: tuple[int, ...]
    taps: int
    window: int


def hyperparameters(file: GGUFFile) -> LFM2Hyperparameters:
    meta = Metadata(file)
    heads, heads_kv = heads_by_layer(meta)
    common = dense(file, "neox", heads=heads)
    return LFM2Hyperparameters(
        **vars(common),
        heads_kv=heads_kv,
        taps=meta.count("shortconv.l_cache", largest=16),
        window=meta.optional_count("attention.sliding_window", MOST_WINDOW),
    )


def mixed(g: Graph, b: Blocks, x: Tensor, p: str, hp: LFM2Hyperparameters, n_head_kv: int) -> Tensor:
    """The layer's attention over x; without key-value heads its convolution."""
    if n_head_kv:
        q, k, v = b.qkv(x, p)
        return b.attention(*b.head_norms(q, k, p), v, p, hp.rope, window=hp.window)
    p += "shortconv."
    mixed = b.product(x, p + "in_proj", 3 * hp.n_embd)
    before, behind, x = (
        ops.view(g, mixed, i * hp.n_embd, hp.n_embd, p + part) for i, part in enumerate(("before", "behind", "x"))
    )
    weight = g.weight(p + "conv.weight", hp.taps, hp.n_embd)
    found = ssm_conv(g, ops.mul(g, before, x, p + "gated"), weight, p + "conv")
    return b.product(ops.mul(g, behind, found, p + "mixed"), p + "out_proj", hp.n_embd)


def build(graph: Graph, hparams: LFM2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, n_head_kv in zip(b.layers(), hp.heads_kv, strict=True):
        x = ops.add(g, x, mixed(g, b, b.norm(x, p + "attn_norm"), p, hp, n_head_kv), p + "mixed_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x, lambda x, _: b.norm(x, "token_embd_norm"))
