"""gpt-oss: gpt-oss 20B and 120B. Experts and biases everywhere, windows in every other layer, sinks of attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.experts import Experts, experts, told_width
from llamaweb.architectures.metadata import Metadata, base_in_window, windows
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class GptOssHyperparameters(Dense):
    """windows: of each layer, how many of the last tokens it sees; 0: all."""

    experts: Experts
    windows: tuple[int, ...]
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> GptOssHyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    return GptOssHyperparameters(
        **vars(common),
        experts=experts(meta, told_width(meta, common.n_ff), gating="softmax_weight"),
        windows=windows(meta, common.n_layer, 2),
        rope_in_window=replace(common.rope, base=base_in_window(meta, common.rope.base)),
    )


def build(graph: Graph, hparams: GptOssHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams, biased=True)
    x = b.embeddings()
    for p, window in zip(b.layers(), hp.windows, strict=True):
        h = b.norm(x, p + "attn_norm")
        rotation = hp.rope_in_window if window else hp.rope
        sinks = g.weight(p + "attn_sinks.weight", hp.n_head)
        a = b.attention(*b.qkv(h, p), p, rotation, window=window, sinks=sinks)
        x = ops.add(g, x, a, p + "attn_residual")
        h = b.norm(x, p + "post_attention_norm")
        x = ops.add(g, x, b.experts(h, p, hp.experts, ops.swiglu_oai), p + "ffn_residual")
    b.logits(x, tied=False)
