"""qwen3moe: Qwen 3 with experts. As qwen3, with weights of experts that sum to one."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, experts, told_width
from llamaweb.architectures.metadata import Metadata, of_text
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Qwen3MoeHyperparameters(Dense):
    experts: Experts


def hyperparameters(file: GGUFFile) -> Qwen3MoeHyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    e = experts(meta, told_width(meta, common.n_ff), norm=True)
    return Qwen3MoeHyperparameters(**{**vars(common), "rope": of_text(common.rope, meta)}, experts=e)


def build(graph: Graph, hparams: Qwen3MoeHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        x = ops.add(g, x, b.attention(*b.head_norms(q, k, p), v, p, hp.rope), p + "attn_residual")
        x = ops.add(g, x, b.experts(b.norm(x, p + "ffn_norm"), p, hp.experts), p + "ffn_residual")
    b.logits(x)
