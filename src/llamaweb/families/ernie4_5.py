"""ernie4_5: ERNIE 4.5 without experts. As llama."""

from __future__ import annotations

from llamaweb.architectures.blocks import Dense, dense
from llamaweb.families.llama import build
from llamaweb.model.gguf_file import GGUFFile

__all__ = ["build", "hyperparameters"]


def hyperparameters(file: GGUFFile) -> Dense:
    return dense(file, "norm")
