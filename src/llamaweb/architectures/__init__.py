"""Architectures: the family of a model, found by the name in `general.architecture`, and what families share."""

from __future__ import annotations

import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from llamaweb import families
from llamaweb.errors import UnsupportedError, short
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


class Architecture(Protocol):
    """The module of a family. Its hyperparameters are a frozen dataclass of its own, with at least n_layer, n_head,
    n_head_kv, head_dim, n_vocab and n_ctx_train."""

    def hyperparameters(self, file: GGUFFile) -> Any:
        """Read and check the family's metadata."""

    def build(self, graph: Graph, hparams: Any) -> None:
        """Add the family's operations to the graph."""


_LONGEST = 64  # characters of a name that is looked for


@cache
def supported() -> tuple[str, ...]:
    """The names of all families: their files'."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(families.__path__)))


def architecture(file: GGUFFile) -> Architecture:
    """The module for a file's architecture; raises UnsupportedError that names an unknown one, and those nearest to
    it."""
    name = file.architecture
    wanted = name[:_LONGEST].replace("_", "-")
    wanted = wanted if len(name) <= _LONGEST else f"{wanted}…"  # which is none
    if wanted not in supported():
        near = get_close_matches(wanted, supported(), 3, 0.5) or ("llama", "gemma3", "qwen3")
        raise UnsupportedError(
            f"The model's architecture {short(name)} is not supported yet; use a model of one that is, such as "
            f"{', '.join(near)}."
        )
    return import_module(f"{families.__name__}.{wanted.replace('-', '_')}")
