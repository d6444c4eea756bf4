"""nemotron_h: Nemotron H and Nano 2. Each layer is one of Mamba 2, attention without rotation, or ReLU squared."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.mamba import Mamba2, mamba2, mixed
from llamaweb.architectures.metadata import Metadata, heads_by_layer
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile

ARCHITECTURE = "nemotron_h"


@dataclass(frozen=True)
class NemotronHHyperparameters(Decoder):
    """Of each layer: key-value heads, and width of its feed forward; both 0: it has Mamba 2."""

    heads_kv: tuple[int, ...]
    n_ff: tuple[int, ...]
    mamba: Mamba2


def hyperparameters(file: GGUFFile) -> NemotronHHyperparameters:
    meta = Metadata(file)
    heads, heads_kv = heads_by_layer(meta)
    sizes = decoder(file, meta, heads=heads)
    n_ff = meta.counts("feed_forward_length")
    return NemotronHHyperparameters(**vars(sizes), heads_kv=heads_kv, n_ff=n_ff, mamba=mamba2(meta))


def build(graph: Graph, hparams: NemotronHHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, n_head_kv, n_ff in zip(b.layers(), hp.heads_kv, hp.n_ff, strict=True):
        h = b.norm(x, p + "attn_norm")
        if n_ff:
            h = b.mlp(h, p, n_ff, "relu_sqr")
        elif n_head_kv:
            h = b.attention(*b.qkv(h, p), p, None)
        else:
            h = mixed(g, b, h, p, hp.mamba, hp.n_embd)
        x = ops.add(g, x, h, p + "residual")
    b.logits(x)
