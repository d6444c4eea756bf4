"""gemma3n: Gemma 3n, text. As gemma3, with streams beside the one that is computed (AltUp), a branch of low rank beside
attention (Laurel), few open gates in the first layers, embeddings of each token for each layer, and last layers that
read the keys and values of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, Gated, decoder
from llamaweb.architectures.metadata import Metadata, caches, rope, rope_in_window, unsound, windows
from llamaweb.architectures.per_layer import own_branch, own_embeddings
from llamaweb.errors import UnsupportedError, short
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations.altup import altup_correct, altup_predict, altup_stack
from llamaweb.operations.elementwise import Expression
from llamaweb.operations.gaussian_geglu import gaussian_geglu
from llamaweb.operations.mul_mat_heads import mul_mat_heads
from llamaweb.rope import Rope

_CACHED = 20  # layers with keys of their own, …
_SPARSE, _DEVIATIONS = 10, 1.6448536  # … layers with few open gates and what opens them, unless the file tells
_CAP = 30.0  # of logits, whatever the file tells
_LAUREL = 64  # the rank of Laurel's products, which no file tells


@dataclass(frozen=True)
class Layer:
    """What layers differ in. cache: the layer whose keys and values it reads, itself or an earlier one. window: how
    many of the last tokens it sees; 0: all. deviations: of a gate from the others of its row, above which it is open;
    None: all are."""

    cache: int
    window: int
    rope: Rope
    deviations: float | None


@dataclass(frozen=True)
class Gemma3nHyperparameters(Decoder):
    """n_own: numbers of a token's embedding for one layer. cap: of logits, c * tanh(logit / c)."""

    n_ff: int
    n_stream: int
    n_own: int
    layers: tuple[Layer, ...]
    cap: float


def hyperparameters(file: GGUFFile) -> Gemma3nHyperparameters:
    meta = Metadata(file)
    sizes = decoder(file, meta)
    if active := meta.number("altup.active_idx", 0):
        raise UnsupportedError(f"gemma3n.altup.active_idx is {active:g}; 0 alone is supported.")
    of_all = rope(meta, "neox", sizes.head_dim)
    of_window = rope_in_window(meta, of_all, sizes.head_dim)
    seen = windows(meta, sizes.n_layer, 5)
    read, gates = caches(meta, seen, max(sizes.n_layer - _CACHED, 0)), _deviations(meta, sizes.n_layer)
    found = [
        Layer(cache, window, of_window if window else of_all, deviations)
        for cache, window, deviations in zip(read, seen, gates, strict=True)
    ]
    return Gemma3nHyperparameters(
        **vars(sizes),
        n_ff=meta.count("feed_forward_length"),
        n_stream=meta.count("altup.num_inputs", 4, largest=4),
        n_own=meta.count("embedding_length_per_layer_input", 256),
        layers=tuple(found),
        cap=_CAP,
    )


def _deviations(meta: Metadata, n_layer: int) -> tuple[float | None, ...]:
    """Of each layer; in files minus infinity stands for None."""
    told = meta.value("activation_sparsity_scale", None)
    if told is None:
        return tuple(_DEVIATIONS if i < _SPARSE else None for i in range(n_layer))
    sound = isinstance(told, np.ndarray) and told.dtype.kind == "f" and told.shape == (n_layer,)
    if not sound or not np.all(((told > -1e30) | np.isneginf(told)) & (told < 1e30)):
        shown = short(told.tolist() if isinstance(told, np.ndarray) else told)
        raise unsound(f"gemma3n.activation_sparsity_scale is {shown}, not a number for each of {n_layer} layers")
    return tuple(float(each) if np.isfinite(each) else None for each in told)


def build(graph: Graph, hparams: Gemma3nHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    n, n_kv = hp.n_embd, hp.n_head_kv * hp.head_dim

    def router(p: str, part: str, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        norm, route = g.weight(p + "altup_router_norm.weight", n), g.weight(p + "altup_router.weight", n, hp.n_stream)
        return norm, route, g.weight(f"{p}altup_{part}_coef.weight", hp.n_stream, rows)

    def laurel(x: Tensor, p: str) -> Tensor:
        """But for x, which is added."""
        return b.norm(b.product(b.product(x, p + "laurel_l", _LAUREL), p + "laurel_r", n), p + "laurel_post_norm")

    def layer(x: Tensor, p: str, of: Layer) -> Tensor:
        """Of the stream that is computed."""
        h = b.norm(x, p + "attn_norm")
        a = b.normed_attention(h, p, of.rope, cache=of.cache, scale=1.0, window=of.window)
        if f"blk.{of.cache}." != p:
            for part, *shape in (("k", n, n_kv), ("v", n, n_kv), ("k_norm", hp.head_dim)):
                g.optional_weight(f"{p}attn_{part}.weight", *shape)  # which it may have for nothing
        sides = x, b.norm(a, p + "post_attention_norm"), h, laurel(h, p)
        x = ops.elementwise(g, ("mul", ("add", ("add", 0, 1), ("add", 2, 3)), 0.5**0.5), sides, p + "attn_laurel")
        unit: Gated = ops.geglu if of.deviations is None else partial(gaussian_geglu, deviations=of.deviations)
        f = b.feed_forward(b.norm(x, p + "ffn_norm"), p, hp.n_ff, unit)
        return ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")

    x = ops.scale(g, b.embeddings(), n**0.5, "embd_scaled")
    own = own_embeddings(g, x, b, hp, hp.n_own)
    others = ops.mul_mat(g, g.weight("altup_proj.weight", n, n, hp.n_stream - 1), x, "altup_proj")
    streams = altup_stack(g, x, others, "altup_streams")
    branch: Tensor | None = None
    for p, of in zip(b.layers(), hp.layers, strict=True):
        to_predict, to_correct = router(p, "predict", hp.n_stream**2), router(p, "correct", hp.n_stream)
        predicted = altup_predict(g, streams, to_predict, hp.eps, p + "altup_predict", branch)
        y = layer(ops.plane(g, predicted, 0, p + "active"), p, of)
        scale = g.weight(p + "altup_correct_scale.weight", n)
        streams = altup_correct(g, predicted, y, to_correct, scale, hp.eps, p + "altup_correct")
        branch = own_branch(g, ops.plane(g, streams, hp.n_stream, p + "active_scaled"), own, b, p, hp.n_own)
    assert branch  # there is a layer
    b.logits(_merged(g, streams, branch, hp), cap=hp.cap)


def _merged(g: Graph, streams: Tensor, branch: Tensor, hp: Gemma3nHyperparameters) -> Tensor:
    """The mean of the first stream and of what the others, with the last layer's branch, are projected to."""
    n, count = hp.n_embd, hp.n_stream
    first, *others = (ops.plane(g, streams, i, f"altup_stream_{i}") for i in range(count))
    others = [ops.add(g, x, branch, f"altup_residual_{i}") for i, x in enumerate(others, 1)]
    beside = ops.concat(g, tuple(others), (n,) * (count - 1), "altup_others")
    beside = mul_mat_heads(g, g.weight("altup_unembd_proj.weight", n, n, count - 1), beside, "altup_unembd")
    each = altup_stack(g, first, beside, "altup_unembd_streams")
    total: Expression = 0
    for i in range(1, count):
        total = ("add", total, i)
    planes = tuple(ops.plane(g, each, i, f"altup_unembd_stream_{i}") for i in range(count))
    return ops.elementwise(g, ("mul", total, 1 / count), planes, "altup_merged")
