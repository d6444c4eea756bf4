"""gemma-embedding: EmbeddingGemma. As gemma3, but an encoder for embeddings, with windows on both sides, and up to two
products behind the pooling."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Encoder, decoder
from llamaweb.architectures.metadata import Metadata, rope, rope_in_window, windows
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class GemmaEmbeddingHyperparameters(Encoder):
    """windows: of each layer, how many tokens one sees, half of them on each side; 0: all. n_dense: values between the
    two products behind the pooling."""

    n_ff: int
    n_dense: int
    windows: tuple[int, ...]
    rope: Rope
    rope_in_window: Rope


def hyperparameters(file: GGUFFile) -> GemmaEmbeddingHyperparameters:
    meta = Metadata(file)
    sizes = decoder(file, meta)
    all_tokens = rope(meta, "neox", sizes.head_dim)
    return GemmaEmbeddingHyperparameters(
        **vars(sizes),
        n_ff=meta.count("feed_forward_length"),
        n_dense=meta.count("dense_2_feat_out", sizes.n_embd),
        windows=windows(meta, sizes.n_layer, 6),
        rope=all_tokens,
        rope_in_window=rope_in_window(meta, all_tokens, sizes.head_dim),
    )


def build(graph: Graph, hparams: GemmaEmbeddingHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    g.optional_weight("output.weight", hp.n_embd, hp.n_vocab)  # of no use here
    x = ops.scale(g, b.embeddings(), hp.n_embd**0.5, "embd_scaled")
    for i, window in enumerate(hp.windows):
        p = f"blk.{i}."
        q, k, v = b.qkv(b.norm(x, p + "attn_norm"), p)
        rotation = hp.rope_in_window if window else hp.rope
        a = b.attention(*b.head_norms(q, k, p), v, p, rotation, window=window)
        x = ops.add(g, x, b.norm(a, p + "post_attention_norm"), p + "attn_residual")
        f = b.feed_forward(b.norm(x, p + "ffn_norm"), p, hp.n_ff, ops.geglu)
        x = ops.add(g, x, b.norm(f, p + "post_ffw_norm"), p + "ffn_residual")
    x = ops.pool(g, b.norm(x, "output_norm"))
    if g.has("dense_2.weight") or g.has("dense_3.weight"):  # both
        for name, size in (("dense_2", hp.n_dense), ("dense_3", hp.n_embd)):
            x = b.product(x, name, size)
