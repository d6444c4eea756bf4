"""granitehybrid: Granite 4 H. As granite, with Mamba 2 in place of attention in most layers."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, dense
from llamaweb.architectures.mamba import Mamba2, mamba2, mixed
from llamaweb.architectures.metadata import Metadata, heads_by_layer
from llamaweb.families.granite import GraniteHyperparameters, factors, feed_forwards
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class GraniteHybridHyperparameters(GraniteHyperparameters):
    """heads_kv: key-value heads of each layer; 0: it has Mamba 2."""

    heads_kv: tuple[int, ...]
    mamba: Mamba2


def hyperparameters(file: GGUFFile) -> GraniteHybridHyperparameters:
    meta = Metadata(file)
    heads, heads_kv = heads_by_layer(meta)
    common = dense(file, "norm", heads=heads)
    return GraniteHybridHyperparameters(**vars(common), **factors(meta, common), heads_kv=heads_kv, mamba=mamba2(meta))


def build(graph: Graph, hparams: GraniteHybridHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = ops.scale(g, b.embeddings(), hp.embedding_scale, "embd_scaled")
    for p, n_head_kv in zip(b.layers(), hp.heads_kv, strict=True):
        h = b.norm(x, p + "attn_norm")
        if n_head_kv:
            a = b.attention(*b.qkv(h, p), p, hp.rotation, scale=hp.attention_scale)
        else:
            a = mixed(g, b, h, p, hp.mamba, hp.n_embd)
        x = ops.add(g, x, ops.scale(g, a, hp.residual_scale, p + "attn_scaled"), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        for i, f in enumerate(feed_forwards(b, h, p, hp)):
            x = ops.add(g, x, ops.scale(g, f, hp.residual_scale, f"{p}ffn_scaled.{i}"), f"{p}ffn_residual.{i}")
    b.logits(x, scale=1 / hp.logit_scale)
