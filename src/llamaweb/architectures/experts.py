"""Mixtures of experts: what the metadata tell of them, refused where it cannot be meant."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb.architectures.metadata import Metadata, unsound
from llamaweb.errors import UnsupportedError
from llamaweb.operations.experts import Gating

MOST = 1024  # experts, that the choice among them has room for
_GATINGS: dict[int, Gating] = {1: "softmax", 2: "sigmoid", 3: "softmax_weight"}  # by their numbers in files


@dataclass(frozen=True)
class Experts:
    """`used` of `count` experts, `n_ff` values wide, compute a token's feed forward, and of those that share every
    token's, `n_ff_shared` values (0: there are none). The rest is as of ops.top_k."""

    count: int
    used: int
    n_ff: int
    n_ff_shared: int = 0
    gating: Gating = "softmax"
    norm: bool = False
    scale: float = 1.0
    groups: tuple[int, int] = (1, 1)


def experts(
    meta: Metadata, n_ff: int, *, gating: Gating = "softmax", norm: bool = False, scale: float = 1.0
) -> Experts:
    """Of a family that always has them, `n_ff` values wide. gating, norm, scale: the family's."""
    count, used = (meta.count(key, largest=MOST) for key in ("expert_count", "expert_used_count"))
    if used > count:
        raise unsound(f"{meta.prefix}.expert_used_count is {used}, more than the {count} experts that there are")
    return Experts(
        count,
        used,
        n_ff,
        meta.optional_count("expert_shared_feed_forward_length"),
        gating,
        norm,
        scale,
        _groups(meta, count, used),
    )


def optional_experts(meta: Metadata, n_ff: int, *, norm: bool = True) -> Experts | None:
    """Of a family that may have them."""
    return experts(meta, n_ff, norm=norm) if meta.optional_count("expert_count") else None


def told_width(meta: Metadata, n_ff: int) -> int:
    """Of an expert: unless the file tells, those that a token has are together as wide as a dense layer."""
    return meta.optional_count("expert_feed_forward_length") or n_ff // meta.count("expert_used_count")


def told_gating(meta: Metadata, default: Gating | None = None) -> Gating:
    """Raises ModelFileError where the file does not tell and there is no default."""
    number = meta.optional_count("expert_gating_func") if default else meta.count("expert_gating_func")
    if number and number not in _GATINGS:
        raise UnsupportedError(
            f"{meta.prefix}.expert_gating_func is {number}, which is not supported yet; those from 1 to 3 are."
        )
    return _GATINGS[number] if number or not default else default


def _groups(meta: Metadata, count: int, used: int) -> tuple[int, int]:
    """How many groups there are, and how many of them are chosen among."""
    n, chosen = (meta.optional_count(key) for key in ("expert_group_count", "expert_group_used_count"))
    if n < 2:
        return 1, 1
    if count % n or not 0 < chosen <= n or chosen * (count // n) < used:
        raise unsound(
            f"{meta.prefix} asks for {used} of {count} experts out of {chosen} of {n} groups, which cannot be"
        )
    return n, chosen
