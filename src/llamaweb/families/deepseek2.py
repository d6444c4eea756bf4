"""deepseek2: DeepSeek V2 and V3, Kimi K2, GLM 4.7 Flash. Attention to one row a token, which the keys and values of all
heads are made of; dense layers first, then experts beside shared ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.experts import Experts, experts, told_gating
from llamaweb.architectures.latent import Latent, attention, latent
from llamaweb.architectures.metadata import Metadata
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile

_TOKENS_OF_GLM = 154880  # whose files do not tell that experts are chosen by sigmoids


@dataclass(frozen=True)
class DeepSeek2Hyperparameters(Decoder):
    """n_dense: layers before the first that has experts, `n_ff` values wide. temperature: as of ops.flash_attn."""

    n_ff: int
    n_dense: int
    latent: Latent
    experts: Experts
    temperature: tuple[float, int] | None


def hyperparameters(file: GGUFFile) -> DeepSeek2Hyperparameters:
    meta = Metadata(file)
    m, n_head = latent(meta), meta.count("attention.head_count")
    sizes = decoder(file, meta, heads=(n_head, 1 if m.absorbed else n_head), head_dim=m.head_dim)
    glm = sizes.n_layer in (47, 48) and sizes.n_vocab == _TOKENS_OF_GLM
    e = experts(
        meta,
        meta.count("expert_feed_forward_length"),
        gating=told_gating(meta, "sigmoid" if glm else "softmax"),
        norm=meta.flag("expert_weights_norm", default=False),
        scale=meta.number("expert_weights_scale", 0.0) or 1.0,
    )
    heat = meta.number("attention.temperature_scale", 0.0)
    return DeepSeek2Hyperparameters(
        **vars(sizes),
        n_ff=meta.count("feed_forward_length"),
        n_dense=meta.optional_count("leading_dense_block_count"),
        latent=m,
        experts=replace(e, n_ff_shared=meta.count("expert_shared_count") * e.n_ff),
        temperature=(heat, meta.count("attention.temperature_length", largest=1 << 31)) if heat else None,
    )


def build(graph: Graph, hparams: DeepSeek2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for i, p in enumerate(b.layers()):
        h = b.norm(x, p + "attn_norm")
        a = attention(g, b, h, p, hp.latent, hp.n_head, hp.n_embd, temperature=hp.temperature)
        x = ops.add(g, x, a, p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        dense_layer = i < hp.n_dense
        f = b.feed_forward(h, p, hp.n_ff, ops.swiglu) if dense_layer else b.experts(h, p, hp.experts)
        x = ops.add(g, x, f, p + "ffn_residual")
        if not dense_layer:
            x = ops.add(g, x, b.shared_experts(h, p, hp.experts.n_ff_shared), p + "ffn_shexp_residual")
    b.logits(x)
