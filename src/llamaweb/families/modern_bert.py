"""modern-bert: ModernBERT, Granite Embedding R2. An encoder for embeddings with norms before each branch, a rotation of
halves, windows on both sides in two of three layers, and gate and up in one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Encoder, decoder
from llamaweb.architectures.metadata import Metadata, rope, rope_in_window, windows
from llamaweb.errors import UnsupportedError, short
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope

_UNITS = {"gelu": ops.geglu, "silu": ops.swiglu}


@dataclass(frozen=True)
class ModernBertHyperparameters(Encoder):
    """windows: of each layer, how many tokens one sees, half of them on each side; 0: all. activation: of _UNITS."""

    n_ff: int
    activation: str
    windows: tuple[int, ...]
    rope: Rope
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> ModernBertHyperparameters:
    meta = Metadata(file)
    sizes = decoder(file, meta, "layer_norm")
    activation = meta.text("hidden_activation", "gelu")
    if activation not in _UNITS:
        raise UnsupportedError(f"The activation {short(activation)} is not supported; {' and '.join(_UNITS)} are.")
    all_tokens = rope(meta, "neox", sizes.head_dim)
    return ModernBertHyperparameters(
        **vars(sizes),
        n_ff=meta.count("feed_forward_length"),
        activation=activation,
        windows=windows(meta, sizes.n_layer, 3, window=0, whole=0),
        rope=all_tokens,
        rope_in_window=rope_in_window(meta, all_tokens, sizes.head_dim),
    )


def build(graph: Graph, hparams: ModernBertHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    norm = partial(b.layer_norm, biased=False)
    x = norm(b.embeddings(), "token_embd_norm")
    for i, window in enumerate(hp.windows):
        p = f"blk.{i}."
        first = i == 0 and not g.has(p + "attn_norm.weight")  # which was just normed
        h = x if first else norm(x, p + "attn_norm")
        a = b.attention(*b.qkv(h, p), p, hp.rope_in_window if window else hp.rope, window=window)
        x = ops.add(g, x, a, p + "attn_residual")
        f = b.wide_feed_forward(norm(x, p + "ffn_norm"), p, hp.n_ff, _UNITS[hp.activation])
        x = ops.add(g, x, f, p + "ffn_residual")
    ops.pool(g, norm(x, "output_norm"))
