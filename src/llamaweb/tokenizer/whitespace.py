"""Byte-pair encoding of what stands between white space, which is dropped: `tokenizer.ggml.model` = "whitespace"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamaweb.tokenizer.bpe import BPETokenizer
from llamaweb.tokenizer.byte_level import decode_utf8
from llamaweb.tokenizer.characters import lower
from llamaweb.tokenizer.patterns import compile_pattern
from llamaweb.tokenizer.vocabulary import flag

_SEGMENT = compile_pattern(r"\S+")


class WhitespaceTokenizer(BPETokenizer):
    """A tokenizer of jina-embeddings-v2-base-zh from a GGUF file's metadata."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        by_rule = metadata.get("tokenizer.ggml.pre") != "whitespace"
        self._lowercase = flag(metadata, "normalizer.lowercase", by_rule)

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        text = decode_utf8(data)
        if self._lowercase:
            text = "".join(map(lower, text))
        return self._words.encode(word for segment in _SEGMENT.findall(text) for word in self._split(segment))
