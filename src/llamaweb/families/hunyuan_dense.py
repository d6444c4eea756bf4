"""hunyuan-dense: Hunyuan without experts. As llama, with norms of heads behind their rotation."""

from __future__ import annotations

from dataclasses import replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    """With an alpha, by which the base of the rotation grows, in files whose converter left that to us."""
    common, alpha = dense(file, "neox"), Metadata(file).number("rope.scaling.alpha", 0.0)
    if not alpha or common.head_dim < 4:
        return common
    base = common.rope.base * alpha ** (common.head_dim / (common.head_dim - 2))
    return replace(common, rope=replace(common.rope, base=base))


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        q, k = b.head_norms(*b.rotated(q, k, p, hp.rope), p)
        x = ops.add(g, x, b.attention(q, k, v, p, None), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
