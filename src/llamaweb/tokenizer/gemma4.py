"""Gemma 4's tokenizer: `tokenizer.ggml.model` = "gemma4".

Byte-pair encoding by merges, as GPT-2's, over characters with spaces written ▁, as SentencePiece's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llamaweb.tokenizer.bpe import BPETokenizer
from llamaweb.tokenizer.pretokenizers import GEMMA4


class Gemma4Tokenizer(BPETokenizer):
    """A tokenizer of Gemma 4 from a GGUF file's metadata, whatever pre-tokenizer that names."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, replace(GEMMA4, default_bos=False), default_eos=None)
