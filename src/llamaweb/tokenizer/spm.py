"""SentencePiece's tokenizer with scores (Kudo & Richardson 2018): `tokenizer.ggml.model` = "llama".

Characters are merged with their neighbours, best score first, as llama.cpp does it for Llama 2, Mistral and Gemma.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from llamaweb.errors import LlamaWebError
from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.merging import Merger
from llamaweb.tokenizer.vocabulary import flag, read_vocabulary, scores
from llamaweb.tokenizer.words import SPACE, Words, word_pattern

BOS, EOS = 1, 2  # in files that name none

# A symbol is as long as its first byte says, whatever follows: text need not be valid UTF-8.
_SYMBOL = re.compile(rb"[\xc0-\xdf].?|[\xe0-\xef].{0,2}|[\xf0-\xff].{0,3}|.", re.DOTALL)


class SPMTokenizer(Tokenizer):
    """A SentencePiece tokenizer from a GGUF file's metadata."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, read_vocabulary(metadata, bos=BOS, eos=EOS, add_bos=True))
        self._ids = self._vocabulary.ids
        # The scores with their sign turned: the lowest is merged first, and what is no number last.
        self._costs = array("f", np.nan_to_num(-scores(metadata, self.n_vocab), nan=np.inf).tobytes())
        self._merge = Merger(self._cost)
        self._space_prefix = flag(metadata, "add_space_prefix", True)
        self._bytes = [self._ids.get(b"<0x%02X>" % byte, self._ids.get(bytes((byte,)))) for byte in range(256)]
        self._word = word_pattern(self._vocabulary.tokens)
        self._words = Words(lambda word: self._encode_word(word.encode()))

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        if self._space_prefix and begins:
            data = b" " + data
        data = data.replace(b" ", SPACE)
        try:
            text = data.decode()
        except UnicodeDecodeError:  # a symbol may then reach into the next word
            return self._encode_word(data)
        return self._words.encode(self._word.findall(text))

    def _encode_word(self, data: bytes) -> list[int]:
        ids: list[int] = []
        for piece in self._merge(_SYMBOL.findall(data)):
            token = self._ids.get(piece)
            if token is not None:
                ids.append(token)
            else:
                ids += map(self._byte_token, piece)
        return ids

    def _cost(self, left: bytes, right: bytes) -> float | None:
        token = self._ids.get(left + right)
        return None if token is None else self._costs[token]

    def _byte_token(self, byte: int) -> int:
        token = self._bytes[byte]
        if token is None:  # llama.cpp ends with an exception here, too
            raise LlamaWebError(
                f"The model's vocabulary has no token for the byte 0x{byte:02X}; leave that character out of the text."
            )
        return token

    def _plain_bytes(self, text: bytes) -> bytes:
        return text.replace(SPACE, b" ")
