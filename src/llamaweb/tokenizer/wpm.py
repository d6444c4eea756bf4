"""WordPiece (Schuster & Nakajima 2012, as in BERT): `tokenizer.ggml.model` = "bert".

Words are cut into the longest tokens that there are, from the left. A token that begins a word is written with a ▁.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.byte_level import decode_utf8
from llamaweb.tokenizer.characters import base, lower
from llamaweb.tokenizer.patterns import compile_pattern
from llamaweb.tokenizer.prefixes import of_vocabulary
from llamaweb.tokenizer.vocabulary import flag, needed_id, read_vocabulary
from llamaweb.tokenizer.words import SPACE, WordBatches

BOS, UNKNOWN, SEPARATOR = 101, 100, 102  # in files that name none: [CLS], [UNK] and [SEP] of the first BERT
_END = b"\0"  # of a word; none has it inside

_CHINESE = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\uf900-\ufaff"
    "\U0002f800-\U0002fa1f"
)
_BLANK = compile_pattern(r"\s")
_DROPPED = compile_pattern("[\\p{C}\ufffd]")
_MARK = compile_pattern(r"\p{M}")
_WORD_BY_ITSELF = compile_pattern(r"[\p{P}$+<=>\^`|~" + _CHINESE + "]")


class WPMTokenizer(Tokenizer):
    """A WordPiece tokenizer from a GGUF file's metadata; every text is put between BOS and the separator."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, read_vocabulary(metadata, bos=BOS, eos=None, add_bos=True))
        self._before = [needed_id(metadata, "bos", self.n_vocab, BOS)]
        self._behind = [needed_id(metadata, "seperator", self.n_vocab, SEPARATOR)]
        self._unknown = needed_id(metadata, "unknown", self.n_vocab, UNKNOWN)
        lowercase = flag(metadata, "normalizer.lowercase", True)
        self._normal = _Normal(lowercase, flag(metadata, "normalizer.strip_accents", lowercase))
        ids = {text: id for id, text in enumerate(self._vocabulary.tokens) if _END not in text}
        self._tokens, self._prefixes = list(ids.values()), of_vocabulary(list(ids))
        self._words = WordBatches(self._encode_words)

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        return self._words.encode(decode_utf8(data).translate(self._normal).split())

    def _encode_words(self, words: list[str]) -> list[list[int]]:
        spelled = [SPACE + word.encode() for word in words]
        longest, lengths = self._prefixes.everywhere(_END.join(spelled)), self._prefixes.lengths
        found, start = [], 0
        for word in spelled:
            ids, at, end = [], start, start + len(word)
            while at < end and (token := longest[at]) >= 0:
                ids.append(self._tokens[token])
                at += lengths[token]
            found.append(ids if at == end else [self._unknown])
            start = end + len(_END)
        return found

    def _plain_bytes(self, text: bytes) -> bytes:
        return text.replace(SPACE, b" ")


class _Normal(dict[int, str]):
    """What becomes of a character, for str.translate: it is put between spaces if it is a word by itself."""

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self._lowercase, self._strip_accents = lowercase, strip_accents

    def __missing__(self, code: int) -> str:
        found = self[code] = self._of(chr(code))
        return found

    def _of(self, character: str) -> str:
        if self._strip_accents:
            character = base(character)
        if _BLANK.match(character):
            return " "
        if _DROPPED.match(character) or (self._strip_accents and _MARK.match(character)):
            return ""
        cased = lower(character) if self._lowercase else character
        return f" {cased} " if _WORD_BY_ITSELF.match(character) else cased
