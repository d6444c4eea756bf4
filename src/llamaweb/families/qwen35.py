"""qwen35: Qwen 3.5. Most layers are gated delta nets, every fourth a gated attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.metadata import Metadata, of_text
from llamaweb.errors import ModelFileError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations.gated_delta_net import gated_delta_net
from llamaweb.operations.ssm_conv import ssm_conv


@dataclass(frozen=True)
class Qwen35Hyperparameters(Dense):
    """recurrent: whether each layer is. size: of the heads of delta nets, n_key of them with keys and n_value with
    values."""

    recurrent: tuple[bool, ...]
    size: int
    n_key: int
    n_value: int
    taps: int


def hyperparameters(file: GGUFFile) -> Qwen35Hyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    size, n_key = meta.count("ssm.state_size", largest=256), meta.count("ssm.group_count", largest=4096)
    n_value = meta.count("ssm.time_step_rank", largest=4096)
    if n_value % n_key or meta.count("ssm.inner_size") != size * n_value:
        raise ModelFileError(
            f"{n_value} heads of {size} values with {n_key} keys contradict the other sizes of qwen35."
        )
    return Qwen35Hyperparameters(
        **vars(replace(common, rope=of_text(common.rope, meta))),
        recurrent=_recurrent(meta, common.n_layer),
        size=size,
        n_key=n_key,
        n_value=n_value,
        taps=meta.count("ssm.conv_kernel", largest=16),
    )


def _recurrent(meta: Metadata, n_layer: int) -> tuple[bool, ...]:
    told = meta.value("attention.recurrent_layers", None)
    if isinstance(told, np.ndarray) and len(told) >= n_layer:
        return tuple(bool(each) for each in told[:n_layer])
    interval = meta.count("full_attention_interval", 4)
    return tuple((i + 1) % interval != 0 for i in range(n_layer))


def build(graph: Graph, hparams: Qwen35Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    width = hp.size * hp.n_value

    def attention(x: Tensor, p: str) -> Tensor:
        n, d = hp.n_head, hp.head_dim
        both = b.product(x, p + "attn_q", 2 * n * d)
        q, gate = (ops.heads_of(g, both, first, d, 2 * d, p + part) for part, first in (("q", 0), ("gate", d)))
        k, v = (b.product(x, p + f"attn_{part}", hp.n_head_kv * d) for part in "kv")
        a = b.attend(*b.head_norms(q, k, p), v, p, hp.rope)
        gated = ops.elementwise(g, ("mul", 0, ("sigmoid", 1)), (a, gate), p + "attn_gated")
        return b.product(gated, p + "attn_output", hp.n_embd)

    def delta_net(x: Tensor, p: str) -> Tensor:
        qkv = b.product(x, p + "attn_qkv", 2 * hp.n_key * hp.size + width)
        z = b.product(x, p + "attn_gate", width)
        beta, alpha = (b.product(x, p + f"ssm_{name}", hp.n_value) for name in ("beta", "alpha"))
        qkv = ssm_conv(g, qkv, g.weight(p + "ssm_conv1d.weight", hp.taps, qkv.row), p + "ssm_conv")
        qkv = ops.unary(g, "silu", qkv, p + "ssm_conv_act")
        dt_bias, a = g.weight(p + "ssm_dt.bias", hp.n_value), g.weight(p + "ssm_a", hp.n_value)
        y = gated_delta_net(g, qkv, alpha, beta, dt_bias, a, (hp.size, hp.n_key), hp.eps, p + "delta")
        y = ops.rms_norm(g, y, g.weight(p + "ssm_norm.weight", hp.size), hp.eps, p + "ssm_norm")
        y = ops.elementwise(g, ("mul", 0, ("silu", 1)), (y, z), p + "ssm_gated")
        return b.product(y, p + "ssm_out", hp.n_embd)

    x = b.embeddings()
    for p, recurrent in zip(b.layers(), hp.recurrent, strict=True):
        h = b.norm(x, p + "attn_norm")
        x = ops.add(g, x, delta_net(h, p) if recurrent else attention(h, p), p + "attn_residual")
        h = b.norm(x, p + "post_attention_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
