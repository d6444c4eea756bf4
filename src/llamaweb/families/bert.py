"""bert: BERT and what is made like it (BGE, E5, MiniLM, GTE). An encoder for embeddings, with those of positions and of
token types, norms behind each branch, and GELU without a gate."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Encoder, decoder
from llamaweb.architectures.metadata import Metadata, token_types
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class BertHyperparameters(Encoder):
    n_ff: int
    n_types: int


def hyperparameters(file: GGUFFile) -> BertHyperparameters:
    meta = Metadata(file)
    sizes = vars(decoder(file, meta, "layer_norm"))
    return BertHyperparameters(**sizes, n_ff=meta.count("feed_forward_length"), n_types=token_types(file))


def build(graph: Graph, hparams: BertHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = ops.add(g, b.typed(b.embeddings(), hp.n_types), b.positions("position_embd"), "embd_at")
    x = b.layer_norm(x, "token_embd_norm")
    for p in b.layers():
        a = b.attention(*b.qkv(x, p), p, None)
        x = b.layer_norm(ops.add(g, x, a, p + "attn_residual"), p + "attn_output_norm")
        f = b.mlp(x, p, hp.n_ff, "gelu")
        x = b.layer_norm(ops.add(g, x, f, p + "ffn_residual"), p + "layer_output_norm")
    ops.pool(g, x)
