"""granite: Granite 3 and 4 without experts. As llama, with factors of embeddings, branches, scores and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class GraniteHyperparameters(Dense):
    embedding_scale: float
    residual_scale: float
    attention_scale: float
    logit_scale: float  # which divides
    rotation: Rope | None


def hyperparameters(file: GGUFFile) -> GraniteHyperparameters:
    common = dense(file, "norm")
    return GraniteHyperparameters(**vars(common), **factors(Metadata(file), common))


def factors(meta: Metadata, common: Dense) -> dict[str, Any]:
    """Those hyperparameters that Granites have more than others."""
    return {
        "embedding_scale": meta.number("embedding_scale", 0.0) or 1.0,
        "residual_scale": meta.number("residual_scale", 0.0) or 1.0,
        "attention_scale": meta.number("attention.scale", 0.0) or common.head_dim**-0.5,
        "logit_scale": meta.number("logit_scale", least=1e-6),
        "rotation": common.rope if meta.value("rope.scaling.finetuned", True) else None,
    }


def build(graph: Graph, hparams: GraniteHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = ops.scale(g, b.embeddings(), hp.embedding_scale, "embd_scaled")
    for p in b.layers():
        a = b.attention(*b.qkv(b.norm(x, p + "attn_norm"), p), p, hp.rotation, scale=hp.attention_scale)
        x = ops.add(g, x, ops.scale(g, a, hp.residual_scale, p + "attn_scaled"), p + "attn_residual")
        f = b.feed_forward(b.norm(x, p + "ffn_norm"), p, hp.n_ff, ops.swiglu)
        x = ops.add(g, x, ops.scale(g, f, hp.residual_scale, p + "ffn_scaled"), p + "ffn_residual")
    b.logits(x, scale=1 / hp.logit_scale)
