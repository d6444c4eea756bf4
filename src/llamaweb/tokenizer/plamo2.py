"""PLaMo 2's tokenizer: `tokenizer.ggml.model` = "plamo2".

A text is cut into the tokens whose scores have the greatest sum, found from its end; characters without a token are
spelled in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import TokenType

from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.byte_level import decode_utf8
from llamaweb.tokenizer.prefixes import Nested, of_vocabulary
from llamaweb.tokenizer.vocabulary import damaged, read_vocabulary, scores, token_types

BOS, EOS = 1, 2  # in files that name none
SCALE = 1e4  # scores are whole multiples of its inverse
UNKNOWN, LOWEST = -10_000_000, -20_000_000  # the score of a character without a token, and that of no use
NESTED = 64  # tokens that begin with one another, more than it has
BYTE_ORDER_MARK = "\ufeff"


class PLaMo2Tokenizer(Tokenizer):
    """A tokenizer of PLaMo 2 from a GGUF file's metadata; nothing is put around a text."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, read_vocabulary(metadata, bos=BOS, eos=EOS, add_bos=False))
        self._before, self._behind = [], []
        types, of_token = token_types(metadata, self.n_vocab), scores(metadata, self.n_vocab).astype(np.float64)
        with np.errstate(invalid="ignore"):
            scaled = np.where(
                np.isfinite(of_token), np.copysign(np.floor(abs(of_token) * SCALE + 0.5), of_token), LOWEST
            )
        used = np.flatnonzero((types != TokenType.BYTE) & (scaled > LOWEST)).tolist()
        self._tokens = used
        self._prefixes = of_vocabulary([self._vocabulary.tokens[id] for id in used], NESTED)
        self._nested = Nested(self._prefixes, scaled[used].astype(int).tolist())
        self._bytes = [self._byte_token(byte) for byte in range(256)]

    def _byte_token(self, byte: int) -> int:
        token = self._vocabulary.ids.get(b"<0x%02X>" % byte)
        if not token or self._vocabulary.types[token] != TokenType.BYTE:
            raise damaged(f"it has no token for the byte 0x{byte:02X}")
        return token

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        text = decode_utf8(data).removeprefix(BYTE_ORDER_MARK)
        data = text.encode(errors="surrogatepass")
        longest, nested = self._prefixes.everywhere(data), self._nested
        best = [0] * (len(data) + 1)  # the sum of what follows a place
        first = [-1] * len(data)  # the token that is best there, -1 for the bytes of a character
        at = len(data)
        while at:
            end = at
            at -= 1
            while data[at] >> 6 == 0b10:
                at -= 1
            greatest, token = best[end] + UNKNOWN, -1
            for length, score, found in nested[longest[at]]:
                score += best[at + length]
                if score > greatest or (
                    score == greatest and token < 0
                ):  # of equal ones the longest, which comes first
                    greatest, token = score, found
            best[at], first[at] = greatest, token
        return self._along(data, first)

    def _along(self, data: bytes, first: list[int]) -> list[int]:
        """The ids of a text whose first token is known for each place."""
        ids, at = [], 0
        while at < len(data):
            token = first[at]
            if token >= 0:
                ids.append(self._tokens[token])
                at += self._prefixes.lengths[token]
            else:
                ids.append(self._bytes[data[at]])
                at += 1
        return ids

    def _piece(self, token: int) -> bytes:
        if 0 <= token < self.n_vocab and self._vocabulary.types[token] != TokenType.BYTE:
            return self._vocabulary.tokens[token]
        return super()._piece(token)

    def _plain_bytes(self, text: bytes) -> bytes:
        return text
