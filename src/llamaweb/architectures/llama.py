"""llama: Llama 1 to 3, SmolLM, Mistral 7B and the many models that share their graph."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, decoder
from llamaweb.architectures.metadata import Metadata, rope
from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.graph import VECTORS, Graph
from llamaweb.model.gguf_file import GGUFFile


def hyperparameters(file: GGUFFile) -> Dense:
    meta = Metadata(file)
    if experts := meta.number("expert_count", 0):
        raise UnsupportedError(
            f"The model is a mixture of {experts:g} experts, which is not supported yet; use a dense one."
        )
    sizes = decoder(file, meta)
    factors = file.tensors.get("rope_freqs.weight")
    rotary = rope(meta, "norm", sizes.head_dim, factors.name if factors else None)
    if factors and (factors.type not in VECTORS or factors.shape != (rotary.n_dims // 2,)):
        raise ModelFileError(
            f"Tensor {factors.name} has shape {list(factors.shape)} in {factors.type.name}, not "
            f"[{rotary.n_dims // 2}] in F32, F16 or BF16; the file contradicts itself."
        )
    return Dense(**vars(sizes), n_ff=meta.count("feed_forward_length"), rope=rotary)


def build(graph: Graph, hparams: Dense) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p in (f"blk.{i}." for i in range(hp.n_layer)):
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, b.attention(*b.qkv(h, p), p, hp.rope), p + "attn_residual")
        h = b.norm(x, p + "ffn_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
