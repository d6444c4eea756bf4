"""nomic-bert: Nomic Embed 1 and 1.5. An encoder for embeddings: as bert, with a rotation of halves instead of
embeddings of positions, and a gate of SiLU."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Encoder, decoder
from llamaweb.architectures.metadata import Metadata, rope, token_types
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class NomicBertHyperparameters(Encoder):
    n_ff: int
    n_types: int
    rope: Rope


def hyperparameters(file: GGUFFile) -> NomicBertHyperparameters:
    meta = Metadata(file)
    sizes = decoder(file, meta, "layer_norm")
    return NomicBertHyperparameters(
        **vars(sizes),
        n_ff=meta.count("feed_forward_length"),
        n_types=token_types(file),
        rope=rope(meta, "neox", sizes.head_dim),
    )


def build(graph: Graph, hparams: NomicBertHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.layer_norm(b.typed(b.embeddings(), hp.n_types), "token_embd_norm")
    for p in b.layers():
        a = b.attention(*b.qkv(x, p), p, hp.rope)
        x = b.layer_norm(ops.add(g, x, a, p + "attn_residual"), p + "attn_output_norm")
        f = b.feed_forward(x, p, hp.n_ff, ops.swiglu)
        x = b.layer_norm(ops.add(g, x, f, p + "ffn_residual"), p + "layer_output_norm")
    ops.pool(g, x)
