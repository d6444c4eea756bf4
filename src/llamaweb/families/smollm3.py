"""smollm3: SmolLM3. As llama, but every fourth layer rotates nothing (NoPE, arXiv:2501.18795)."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile

_STEP = 4  # told by no metadata


def hyperparameters(file: GGUFFile) -> Dense:
    return dense(file, "norm")


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for i in range(hp.n_layer):
        p = f"blk.{i}."
        rotation = hp.rope.still if i % _STEP == _STEP - 1 else hp.rope
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, rotation), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
