"""Architectures: one file a family, found by the name in `general.architecture`."""

from __future__ import annotations

from typing import Any, Protocol

from llamaweb.architectures import gemma3, llama, qwen2, qwen3, seed_oss, smollm3
from llamaweb.errors import UnsupportedError, short
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


class Architecture(Protocol):
    """The module of a family. Its hyperparameters are a frozen dataclass of its own, with at least n_layer, n_head_kv,
    head_dim, n_vocab and n_ctx_train."""

    def hyperparameters(self, file: GGUFFile) -> Any:
        """Read and check the family's metadata."""

    def build(self, graph: Graph, hparams: Any) -> None:
        """Add the family's operations to the graph."""


ARCHITECTURES: dict[str, Architecture] = {
    "gemma3": gemma3,
    "llama": llama,
    "qwen2": qwen2,
    "qwen2vl": qwen2,
    "qwen3": qwen3,
    "qwen3vl": qwen3,
    "seed_oss": seed_oss,
    "smollm3": smollm3,
}


def architecture(file: GGUFFile) -> Architecture:
    """The module for a file's architecture; raises UnsupportedError that names an unknown one."""
    name = file.architecture
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedError(f"The model's architecture {short(name)} is not supported yet; use one of: {known}.")
    return ARCHITECTURES[name]
