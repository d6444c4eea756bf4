"""Byte-pair encoding over bytes (Sennrich et al. 2016, as in GPT-2): `tokenizer.ggml.model` = "gpt2"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamaweb.strings import Index
from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.byte_level import SYMBOLS, decode_utf8, token_to_bytes
from llamaweb.tokenizer.merging import Merger
from llamaweb.tokenizer.pretokenizers import pre_tokenizer, splitter
from llamaweb.tokenizer.vocabulary import read_vocabulary, strings

CACHED_WORDS = 16384
CACHED_WORD_LENGTH = 64
HERITAGE = 11  # BOS and EOS in files that name none: they were so in the first vocabularies made from GPT-2's


class BPETokenizer(Tokenizer):
    """A byte-level BPE tokenizer from a GGUF file's metadata."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        rule = pre_tokenizer(metadata.get("tokenizer.ggml.pre"))
        bos = HERITAGE if rule.default_bos else None
        super().__init__(read_vocabulary(metadata, bos=bos, eos=HERITAGE, add_bos=rule.add_bos))
        self._split = splitter(rule)
        self._ignore_merges = rule.ignore_merges
        self._ids = self._vocabulary.ids
        # Merges, written `left right`, to their rank; of a merge that stands twice the first counts.
        self._ranks = Index(strings(metadata, "tokenizer.ggml.merges"))
        self._merge = Merger(lambda left, right: self._ranks.get(left + b" " + right))
        self._words: dict[str, list[int]] = {}

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        ids: list[int] = []
        words = self._words
        for word in self._split(decode_utf8(data)):
            found = words.get(word)
            if found is None:
                found = self._encode_word(word)
                if len(word) <= CACHED_WORD_LENGTH:
                    if len(words) >= CACHED_WORDS:
                        words.clear()
                    words[word] = found
            ids += found
        return ids

    def _encode_word(self, word: str) -> list[int]:
        symbols = [SYMBOLS[byte] for byte in word.encode(errors="surrogatepass")]
        whole = self._ids.get(b"".join(symbols)) if self._ignore_merges else None
        if whole is not None:
            return [whole]
        ids: list[int] = []
        for piece in self._merge(symbols):
            token = self._ids.get(piece)
            if token is not None:
                ids.append(token)
            else:  # merged to something that is no token: what single bytes of it there are
                ids += [single for byte in piece if (single := self._ids.get(bytes((byte,)))) is not None]
        return ids

    def _plain_bytes(self, text: bytes) -> bytes:
        return token_to_bytes(text)
