"""gpt2: GPT-2. Embeddings of positions instead of a rotation, norms to a mean and a variance, GELU without a gate."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class GPT2Hyperparameters(Decoder):
    n_ff: int


def hyperparameters(file: GGUFFile) -> GPT2Hyperparameters:
    meta = Metadata(file)
    return GPT2Hyperparameters(**vars(decoder(file, meta, "layer_norm")), n_ff=meta.count("feed_forward_length"))


def build(graph: Graph, hparams: GPT2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams, biased=True)
    x = ops.add(g, b.embeddings(), b.positions("position_embd"), "embd_at")
    for p in b.layers():
        h = b.layer_norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, None), p + "attn_residual")
        h = b.layer_norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.mlp(h, p, hp.n_ff, "gelu"), p + "ffn_residual")
    b.logits(x, b.layer_norm)
