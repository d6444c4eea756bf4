"""qwen2moe: Qwen 1.5 and 2 with experts. As qwen2, with experts and one that is every token's, behind a gate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, experts, told_width
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Qwen2MoeHyperparameters(Dense):
    experts: Experts


def hyperparameters(file: GGUFFile) -> Qwen2MoeHyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    e = experts(meta, told_width(meta, common.n_ff))
    return Qwen2MoeHyperparameters(**vars(common), experts=replace(e, n_ff_shared=e.n_ff_shared or common.n_ff))


def build(graph: Graph, hparams: Qwen2MoeHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = b.behind_gated_experts(x, h, p, hp.experts)
    b.logits(x, tied=False)
