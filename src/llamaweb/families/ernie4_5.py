"""ernie4_5: ERNIE 4.5 without experts. As llama."""

from __future__ import annotations

from llamaweb.architectures.blocks import dense
from llamaweb.families.llama import LlamaHyperparameters, build
from llamaweb.model.gguf_file import GGUFFile

__all__ = ["ARCHITECTURE", "build", "hyperparameters"]

ARCHITECTURE = "ernie4_5"


def hyperparameters(file: GGUFFile) -> LlamaHyperparameters:
    return LlamaHyperparameters(**vars(dense(file, "norm")), experts=None)
