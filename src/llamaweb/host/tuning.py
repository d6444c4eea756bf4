"""What tuning and the self-check found, kept between browsers that the command line starts: each has an empty storage
of its own."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from llamaweb.host import kept


def load() -> Any:
    """What was saved, as a page keeps it; None if there is nothing of any use."""
    try:
        return json.loads(_path().read_text())
    except (OSError, ValueError):
        return None


def save(found: Any) -> None:
    """Puts it in the place of what was there; where nothing can be written, nothing happens."""
    path = _path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept.put(path, json.dumps(found))


def _path() -> Path:
    return kept.cache_root() / "tuning.json"
