"""glm4moe: GLM 4.5 and on. Dense layers first, then experts chosen by sigmoids and a bias, beside shared ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, experts, told_gating, told_width
from llamaweb.architectures.metadata import Metadata, of_text
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Glm4MoeHyperparameters(Dense):
    """n_dense: layers before the first that has experts."""

    n_dense: int
    experts: Experts


def hyperparameters(file: GGUFFile) -> Glm4MoeHyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    e = experts(
        meta,
        told_width(meta, common.n_ff),
        gating=told_gating(meta, "sigmoid"),
        norm=meta.flag("expert_weights_norm", default=False),
        scale=meta.number("expert_weights_scale", 0.0) or 1.0,
    )
    shared = meta.optional_count("expert_shared_count")
    n_dense = meta.optional_count("leading_dense_block_count")
    return Glm4MoeHyperparameters(
        **{**vars(common), "rope": of_text(common.rope, meta)},
        n_dense=n_dense,
        experts=replace(e, n_ff_shared=shared * e.n_ff),
    )


def build(graph: Graph, hparams: Glm4MoeHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for i, p in enumerate(b.layers()):
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        if g.has(p + "attn_q_norm.weight"):
            q, k = b.head_norms(q, k, p)
        x = ops.add(g, x, b.attention(q, k, v, p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "post_attention_norm")
        dense_layer = i < hp.n_dense
        f = b.feed_forward(h, p, hp.n_ff, ops.swiglu) if dense_layer else b.experts(h, p, hp.experts)
        x = ops.add(g, x, f, p + "ffn_residual")
        if hp.experts.n_ff_shared and not dense_layer:
            x = ops.add(g, x, b.shared_experts(h, p, hp.experts.n_ff_shared), p + "ffn_shexp_residual")
    b.logits(x)
