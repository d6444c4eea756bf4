"""seed_oss: Seed-OSS. As qwen2, with the norm of the feed forward named after the attention that it stands behind."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile

ARCHITECTURE = "seed_oss"


def hyperparameters(file: GGUFFile) -> Dense:
    return dense(file, "neox")


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "post_attention_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
