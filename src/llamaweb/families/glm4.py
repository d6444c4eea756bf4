"""glm4: GLM 4. Norms before and behind each branch, half of each head rotated, gate and up in one tensor."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    sees = Metadata(file).value("rope.dimension_sections", None) is not None  # pictures: then halves are rotated
    return dense(file, "neox" if sees else "norm")


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        a = b.attention(*b.qkv(b.norm(x, p + "attn_norm"), p), p, hp.rope)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.wide_feed_forward(b.norm(x, p + "ffn_norm"), p, hp.n_ff, ops.swiglu)
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
    b.logits(x)
