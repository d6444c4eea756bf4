"""olmoe: OLMoE. Experts in each layer, norms of whole rows of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, experts
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class OlmoeHyperparameters(Dense):
    experts: Experts


def hyperparameters(file: GGUFFile) -> OlmoeHyperparameters:
    common = dense(file, "neox")
    return OlmoeHyperparameters(**vars(common), experts=experts(Metadata(file), common.n_ff))


def build(graph: Graph, hparams: OlmoeHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        q, k = b.norm(q, p + "attn_q_norm", q.row), b.norm(k, p + "attn_k_norm", k.row)
        x = ops.add(g, x, b.attention(q, k, v, p, hp.rope), p + "attn_residual")
        x = ops.add(g, x, b.experts(b.norm(x, p + "ffn_norm"), p, hp.experts), p + "ffn_residual")
    b.logits(x, tied=False)
