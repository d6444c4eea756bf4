"""lfm2: LFM 2. Most layers mix tokens by a short convolution between two gates, the others by attention."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata
from llamaweb.errors import ModelFileError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations.ssm_conv import ssm_conv


@dataclass(frozen=True)
class LFM2Hyperparameters(Dense):
    """heads_kv: key-value heads of each layer; 0: it has a convolution of `taps` taps."""

    heads_kv: tuple[int, ...]
    taps: int


def hyperparameters(file: GGUFFile) -> LFM2Hyperparameters:
    meta = Metadata(file)
    heads, heads_kv = (meta.counts(f"attention.head_count{kind}") for kind in ("", "_kv"))
    if len(set(heads_kv) - {0}) != 1 or not max(heads):
        raise ModelFileError(f"lfm2.attention.head_count_kv is {list(heads_kv)}, not 0 or one number of heads a layer.")
    common = dense(file, "neox", heads=(max(heads), max(heads_kv)))
    return LFM2Hyperparameters(**vars(common), heads_kv=heads_kv, taps=meta.count("shortconv.l_cache", largest=16))


def build(graph: Graph, hparams: LFM2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)

    def short_conv(x: Tensor, p: str) -> Tensor:
        mixed = b.product(x, p + "in_proj", 3 * hp.n_embd)
        before, behind, x = (
            ops.view(g, mixed, i * hp.n_embd, hp.n_embd, p + part) for i, part in enumerate(("before", "behind", "x"))
        )
        weight = g.weight(p + "conv.weight", hp.taps, hp.n_embd)
        found = ssm_conv(g, ops.mul(g, before, x, p + "gated"), weight, p + "conv")
        return b.product(ops.mul(g, behind, found, p + "mixed"), p + "out_proj", hp.n_embd)

    x = b.embeddings()
    for p, n_head_kv in zip(b.layers(), hp.heads_kv, strict=True):
        h = b.norm(x, p + "attn_norm")
        if n_head_kv:
            q, k, v = b.qkv(h, p)
            mixed = b.attention(*b.head_norms(q, k, p), v, p, hp.rope)
        else:
            mixed = short_conv(h, p + "shortconv.")
        x = ops.add(g, x, mixed, p + "mixed_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x, lambda x, _: b.norm(x, "token_embd_norm"))
