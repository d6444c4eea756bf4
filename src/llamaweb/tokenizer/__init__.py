"""Text to tokens and back, as the model file describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llamaweb.errors import UnsupportedError, short
from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.bpe import BPETokenizer
from llamaweb.tokenizer.detokenize import StreamDecoder
from llamaweb.tokenizer.gemma4 import Gemma4Tokenizer
from llamaweb.tokenizer.hybriddna import HybridDNATokenizer
from llamaweb.tokenizer.plamo2 import PLaMo2Tokenizer
from llamaweb.tokenizer.rwkv import RWKVTokenizer
from llamaweb.tokenizer.spm import SPMTokenizer
from llamaweb.tokenizer.ugm import UGMTokenizer
from llamaweb.tokenizer.whitespace import WhitespaceTokenizer
from llamaweb.tokenizer.wpm import WPMTokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]

KINDS: dict[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "gpt2": BPETokenizer,
    "llama": SPMTokenizer,
    "gemma4": Gemma4Tokenizer,
    "bert": WPMTokenizer,
    "t5": UGMTokenizer,
    "rwkv": RWKVTokenizer,
    "plamo2": PLaMo2Tokenizer,
    "hybriddna": HybridDNATokenizer,
    "whitespace": WhitespaceTokenizer,
}


def load_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes.

    UnsupportedError names a kind that is not there yet; ModelFileError says what is damaged.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind not in KINDS:
        found = "no tokenizer" if kind is None else f"a tokenizer of the kind {short(kind)}"
        raise UnsupportedError(f"The model file has {found}; supported so far: {', '.join(KINDS)}.")
    return KINDS[kind](metadata)
