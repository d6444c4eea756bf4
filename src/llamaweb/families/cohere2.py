"""cohere2: Command R7B and Command A. Attention and feed forward side by side; rotation within windows alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, dims_in_window, windows
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Cohere2Hyperparameters(Dense):
    """windows: of each layer, how many of the last tokens it sees; 0: all."""

    logit_scale: float
    windows: tuple[int, ...]


def hyperparameters(file: GGUFFile) -> Cohere2Hyperparameters:
    meta, common = Metadata(file), dense(file, "norm", "layer_norm")
    return Cohere2Hyperparameters(
        **(vars(common) | {"rope": replace(common.rope, n_dims=dims_in_window(meta, common.rope, common.head_dim))}),
        logit_scale=meta.number("logit_scale") or 1.0,
        windows=windows(meta, common.n_layer, 4),
    )


def build(graph: Graph, hparams: Cohere2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, window in zip(b.layers(), hp.windows, strict=True):
        h = b.layer_norm(x, p + "attn_norm", biased=False)
        a = b.attention(*b.qkv(h, p), p, hp.rope if window else None, window=window)
        x = ops.add(g, x, a, p + "attn_residual")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x, partial(b.layer_norm, biased=False), scale=hp.logit_scale)
