"""gemma4: Gemma 4, text. As gemma3, with heads of their own in layers with a window, normed values, embeddings of each
token for each layer, last layers that read the keys and values of earlier ones, and experts beside a feed forward."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.experts import Experts, experts
from llamaweb.architectures.metadata import Metadata, caches, rope, rope_in_window, unsound, windows, with_factors
from llamaweb.architectures.per_layer import own_branch, own_embeddings
from llamaweb.errors import ModelFileError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Layer:
    """What layers differ in. cache: the layer whose keys and values it reads, itself or an earlier one. window: how
    many of the last tokens it sees; 0: all."""

    cache: int
    head_dim: int
    n_head_kv: int
    n_ff: int
    window: int
    rope: Rope


@dataclass(frozen=True)
class Gemma4Hyperparameters(Decoder):
    """n_own: numbers of a token's embedding for one layer; 0: there are none. cap: of logits, c * tanh(logit / c)."""

    layers: tuple[Layer, ...]
    n_own: int
    cap: float
    experts: Experts | None


def hyperparameters(file: GGUFFile) -> Gemma4Hyperparameters:
    meta = Metadata(file)
    heads_kv, n_ffs = meta.counts("attention.head_count_kv"), meta.counts("feed_forward_length")
    sizes = decoder(file, meta, heads=(meta.count("attention.head_count"), max(heads_kv)))
    if not all(n and sizes.n_head % n == 0 for n in heads_kv) or not all(n_ffs):
        raise ModelFileError(
            f"{sizes.n_head} attention heads do not divide into {list(heads_kv)} key-value heads, or a layer has no "
            f"feed forward ({list(n_ffs)}); the file contradicts itself."
        )
    each = windows(meta, sizes.n_layer, 6)
    of_all = with_factors(rope(meta, "neox", sizes.head_dim), file, meta, needed=not all(each))
    in_window = meta.count("attention.key_length_swa", sizes.head_dim)
    of_window = rope_in_window(meta, replace(of_all, n_dims=in_window), in_window)
    found = []
    for i, (window, cache) in enumerate(zip(each, caches(meta, each), strict=True)):
        head_dim, rotation = (in_window, of_window) if window else (sizes.head_dim, of_all)
        found.append(Layer(cache, head_dim, heads_kv[i], n_ffs[i], window, rotation))
    for i, layer in enumerate(found):
        if layer != replace(found[layer.cache], n_ff=layer.n_ff):
            raise unsound(f"Layer {i} is to read the keys and values of layer {layer.cache}, whose heads differ")
    has_experts = meta.optional_count("expert_count")
    return Gemma4Hyperparameters(
        **vars(sizes),
        layers=tuple(found),
        n_own=meta.optional_count("embedding_length_per_layer_input"),
        cap=meta.number("final_logit_softcapping", 30.0),
        experts=experts(meta, meta.count("expert_feed_forward_length"), norm=True) if has_experts else None,
    )


def build(graph: Graph, hparams: Gemma4Hyperparameters) -> None:
    g, hp, whole = graph, hparams, Blocks(graph, hparams)
    x = ops.scale(g, whole.embeddings(), hp.n_embd**0.5, "embd_scaled")
    own = own_embeddings(g, x, whole, hp, hp.n_own) if hp.n_own else None
    for i, layer in enumerate(hp.layers):
        p = f"blk.{i}."
        b = Blocks(g, replace(hp, head_dim=layer.head_dim, n_head_kv=layer.n_head_kv))
        h, keyed = b.norm(x, p + "attn_norm"), not g.has(p + "attn_v.weight")
        a = b.normed_attention(h, p, layer.rope, cache=layer.cache, keyed=keyed, scale=1.0, window=layer.window)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.feed_forward(b.norm(x, p + "ffn_norm"), p, layer.n_ff, ops.geglu)
        if hp.experts and g.has(p + "ffn_gate_inp.weight"):
            f = ops.add(
                g, b.norm(f, p + "post_ffw_norm_1"), _experts(g, b, x, p, hp.experts, hp.eps), p + "ffn_moe_combined"
            )
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
        if own:
            x = ops.add(g, x, own_branch(g, x, own, b, p, hp.n_own), p + "inp_residual")
        if scale := g.optional_weight(p + "layer_output_scale.weight", 1):
            x = ops.mul(g, x, scale, p + "out_scaled")
    whole.logits(x, cap=hp.cap)


def _experts(g: Graph, b: Blocks, x: Tensor, p: str, e: Experts, eps: float) -> Tensor:
    """Chosen by x, normed and scaled in a way of its own."""
    scale = g.weight(p + "ffn_gate_inp.scale", x.row)
    normed = ops.rms_norm(g, x, scale, eps, p + "ffn_gate_inp_norm")
    weight = g.weight(p + "ffn_gate_inp.weight", x.row, e.count)
    logits = ops.mul_mat(g, weight, ops.scale(g, normed, x.row**-0.5, p + "ffn_gate_inp_scaled"), p + "ffn_gate_inp")
    y = b.experts(b.norm(x, p + "pre_ffw_norm_2"), p, e, ops.geglu, logits=logits)
    return b.norm(y, p + "post_ffw_norm_2")
