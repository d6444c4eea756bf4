"""Text and DNA: `tokenizer.ggml.model` = "hybriddna". What stands between <dna> and </dna> is cut into pieces of six
bases, the rest by byte-pair encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llamaweb.tokenizer.bpe import BPETokenizer

BASES = 6  # a token
_MARK = "\ue000".encode()  # behind a token of bases in the file, which tells it from the same letters of a text
_DNA = re.compile(rb"<dna>(.*?)(</dna>|\Z)", re.DOTALL)


class HybridDNATokenizer(BPETokenizer):
    """A tokenizer of text and DNA from a GGUF file's metadata; of text alone if tokens for DNA are missing."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        self._dna = [self._ids.get(name) for name in (b"<dna>", b"</dna>", b"<oov>")]

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        begin, end, unknown = self._dna
        if begin is None or end is None or unknown is None:
            return super()._encode_text(data, begins=begins)
        ids: list[int] = []
        done = 0
        for found in _DNA.finditer(data):
            ids += super()._encode_text(data[done : found.start()], begins=begins)
            tokens = (self._ids.get(piece + _MARK) for piece in _pieces(found[1]))
            ids += [begin, *(unknown if token is None else token for token in tokens)]
            ids += [end] if found[2] else []
            done = found.end()
        return ids + super()._encode_text(data[done:], begins=begins)

    def _piece(self, token: int) -> bytes:
        piece = super()._piece(token)
        unknown = self._dna[-1]
        return piece.removesuffix(_MARK) if unknown is not None and token > unknown else piece


def _pieces(bases: bytes) -> Iterator[bytes]:
    """Six capital letters each, the last filled up with A."""
    capitals = bases.upper()
    return (capitals[at : at + BASES].ljust(BASES, b"A") for at in range(0, len(capitals), BASES))
