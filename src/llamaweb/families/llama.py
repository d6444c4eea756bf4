"""llama: Llama 1 to 3, SmolLM, Mistral 7B and the many models that share their graph."""

from __future__ import annotations

from dataclasses import replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, with_factors
from llamaweb.errors import UnsupportedError
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    meta = Metadata(file)
    if experts := meta.number("expert_count", 0):
        raise UnsupportedError(
            f"The model is a mixture of {experts:g} experts, which is not supported yet; use a dense one."
        )
    common = dense(file, "norm")
    return replace(common, rope=with_factors(common.rope, file, meta))


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
