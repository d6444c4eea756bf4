"""qwen3: Qwen 3, and the text of Qwen 3-VL (qwen3vl). As qwen2, with norms of the heads of queries and keys."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, decoder
from llamaweb.architectures.metadata import Metadata, rope_of_text
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    meta = Metadata(file)
    sizes = decoder(file, meta)
    n_ff = meta.count("feed_forward_length")
    return Dense(**vars(sizes), n_ff=n_ff, rope=rope_of_text(meta, sizes.head_dim))


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in (f"blk.{i}." for i in range(hp.n_layer)):
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        x = ops.add(g, x, b.attention(*b.head_norms(q, k, p), v, p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
