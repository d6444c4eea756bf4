"""falcon-h1: Falcon H1. Attention and Mamba 2 side by side in each layer, of one norm."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.mamba import Mamba2, mamba2, mixed
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class FalconH1Hyperparameters(Dense):
    mamba: Mamba2


def hyperparameters(file: GGUFFile) -> FalconH1Hyperparameters:
    return FalconH1Hyperparameters(**vars(dense(file, "neox")), mamba=mamba2(Metadata(file)))


def build(graph: Graph, hparams: FalconH1Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        x = ops.add(g, x, mixed(g, b, h, p, hp.mamba, hp.n_embd, may_lack_norm=True), p + "ssm_residual")
        h = ops.rms_norm(g, x, g.weight(p + "ffn_norm", hp.n_embd), hp.eps, p + "ffn_norm")  # without ".weight"
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
