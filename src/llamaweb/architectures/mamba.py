"""The mixer of Mamba 2 (arXiv:2405.21060), of which recurrent and hybrid families are put together."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks
from llamaweb.architectures.metadata import Metadata, unsound
from llamaweb.graph import Graph, Tensor
from llamaweb.operations.ssm_conv import ssm_conv
from llamaweb.operations.ssm_scan import ssm_scan


@dataclass(frozen=True)
class Mamba2:
    """d_inner: width of all heads together. n_group: groups of heads that share B and C. eps: of the norm behind it."""

    d_inner: int
    d_state: int
    d_conv: int
    n_head: int
    n_group: int
    eps: float

    @property
    def head_dim(self) -> int:
        return self.d_inner // self.n_head


def mamba2(meta: Metadata) -> Mamba2:
    found = Mamba2(
        d_inner=meta.count("ssm.inner_size"),
        d_state=meta.count("ssm.state_size", largest=256),
        d_conv=meta.count("ssm.conv_kernel", largest=16),
        n_head=meta.count("ssm.time_step_rank", largest=4096),
        n_group=meta.count("ssm.group_count", largest=4096),
        eps=meta.number("attention.layer_norm_rms_epsilon"),
    )
    if found.d_inner % found.n_head or found.n_head % found.n_group:
        raise unsound(
            f"{meta.prefix}.ssm.inner_size of {found.d_inner} does not divide into the heads of ssm.time_step_rank, "
            f"{found.n_head}, or these into the groups of ssm.group_count, {found.n_group}"
        )
    return found


def mixed(g: Graph, b: Blocks, x: Tensor, p: str, m: Mamba2, n_embd: int, *, may_lack_norm: bool = False) -> Tensor:
    """The layer's mixer over x: convolution, recurrence, gate, norm of groups. may_lack_norm: so may the file."""
    width = m.d_inner + 2 * m.n_group * m.d_state
    inner = b.product(x, p + "ssm_in", m.d_inner + width + m.n_head)
    z, xbc, dt = (
        ops.view(g, inner, first, row, p + part)
        for part, first, row in (
            ("ssm_z", 0, m.d_inner),
            ("ssm_xbc", m.d_inner, width),
            ("ssm_dt", m.d_inner + width, m.n_head),
        )
    )
    taps, bias = g.weight(p + "ssm_conv1d.weight", m.d_conv, width), g.optional_weight(p + "ssm_conv1d.bias", width)
    xbc = ops.unary(g, "silu", ssm_conv(g, xbc, taps, p + "ssm_conv", bias), p + "ssm_conv_act")
    dt_bias = g.weight(p + "ssm_dt.bias", m.n_head)
    a, d = (g.weight(p + name, 1, m.n_head) for name in ("ssm_a", "ssm_d"))
    y = ssm_scan(g, xbc, dt, dt_bias, a, d, (m.head_dim, m.d_state, m.n_group), p + "ssm_scan")
    y = ops.elementwise(g, ("mul", 0, ("silu", 1)), (y, z), p + "ssm_gated")
    size = m.d_inner // m.n_group
    if not may_lack_norm or g.has(p + "ssm_norm.weight"):
        weight = g.weight(p + "ssm_norm.weight", size, m.n_group)
        y = ops.rms_norm(g, y, weight, m.eps, p + "ssm_norm", size=size)
    return b.product(y, p + "ssm_out", n_embd)
