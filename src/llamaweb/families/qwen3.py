"""qwen3: Qwen 3. As qwen2, with norms of the heads of queries and keys."""

from __future__ import annotations

from dataclasses import replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, of_text
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    common = dense(file, "neox")
    return replace(common, rope=of_text(common.rope, Metadata(file)))


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        x = ops.add(g, x, b.attention(*b.head_norms(q, k, p), v, p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
