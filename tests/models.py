"""Model files that tests read."""

from __future__ import annotations

import os
from pathlib import Path


def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf: the file that LLAMAWEB_SMOLLM2 names, or the cached default model."""
    named = os.environ.get("LLAMAWEB_SMOLLM2")
    if named:
        return Path(named)
    from llamaweb.host import models

    return Path(models.resolve("smollm2"))
