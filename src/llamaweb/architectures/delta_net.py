"""The mixers of Qwen 3.5 and Qwen 3 Next: gated delta nets (arXiv:2412.06464), and attention behind a gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder
from llamaweb.architectures.metadata import Metadata, unsound
from llamaweb.errors import ModelFileError, short
from llamaweb.graph import Graph, Tensor
from llamaweb.operations.gated_delta_net import gated_delta_net
from llamaweb.operations.ssm_conv import ssm_conv
from llamaweb.rope import Rope


@dataclass(frozen=True)
class DeltaNet:
    """Heads of `size` numbers, `n_key` of them with keys and `n_value` with values, behind a convolution of `taps`.
    grouped: neighbouring heads share keys, whose betas and alphas then are of one product. eps: of norms."""

    size: int
    n_key: int
    n_value: int
    taps: int
    grouped: bool
    eps: float


def delta_net(meta: Metadata, eps: float, *, grouped: bool = False) -> DeltaNet:
    size, n_key = meta.count("ssm.state_size", largest=256), meta.count("ssm.group_count", largest=4096)
    n_value = meta.count("ssm.time_step_rank", largest=4096)
    if n_value % n_key:
        raise unsound(
            f"{meta.prefix}.ssm.time_step_rank of {n_value} heads does not divide into ssm.group_count, {n_key}"
        )
    if (width := meta.count("ssm.inner_size")) != size * n_value:
        raise unsound(
            f"{meta.prefix}.ssm.inner_size is {width}, not ssm.state_size, {size}, times ssm.time_step_rank, {n_value}"
        )
    return DeltaNet(size, n_key, n_value, meta.count("ssm.conv_kernel", largest=16), grouped, eps)


def recurrent(meta: Metadata, n_layer: int) -> tuple[bool, ...]:
    """Whether each layer is."""
    told = meta.value("attention.recurrent_layers", None)
    if told is not None:
        if not isinstance(told, np.ndarray) or told.dtype.kind not in "biu" or len(told) != meta.count("block_count"):
            raise ModelFileError(
                f"{meta.prefix}.attention.recurrent_layers is {short(told)}, not true or false for each layer."
            )
        return tuple(bool(each) for each in told[:n_layer])
    interval = meta.count("full_attention_interval", 4)
    return tuple((i + 1) % interval != 0 for i in range(n_layer))


def behind_mixer(
    g: Graph, b: Blocks, x: Tensor, p: str, sizes: Decoder, rotation: Rope, net: DeltaNet | None
) -> Tensor:
    """x and what the layer's mixer adds to it: its delta net or, without one, its attention."""
    h = b.norm(x, p + "attn_norm")
    a = mixed(g, b, h, p, net) if net else gated_attention(g, b, h, p, sizes, rotation)
    return ops.add(g, x, a, p + "attn_residual")


def mixed(g: Graph, b: Blocks, x: Tensor, p: str, net: DeltaNet) -> Tensor:
    """The layer's delta net over x."""
    width = net.size * net.n_value
    qkv = b.product(x, p + "attn_qkv", 2 * net.n_key * net.size + width)
    z = b.product(x, p + "attn_gate", width)
    if net.grouped:
        both, each = b.product(x, p + "ssm_ba", 2 * net.n_value), net.n_value // net.n_key
        beta, alpha = (
            ops.heads_of(g, both, first, each, 2 * each, p + f"ssm_{name}")
            for first, name in ((0, "beta"), (each, "alpha"))
        )
    else:
        beta, alpha = (b.product(x, p + f"ssm_{name}", net.n_value) for name in ("beta", "alpha"))
    qkv = ssm_conv(g, qkv, g.weight(p + "ssm_conv1d.weight", net.taps, qkv.row), p + "ssm_conv")
    qkv = ops.unary(g, "silu", qkv, p + "ssm_conv_act")
    dt_bias, a = g.weight(p + "ssm_dt.bias", net.n_value), g.weight(p + "ssm_a", net.n_value)
    sizes = (net.size, net.n_key)
    y = gated_delta_net(g, qkv, alpha, beta, dt_bias, a, sizes, net.eps, p + "delta", grouped=net.grouped)
    y = ops.rms_norm(g, y, g.weight(p + "ssm_norm.weight", net.size), net.eps, p + "ssm_norm")
    y = ops.elementwise(g, ("mul", 0, ("silu", 1)), (y, z), p + "ssm_gated")
    return b.product(y, p + "ssm_out", x.row)


def gated_attention(g: Graph, b: Blocks, x: Tensor, p: str, sizes: Decoder, rotation: Rope) -> Tensor:
    """The layer's attention over x, times the sigmoid of a gate that lies beside each head's query."""
    n, d = sizes.n_head, sizes.head_dim
    both = b.product(x, p + "attn_q", 2 * n * d)
    q, gate = (ops.heads_of(g, both, first, d, 2 * d, p + part) for part, first in (("q", 0), ("gate", d)))
    k, v = (b.product(x, p + f"attn_{part}", sizes.n_head_kv * d) for part in "kv")
    a = b.attend(*b.head_norms(q, k, p), v, p, rotation)
    gated = ops.elementwise(g, ("mul", 0, ("sigmoid", 1)), (a, gate), p + "attn_gated")
    return b.product(gated, p + "attn_output", sizes.n_embd)
