"""mamba2: Mamba 2. Nothing but its mixer in each layer."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.mamba import Mamba2, mamba2, mixed
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Mamba2Hyperparameters(Decoder):
    mamba: Mamba2


def hyperparameters(file: GGUFFile) -> Mamba2Hyperparameters:
    meta = Metadata(file)
    return Mamba2Hyperparameters(**vars(decoder(file, meta, heads=(1, 1))), mamba=mamba2(meta))


def build(graph: Graph, hparams: Mamba2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        x = ops.add(g, x, mixed(g, b, b.norm(x, p + "attn_norm"), p, hp.mamba, hp.n_embd), p + "residual")
    b.logits(x)
