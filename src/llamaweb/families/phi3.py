"""phi3: Phi 3 and 4. As llama, with gate and up in one tensor, and other factors of the rotation in long contexts."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    return dense(file, "neox")


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.wide_feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
