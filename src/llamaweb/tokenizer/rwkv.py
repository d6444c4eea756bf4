"""RWKV's tokenizer: `tokenizer.ggml.model` = "rwkv". A text is cut into the longest tokens there are, from the left.

Tokens are any bytes; in the file they are written with the escapes of Python's bytes, \\n or \\xff.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llamaweb.errors import LlamaWebError
from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.prefixes import of_vocabulary
from llamaweb.tokenizer.vocabulary import read_vocabulary, token_id

_ESCAPE = re.compile(rb"\\(?:x(..)|x.?\Z|(.)|\Z)", re.DOTALL)
_CONTROLS = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class RWKVTokenizer(Tokenizer):
    """A tokenizer of RWKV's World models from a GGUF file's metadata; nothing is put around a text."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, read_vocabulary(metadata, bos=None, eos=None, add_bos=False))
        self._before, self._behind = [], []
        self._unknown = token_id(metadata, "unknown", self.n_vocab)
        ids = {unescape(text): id for id, text in enumerate(self._vocabulary.tokens)}
        ids.pop(b"", None)
        self._tokens, self._prefixes = list(ids.values()), of_vocabulary(list(ids))

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        longest, lengths, tokens = self._prefixes.everywhere(data), self._prefixes.lengths, self._tokens
        ids, at = [], 0
        while at < len(data):
            token = longest[at]
            if token >= 0:
                ids.append(tokens[token])
                at += lengths[token]
            else:
                ids.append(self._of_unknown(data[at]))
                at += 1
        return ids

    def _of_unknown(self, byte: int) -> int:
        if self._unknown is None:
            raise LlamaWebError(
                f"The model's vocabulary has no token for the byte 0x{byte:02X}; leave that character out of the text."
            )
        return self._unknown

    def _piece(self, token: int) -> bytes:
        self._check(token)
        return unescape(self._vocabulary.tokens[token])

    def _plain_bytes(self, text: bytes) -> bytes:
        return unescape(text)


def unescape(text: bytes) -> bytes:
    """The bytes that a token's text stands for; an escape that is cut off for none."""
    return _ESCAPE.sub(_unescaped, text) if b"\\" in text else text


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1]:
        high, low = (digit - ord("a") + 10 if digit >= ord("a") else digit - ord("0") for digit in match[1])
        return bytes((((high << 4) + low) & 0xFF,))
    return _CONTROLS.get(match[2], match[2]) if match[2] else b""
