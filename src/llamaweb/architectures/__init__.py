"""Architectures: one file a family, found by the name in `general.architecture`."""

from __future__ import annotations

from typing import Protocol

from llamaweb.architectures import llama
from llamaweb.errors import UnsupportedError
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


class Hyperparameters(Protocol):
    """What the planner and the user need of any family; a family's own dataclass has more."""

    n_layer: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int


class Architecture(Protocol):
    """The module of a family."""

    def hyperparameters(self, file: GGUFFile) -> Hyperparameters:
        """Read and check the family's metadata."""

    def build(self, graph: Graph, hparams: Hyperparameters) -> None:
        """Add the family's operations to the graph."""


ARCHITECTURES = {"llama": llama}


def architecture(file: GGUFFile):  # type: ignore[no-untyped-def]  # a module that follows Architecture
    """The module for a file's architecture; raises UnsupportedError that names an unknown one."""
    name = file.architecture
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedError(f"The model's architecture {name!r} is not supported yet; use one of: {known}.")
    return ARCHITECTURES[name]
