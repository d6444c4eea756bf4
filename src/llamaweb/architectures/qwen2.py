"""qwen2: Qwen 2 and 2.5, and the text of Qwen 2-VL and 2.5-VL (qwen2vl). As llama, with biases and rotated halves."""

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
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
