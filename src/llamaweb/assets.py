"""Files the package carries beside its Python: WGSL templates and the demo pages."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def asset_dir(name: str) -> Path:
    """The folder `name` ("wgsl", "demo"): inside an installed package, or at the top of a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name
