"""llama: Llama 1 to 3, SmolLM, Mistral 7B and the many models that share their graph; Mixtral, with experts."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, optional_experts
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class LlamaHyperparameters(Dense):
    """experts: None if all layers are dense."""

    experts: Experts | None


def hyperparameters(file: GGUFFile) -> LlamaHyperparameters:
    meta, common = Metadata(file), dense(file, "norm")
    return LlamaHyperparameters(**vars(common), experts=optional_experts(meta, common.n_ff))


def build(graph: Graph, hparams: LlamaHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        f = b.experts(h, p, hp.experts, gated=False) if hp.experts else b.feed_forward(h, p, hp.n_ff, ops.swiglu)
        x = ops.add(g, x, f, p + "ffn_residual")
    b.logits(x)
