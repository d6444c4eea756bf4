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
    """The module of a family, called as `general.architecture` with _ for -, or else with that in ARCHITECTURE. Its
    hyperparameters are a frozen dataclass of its own, with at least n_layer, n_head, n_head_kv, head_dim, n_vocab and
    n_ctx_train."""

    def hyperparameters(self, file: GGUFFile) -> Any:
        """Read and check the family's metadata."""

    def build(self, graph: Graph, hparams: Any) -> None:
        """Add the family's operations to the graph."""


_LONGEST = 64  # characters of a name that is looked for


@cache
def _modules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(families.__path__))


def _family(module: str) -> tuple[str, Architecture]:
    """A family's architecture, and its module."""
    found = import_module(f"{families.__name__}.{module}")
    return getattr(found, "ARCHITECTURE", module.replace("_", "-")), found


def supported() -> tuple[str, ...]:
    """The architectures of all families."""
    return tuple(sorted(_family(module)[0] for module in _modules()))


def architecture(file: GGUFFile) -> Architecture:
    """The module for a file's architecture; raises UnsupportedError that names an unknown one, and those nearest to
    it."""
    name = file.architecture
    module = name.replace("-", "_") if len(name) <= _LONGEST else ""
    if module in _modules():
        told, found = _family(module)
        if told == name:
            return found
    near = [known for known in get_close_matches(name[:_LONGEST], supported(), 5, 0.5) if known[:3] == name[:3]]
    near = near[:3] or ["llama", "gemma3", "qwen3"]
    raise UnsupportedError(
        f"The model's architecture {short(name)} is not supported yet; use a model of one that is, such as "
        f"{', '.join(near)}."
    )
