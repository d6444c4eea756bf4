"""granite: Granite 3 and 4. As llama, with factors of embeddings, branches, scores and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, optional_experts
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class GraniteHyperparameters(Dense):
    embedding_scale: float
    residual_scale: float
    attention_scale: float
    logit_scale: float  # which divides
    rotation: Rope | None
    experts: Experts | None


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
        "rotation": common.rope if meta.flag("rope.scaling.finetuned", default=True) else None,
        "experts": optional_experts(meta, common.n_ff),
    }


def build(graph: Graph, hparams: GraniteHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = ops.scale(g, b.embeddings(), hp.embedding_scale, "embd_scaled")
    for p in b.layers():
        a = b.attention(*b.qkv(b.norm(x, p + "attn_norm"), p), p, hp.rotation, scale=hp.attention_scale)
        x = ops.add(g, x, ops.scale(g, a, hp.residual_scale, p + "attn_scaled"), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        for i, f in enumerate(feed_forwards(b, h, p, hp)):
            x = ops.add(g, x, ops.scale(g, f, hp.residual_scale, f"{p}ffn_scaled.{i}"), f"{p}ffn_residual.{i}")
    b.logits(x, scale=1 / hp.logit_scale)


def feed_forwards(b: Blocks, h: Tensor, p: str, hp: GraniteHyperparameters) -> list[Tensor]:
    """What is added up: of a layer with experts, of these and of shared ones if there are."""
    e = hp.experts
    if e is None:
        return [b.feed_forward(h, p, hp.n_ff, ops.swiglu)]
    return [b.experts(h, p, e, gated=False), *([b.shared_experts(h, p, e.n_ff_shared)] if e.n_ff_shared else [])]
