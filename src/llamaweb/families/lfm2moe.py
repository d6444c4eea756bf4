"""lfm2moe: LFM 2 with experts. As lfm2, with experts chosen by sigmoids and a bias behind the first, dense layers."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks
from llamaweb.architectures.experts import Experts, experts, told_gating
from llamaweb.architectures.metadata import Metadata
from llamaweb.families import lfm2
from llamaweb.families.lfm2 import LFM2Hyperparameters, mixed
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class LFM2MoeHyperparameters(LFM2Hyperparameters):
    """n_dense: layers before the first that has experts."""

    n_dense: int
    experts: Experts


def hyperparameters(file: GGUFFile) -> LFM2MoeHyperparameters:
    meta = Metadata(file)
    return LFM2MoeHyperparameters(
        **vars(lfm2.hyperparameters(file)) | {"window": 0},  # which is read of lfm2 alone
        n_dense=meta.optional_count("leading_dense_block_count"),
        experts=experts(
            meta,
            meta.count("expert_feed_forward_length"),
            gating=told_gating(meta),
            norm=True,
        ),
    )


def build(graph: Graph, hparams: LFM2MoeHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for i, (p, n_head_kv) in enumerate(zip(b.layers(), hp.heads_kv, strict=True)):
        x = ops.add(g, x, mixed(g, b, b.norm(x, p + "attn_norm"), p, hp, n_head_kv), p + "mixed_residual")
        h = b.norm(x, p + "ffn_norm")
        if i < hp.n_dense:
            f = b.feed_forward(h, p, hp.n_ff, ops.swiglu)
        else:
            g.weight(p + "exp_probs_b.bias", hp.experts.count)  # which the choice needs here
            f = b.experts(h, p, hp.experts)
        x = ops.add(g, x, f, p + "ffn_residual")
    b.logits(x, lambda x, _: b.norm(x, "token_embd_norm"))
