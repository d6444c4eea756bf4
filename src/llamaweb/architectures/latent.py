"""Multi-head latent attention (arXiv:2405.04434): keys and values of all heads are products of one row a token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks
from llamaweb.architectures.metadata import Metadata, rope, unsound
from llamaweb.errors import ModelFileError
from llamaweb.graph import Graph, Tensor
from llamaweb.operations.mul_mat_heads import mul_mat_heads
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Latent:
    """rank: numbers of the row that keys and values are made of; q_rank: of that of queries; 0: they have none. nope,
    pe, value: of a head's query or key, those without and those with a position, and of its value. absorbed: the rows
    themselves are cached and attended to, by queries that the products of keys have gone into; else keys and values
    are. rope: of what is attended to. scale: of scores."""

    rank: int
    q_rank: int
    nope: int
    pe: int
    value: int
    absorbed: bool
    rope: Rope
    scale: float

    @property
    def head_dim(self) -> int:
        """Of keys as they are cached."""
        return (self.rank if self.absorbed else self.nope) + self.pe


def latent(meta: Metadata) -> Latent:
    lengths = [meta.optional_count(f"attention.{part}_length_mla") for part in ("key", "value")]
    absorbed = all(lengths)
    if any(lengths) and not absorbed:
        raise unsound(f"Of {meta.prefix}.attention.key_length_mla and value_length_mla the file tells one alone")
    key, value = lengths if absorbed else [meta.count(f"attention.{part}_length") for part in ("key", "value")]
    rank, rotation = meta.count("attention.kv_lora_rank"), rope(meta, "norm", key, yarn_told=True)
    nope = key - rotation.n_dims
    if not nope:
        raise unsound(f"All {key} numbers of {meta.prefix}'s keys are rotated, which leaves none of its rows")
    rotation, scale = _scaled(meta, replace(rotation, offset=rank if absorbed else nope))
    q_rank = meta.optional_count("attention.q_lora_rank")
    return Latent(rank, q_rank, nope, rotation.n_dims, value, absorbed, rotation, scale * key**-0.5)


def _scaled(meta: Metadata, rotation: Rope) -> tuple[Rope, float]:
    """The rotation and a factor of scores, as llama.cpp has them: scores grow with the logarithm of a scaling's factor,
    and with YaRN the rotation, too, unless a multiplier of the logarithm is told, which is of scores alone."""
    told, growth = meta.number("rope.scaling.attn_factor", 1.0), 0.1 * math.log(rotation.factor)
    multiplier = 10 * meta.number("rope.scaling.yarn_log_multiplier", 0.0)  # which is kept as a tenth of it
    if 1 + growth <= 0:
        raise ModelFileError(f"The rope scaling factor {rotation.factor:g} is too small to be meant; convert it again.")
    if rotation.yarn:
        rotation = replace(rotation, attn_factor=told / (1 + growth) if multiplier else told)
    of_rotation = rotation.magnitude if rotation.yarn else told * (1 + growth)
    scale = (of_rotation * (1 + multiplier * growth)) ** 2
    if not 0 < scale < 1e30:
        raise ModelFileError(f"{meta.prefix}.rope.scaling makes scores {scale:g} times as large; convert it again.")
    return rotation, scale


def attention(g: Graph, b: Blocks, x: Tensor, p: str, m: Latent, n_head: int, n_embd: int, **options: Any) -> Tensor:
    """The layer's attention and the product behind it; options of ops.flash_attn."""
    if m.q_rank:
        q = b.norm(b.product(x, p + "attn_q_a", m.q_rank), p + "attn_q_a_norm", m.q_rank)
        q = b.product(q, p + "attn_q_b", n_head * (m.nope + m.pe))
    else:
        q = b.product(x, p + "attn_q", n_head * (m.nope + m.pe))
    row = b.product(x, p + "attn_kv_a_mqa", m.rank + m.pe)
    k_pe = ops.view(g, row, m.rank, m.pe, p + "attn_k_pe")
    row = b.norm(ops.view(g, row, 0, m.rank, p + "attn_kv_row"), p + "attn_kv_a_norm", m.rank)
    if m.absorbed:
        q_nope = ops.heads_of(g, q, 0, m.nope, m.nope + m.pe, p + "attn_q_nope")
        q_pe = ops.heads_of(g, q, m.nope, m.pe, m.nope + m.pe, p + "attn_q_pe")
        k_b = g.weight(p + "attn_k_b.weight", m.nope, m.rank, n_head)
        q_row = mul_mat_heads(g, k_b, q_nope, p + "attn_k_b")
        q = ops.concat(g, (q_row, q_pe), (m.rank, m.pe), p + "attn_q_heads")
        k = ops.concat(g, (row, k_pe), (m.rank, m.pe), p + "attn_k_heads")
        rows = b.attend(q, k, None, p, m.rope, head_dim_v=m.rank, scale=m.scale, **options)
        a = mul_mat_heads(g, g.weight(p + "attn_v_b.weight", m.rank, m.value, n_head), rows, p + "attn_v_b")
    else:
        kv = b.product(row, p + "attn_kv_b", n_head * (m.nope + m.value))
        k_nope = ops.heads_of(g, kv, 0, m.nope, m.nope + m.value, p + "attn_k_nope")
        k = ops.concat(g, (k_nope, k_pe), (m.nope, m.pe), p + "attn_k_heads")
        v = ops.heads_of(g, kv, m.nope, m.value, m.nope + m.value, p + "attn_v")
        a = b.attend(q, k, v, p, m.rope, head_dim_v=m.value, scale=m.scale, **options)
    return b.product(a, p + "attn_output", n_embd)
