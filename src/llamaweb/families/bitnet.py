"""bitnet: BitNet b1.58. As llama, with a norm before the last product of each branch, and scales of ternary weights."""

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
        a = b.attend(*b.qkv(b.norm(x, p + "attn_norm"), p), p, hp.rope)
        a = b.product(b.norm(a, p + "attn_sub_norm", a.row), p + "attn_output", hp.n_embd)
        x = ops.add(g, x, a, p + "attn_residual")
        f = b.gated(b.norm(x, p + "ffn_norm"), p, hp.n_ff, ops.swiglu)
        f = b.product(b.norm(f, p + "ffn_sub_norm", f.row), p + "ffn_down", hp.n_embd)
        x = ops.add(g, x, f, p + "ffn_residual")
    b.logits(x)
