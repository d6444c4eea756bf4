"""rwkv7: RWKV 7. No attention: each layer mixes tokens by a recurrence, then channels by ReLU squared."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.metadata import Metadata, unsound
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations.rwkv_wkv7 import rwkv_wkv7
from llamaweb.operations.token_shift import token_shift

_EPS = 64e-5  # of the norm of heads, which no file tells


@dataclass(frozen=True)
class RWKV7Hyperparameters(Decoder):
    """size: of heads. decay, iclr, value, gate: ranks of the products that give the fade, the learning rate in context,
    the share of the first layer's values, and the gate."""

    n_ff: int
    size: int
    decay: int
    iclr: int
    value: int
    gate: int


def hyperparameters(file: GGUFFile) -> RWKV7Hyperparameters:
    meta = Metadata(file)
    common, size = decoder(file, meta, "layer_norm", heads=(1, 1)), meta.count("wkv.head_size", largest=256)
    if common.n_embd % size or size % 4:
        raise unsound(
            f"rwkv7.embedding_length of {common.n_embd} does not divide into heads of rwkv7.wkv.head_size, {size}, or "
            "these into fours"
        )
    ranks = ("decay", "iclr", "value_residual_mix", "gate")
    decay, iclr, value, gate = (meta.count(f"attention.{rank}_lora_rank") for rank in ranks)
    n_ff = meta.count("feed_forward_length")
    return RWKV7Hyperparameters(**vars(common), n_ff=n_ff, size=size, decay=decay, iclr=iclr, value=value, gate=gate)


def build(graph: Graph, hparams: RWKV7Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    n = hp.n_embd

    def vector(name: str) -> Tensor:
        return g.weight(name + ".weight", n)

    def low_rank(x: Tensor, name: str, rank: int, function: str = "") -> Tensor:
        x = b.product(x, name + "1", rank)
        x = ops.unary(g, function, x, name + "1_act") if function else x
        return b.product(x, name + "2", n)

    def time_mix(x: Tensor, p: str, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """And the first layer's values."""
        r, w, k, v, a, gate = token_shift(g, x, g.weight(p + "lerp_fused.weight", n, 1, 1, 6), p + "shift")
        mix = low_rank(v, p + "v", hp.value) if first else None
        r, k, v = (b.product(x, p + part, n) for x, part in ((r, "receptance"), (k, "key"), (v, "value")))
        w, a = low_rank(w, p + "w", hp.decay, "tanh"), low_rank(a, p + "a", hp.iclr)
        gate = low_rank(gate, p + "g", hp.gate, "sigmoid")
        of_heads = (*(vector(p + name) for name in ("w0", "a0", "k_k", "k_a", "r_k", "ln")), g.weight(p + "ln.bias", n))
        residual = (v, mix, vector(p + "v0")) if mix else None
        first = first or v
        y = rwkv_wkv7(g, (r, w, k, a, gate), first, of_heads, hp.size, _EPS, p + "wkv", residual=residual)
        return b.product(y, p + "output", n), first

    def channel_mix(x: Tensor, p: str) -> Tensor:
        (x,) = token_shift(g, x, g.weight(p + "lerp_k.weight", n, 1, 1), p + "shift")
        x = ops.unary(g, "relu_sqr", b.product(x, p + "key", hp.n_ff), p + "act")
        return b.product(x, p + "value", n)

    for part, *shape in (("v0", n), ("v1", n, hp.iclr), ("v2", hp.iclr, n)):
        g.optional_weight(f"blk.0.time_mix_{part}.weight", *shape)  # which the first layer may have for nothing
    x = b.layer_norm(b.embeddings(), "token_embd_norm")
    first = None
    for p in b.layers():
        mixed, first = time_mix(b.layer_norm(x, p + "attn_norm"), p + "time_mix_", first)
        x = ops.add(g, x, mixed, p + "attn_residual")
        x = ops.add(g, x, channel_mix(b.layer_norm(x, p + "attn_norm_2"), p + "channel_mix_"), p + "ffn_residual")
    b.logits(x, b.layer_norm, tied=False)
