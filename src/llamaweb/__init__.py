"""Large language models in the browser, planned and run by Python on WebGPU."""

from __future__ import annotations

import sys

from llamaweb.errors import LlamaWebError

__all__ = ["LlamaWebError"]

if sys.platform == "emscripten":
    from llamaweb.llama import Llama, Perplexity, Progress

    __all__ += ["Llama", "Perplexity", "Progress"]
