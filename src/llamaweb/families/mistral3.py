"""mistral3: Ministral 3 and Mistral Small 3. As llama, with a temperature of attention that grows with the position."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, optional_experts
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Mistral3Hyperparameters(Dense):
    """temperature: as of ops.flash_attn. experts: None if all layers are dense."""

    temperature: tuple[float, int] | None
    experts: Experts | None


def hyperparameters(file: GGUFFile) -> Mistral3Hyperparameters:
    meta, common = Metadata(file), dense(file, "norm", yarn_told=True)
    factor = meta.number("attention.temperature_scale", 0.0)
    original = meta.count("rope.scaling.original_context_length", common.n_ctx_train, largest=1 << 31)
    return Mistral3Hyperparameters(
        **vars(common),
        temperature=(factor, original) if factor else None,
        experts=optional_experts(meta, common.n_ff),
    )


def build(graph: Graph, hparams: Mistral3Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in b.layers():
        h = b.norm(x, p + "attn_norm")
        a = b.attention(*b.qkv(h, p), p, hp.rope, temperature=hp.temperature)
        x = ops.add(g, x, a, p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        f = b.experts(h, p, hp.experts, gated=False) if hp.experts else b.feed_forward(h, p, hp.n_ff, ops.swiglu)
        x = ops.add(g, x, f, p + "ffn_residual")
    b.logits(x)
