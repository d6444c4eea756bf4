"""exaone4: EXAONE 4. Norms behind each branch alone and of heads; beside layers with windows, others rotate nothing."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, windows
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile

_WINDOW = 4096  # unless the file tells
_LAYERS_OF_32B = 64  # the one size that has windows


@dataclass(frozen=True)
class Exaone4Hyperparameters(Dense):
    """windows: of each layer, how many of the last tokens it sees; 0: all."""

    windows: tuple[int, ...]


def hyperparameters(file: GGUFFile) -> Exaone4Hyperparameters:
    common = dense(file, "neox")
    has_windows = common.n_layer == _LAYERS_OF_32B
    found = windows(Metadata(file), common.n_layer, 4, window=_WINDOW) if has_windows else (0,) * common.n_layer
    return Exaone4Hyperparameters(**vars(common), windows=found)


def build(graph: Graph, hparams: Exaone4Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, window in zip(b.layers(), hp.windows, strict=True):
        q, k, v = b.qkv(x, p)
        rotation = hp.rope if window or not any(hp.windows) else None
        a = b.attention(*b.head_norms(q, k, p), v, p, rotation, window=window)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.feed_forward(x, p, hp.n_ff, ops.swiglu)
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
    b.logits(x)
