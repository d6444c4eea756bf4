"""qwen3next: Qwen 3 Next. As qwen35moe, in whose delta nets neighbouring heads share their keys."""

from __future__ import annotations

from functools import partial

from llamaweb.families import qwen35moe
from llamaweb.families.qwen35moe import build

__all__ = ["build", "hyperparameters"]

hyperparameters = partial(qwen35moe.hyperparameters, grouped=True)
