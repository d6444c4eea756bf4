"""stablelm: StableLM 2 and 3B. Norms to a mean and a variance, a part of each head rotated; the larger ones have
attention and feed forward side by side, of one norm, and norms of heads."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    return dense(file, "neox", "layer_norm")


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)

    def normed(x: Tensor, name: str, n_head: int) -> Tensor:
        """Each head, with weights of its own."""
        weight = g.optional_weight(name + ".weight", hp.head_dim, n_head)
        return ops.layer_norm(g, x, weight, None, hp.eps, name, size=hp.head_dim) if weight else x

    x = b.embeddings()
    for p in b.layers():
        h = b.layer_norm(x, p + "attn_norm")
        q, k, v = b.qkv(h, p)
        q, k = normed(q, p + "attn_q_norm", hp.n_head), normed(k, p + "attn_k_norm", hp.n_head_kv)
        x = ops.add(g, x, b.attention(q, k, v, p, hp.rope), p + "attn_residual")
        h = b.layer_norm(x, p + "ffn_norm", biased=False) if g.has(p + "ffn_norm.weight") else h
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x, b.layer_norm, tied=False)
