"""granitemoe: Granite 3 with experts, which granite's graph has; positions are always rotated."""

from __future__ import annotations

from dataclasses import replace

from llamaweb.architectures.blocks import dense
from llamaweb.families import granite
from llamaweb.families.granite import GraniteHyperparameters, build
from llamaweb.model.gguf_file import GGUFFile

__all__ = ["build", "hyperparameters"]


def hyperparameters(file: GGUFFile) -> GraniteHyperparameters:
    return replace(granite.hyperparameters(file), rotation=dense(file, "norm").rope)
