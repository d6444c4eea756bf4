"""Large language models in the browser, planned and run by Python on WebGPU."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llamaweb.errors import LlamaWebError, OutsideBrowserError, inside_browser

if TYPE_CHECKING:
    from llamaweb.llama import Llama, Perplexity, Progress

__version__ = "0.1.0"  # the only place where it stands
__all__ = ["Llama", "LlamaWebError", "OutsideBrowserError", "Perplexity", "Progress"]

_IN_THE_PAGE = ("Llama", "Perplexity", "Progress")


def __getattr__(name: str) -> Any:
    """What needs a page comes when it is asked for, so that the rest can be imported anywhere."""
    if name not in _IN_THE_PAGE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with inside_browser(f"llamaweb.{name}"):
        return getattr(importlib.import_module("llamaweb.llama"), name)
