"""Model files that tests read."""

from __future__ import annotations

import os
from pathlib import Path


def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf: the file that LLAMAWEB_SMOLLM2 names, or the cached default model."""
    return _path("smollm2")


def gemma3_path() -> Path:
    """gemma-3-270m-q4_k_m.gguf: the file that LLAMAWEB_GEMMA3 names, or the cached model."""
    return _path("gemma3")


def _path(name: str) -> Path:
    named = os.environ.get(f"LLAMAWEB_{name.upper()}")
    if named:
        return Path(named)
    from llamaweb.host import models

    return Path(models.resolve(name))
