"""qwen2: Qwen 2 and 2.5, and the text of Qwen 2-VL and 2.5-VL (qwen2vl). As llama, with biases and rotated halves."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.metadata import Metadata, rope_of_text
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Qwen2Hyperparameters(Decoder):
    n_ff: int
    rope: Rope


def hyperparameters(file: GGUFFile) -> Qwen2Hyperparameters:
    meta = Metadata(file)
    sizes = decoder(file, meta)
    n_ff = meta.count("feed_forward_length")
    return Qwen2Hyperparameters(**vars(sizes), n_ff=n_ff, rope=rope_of_text(meta, sizes.head_dim))


def build(graph: Graph, hparams: Qwen2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in (f"blk.{i}." for i in range(hp.n_layer)):
        h = b.norm(x, p + "attn_norm")
        x = g.add(x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = g.add(x, b.feed_forward(h, p, hp.n_ff, g.swiglu), p + "ffn_residual")
    b.logits(x)
