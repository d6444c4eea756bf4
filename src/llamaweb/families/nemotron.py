"""nemotron: Nemotron 3 and Minitron. As llama, with norms to a mean and a variance, and ReLU squared without a gate."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    return dense(file, "neox", "layer_norm")


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.layer_norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.layer_norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.mlp(h, p, hp.n_ff, "relu_sqr"), p + "ffn_residual")
    b.logits(x, b.layer_norm, tied=False)
