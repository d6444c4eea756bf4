"""olmo2: OLMo 2 and 3. Norms behind each branch alone and of whole rows of queries and keys, windows in some."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, windows
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Olmo2Hyperparameters(Dense):
    """windows: of each layer, how many of the last tokens it sees; 0: all. Within one, positions are not scaled."""

    windows: tuple[int, ...]
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> Olmo2Hyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    found, unscaled = windows(meta, common.n_layer, 4, window=0), Rope("neox", common.rope.n_dims, common.rope.base)
    return Olmo2Hyperparameters(**vars(common), windows=found, rope_in_window=unscaled)


def build(graph: Graph, hparams: Olmo2Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, window in zip(b.layers(), hp.windows, strict=True):
        q, k, v = b.qkv(x, p)
        q, k = b.norm(q, p + "attn_q_norm", q.row), b.norm(k, p + "attn_k_norm", k.row)
        a = b.attention(q, k, v, p, hp.rope_in_window if window else hp.rope, window=window)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.feed_forward(x, p, hp.n_ff, ops.swiglu)
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
    b.logits(x, tied=False)
