"""What every kind of tokenizer shares: special tokens, BOS and EOS, and the way back to bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from gguf import TokenType

from llamaweb.errors import LlamaWebError, UnsupportedError
from llamaweb.tokenizer.attributes import stripping
from llamaweb.tokenizer.detokenize import StreamDecoder
from llamaweb.tokenizer.special import SpecialTokens
from llamaweb.tokenizer.vocabulary import Vocabulary


class Tokenizer(ABC):
    """Text to token ids, equal to llama.cpp's, and back to the same bytes."""

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.n_vocab: int = len(vocabulary.tokens)
        self.bos: int | None = vocabulary.bos
        self.eos: int | None = vocabulary.eos
        self.eog: frozenset[int] = vocabulary.eog
        self.add_bos: bool = vocabulary.add_bos
        self.add_eos: bool = vocabulary.add_eos
        self._before = [self.bos] if self.add_bos and self.bos is not None else []
        self._behind = [self.eos] if self.add_eos and self.eos is not None else []

        self._space_prefix = False

        types = vocabulary.types
        hidden = np.flatnonzero((types == TokenType.CONTROL) | (types == TokenType.UNKNOWN)).tolist()
        added = np.flatnonzero(types == TokenType.USER_DEFINED).tolist()
        self._hidden = frozenset(hidden)
        special = sorted(hidden + added)
        strips = stripping(metadata, vocabulary.ids, frozenset(special))
        self._added = SpecialTokens(((vocabulary.tokens[token], token) for token in added), strips)
        self._special = SpecialTokens(((vocabulary.tokens[token], token) for token in special), strips)
        self._pieces: dict[int, bytes] = {}

    @abstractmethod
    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        """Ids of a text without special tokens; whether it `begins` the whole or follows a special token."""

    @abstractmethod
    def _plain_bytes(self, text: bytes) -> bytes:
        """What a token of type NORMAL stands for."""

    def encode(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text. Bytes need not be UTF-8.

        `add_special` adds what the model wants around a text (BOS, EOS); `parse_special` reads control tokens that are
        written out in the text (`<|im_start|>`) as such, which text of strangers must not do.
        """
        data = text.encode(errors="surrogatepass") if isinstance(text, str) else bytes(text)
        ids = [*self._before] if add_special else []
        begins = True
        for part in (self._special if parse_special else self._added).split(data):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_text(part, begins=begins)
            begins = isinstance(part, int)
        return ids + self._behind if add_special else ids

    def encode_prompt(self, text: str | bytes, *, parse_special: bool = False) -> list[int]:
        """Token ids of a text that is to be gone on from: with BOS if the model wants it, which is not doubled where
        the text (a chat template's, say) writes it too, and never with EOS, behind which nothing of sense comes."""
        ids = self.encode(text, add_special=False, parse_special=parse_special)
        return ids if ids[:1] == self._before else self._before + ids

    def encode_fill_in(self, prefix: str | bytes, suffix: str | bytes) -> list[int]:
        """Token ids of a prompt for what stands between two texts, which a model has to know, in the order of prefix,
        suffix, middle, as llama.cpp; UnsupportedError if its vocabulary has no tokens for it."""
        if not self._vocabulary.fill_in:
            raise UnsupportedError("The model has no tokens to fill in the middle of a text; give no suffix.")
        before, behind, middle = self._vocabulary.fill_in
        texts = [self.encode(text, add_special=False) for text in (prefix, suffix)]
        return [*self._before, before, *texts[0], behind, *texts[1], middle]

    def written(self, token: int | None) -> str:
        """How a special token is written in a text; "" for None."""
        return "" if token is None else self.token_bytes(token, special=True).decode(errors="replace")

    def encode_to_evaluate(self, text: str | bytes) -> list[int]:
        """Token ids of a text whose perplexity is wanted: with BOS if the model wants it, without EOS, special tokens
        not parsed. LlamaWebError if they are fewer than two."""
        ids = self._before + self.encode(text, add_special=False)
        if len(ids) < 2:
            found = "a single token" if ids else "empty"
            raise LlamaWebError(f"The text is {found}, but a perplexity needs at least two; give a longer one.")
        return ids

    def token_bytes(self, id: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; control and unknown tokens give b"" unless `special`."""
        if id in self._hidden and not special:
            return b""
        piece = self._pieces.get(id)
        if piece is None:
            piece = self._pieces[id] = self._piece(id)
        return piece

    def decode(self, ids: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of a list of tokens, without the space that encoding put before the first of them."""
        pieces = [self.token_bytes(id, special=special) for id in ids]
        if self._space_prefix and pieces:
            pieces[0] = pieces[0].removeprefix(b" ")
        return b"".join(pieces)

    def stream_decoder(self, special: bool = False) -> StreamDecoder:
        """A decoder for tokens that come one by one."""
        return StreamDecoder(partial(self.token_bytes, special=special))

    def _check(self, token: int) -> None:
        if not 0 <= token < self.n_vocab:
            raise LlamaWebError(f"There is no token {token}: the model's ids go from 0 to {self.n_vocab - 1}.")

    def _piece(self, token: int) -> bytes:
        self._check(token)
        text, token_type = self._vocabulary.tokens[token], int(self._vocabulary.types[token])
        match token_type:
            case TokenType.NORMAL:
                return self._plain_bytes(text)
            case TokenType.CONTROL | TokenType.UNKNOWN | TokenType.USER_DEFINED:
                return text
            case TokenType.BYTE:
                return _byte(text)
        return b""  # unused ids, kept for later additions to the vocabulary


def _byte(text: bytes) -> bytes:
    """The byte of a token that is written <0x41>."""
    try:
        return bytes.fromhex(text[3:5].decode())
    except ValueError:
        return b""
