"""Byte-pair encoding (Sennrich et al. 2016, over bytes as in GPT-2): `tokenizer.ggml.model` = "gpt2"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamaweb.strings import Index, Strings
from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.byte_level import SYMBOLS, decode_utf8, token_to_bytes
from llamaweb.tokenizer.merging import Merger
from llamaweb.tokenizer.pretokenizers import PreTokenizer, pre_tokenizer, splitter
from llamaweb.tokenizer.vocabulary import read_vocabulary, strings
from llamaweb.tokenizer.words import SPACE, Words, word_pattern

HERITAGE = 11  # BOS and EOS in files that name none: they were so in the first vocabularies made from GPT-2's
MERGES = "tokenizer.ggml.merges"


class BPETokenizer(Tokenizer):
    """A BPE tokenizer from a GGUF file's metadata."""

    def __init__(
        self, metadata: Mapping[str, Any], rule: PreTokenizer | None = None, default_eos: int | None = HERITAGE
    ) -> None:
        """rule: None for the one that the metadata names."""
        rule = pre_tokenizer(metadata.get("tokenizer.ggml.pre")) if rule is None else rule
        bos = HERITAGE if rule.default_bos else None
        if rule.always_bos:
            metadata = {**metadata, "tokenizer.ggml.add_bos_token": True}
        super().__init__(metadata, read_vocabulary(metadata, bos=bos, eos=default_eos, add_bos=rule.add_bos))
        self._rule, self._split = rule, splitter(rule)
        self._ids = self._vocabulary.ids
        # Merges, written `left right`, to their rank; of a merge that stands twice the first counts.
        needed = rule.needs_merges or MERGES in metadata
        merges = strings(metadata, MERGES) if needed else Strings.of(())
        self._ranks = Index(merges)
        self._merge = Merger(lambda left, right: self._ranks.get(left + b" " + right))
        self._words = Words(self._encode_word)
        self._word = word_pattern(merges) if rule.escape_whitespaces else None

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        text = decode_utf8(data)
        if self._word is None:
            return self._words.encode(self._split(text))
        lines = self._split(text.replace(" ", SPACE.decode()))
        return self._words.encode(word for line in lines for word in self._word.findall(line))

    def _encode_word(self, word: str) -> list[int]:
        rule = self._rule
        if rule.byte_level:
            symbols = [SYMBOLS[byte] for byte in word.encode(errors="surrogatepass")]
        else:
            symbols = [character.encode(errors="surrogatepass") for character in word]
        if rule.ignore_merges or (rule.whole_newlines and not word.strip("\n")):
            whole = self._ids.get(b"".join(symbols))
            if whole is not None:
                return [whole]
        ids: list[int] = []
        for piece in self._merge(symbols):
            token = self._ids.get(piece)
            if token is not None:
                ids.append(token)
            else:  # merged to something that is no token: what single bytes of it there are
                ids += [single for byte in piece if (single := self._ids.get(self._byte_token(byte))) is not None]
        return ids

    def _byte_token(self, byte: int) -> bytes:
        return bytes((byte,)) if self._rule.byte_level else b"<0x%02X>" % byte

    def _plain_bytes(self, text: bytes) -> bytes:
        if self._rule.escape_whitespaces:
            return text.replace(SPACE, b" ")
        return token_to_bytes(text) if self._rule.byte_level else text
