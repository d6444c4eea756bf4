"""SentencePiece's unigrams (Kudo 2018): `tokenizer.ggml.model` = "t5", also of multilingual embeddings.

A text is normalized, then cut into the tokens whose scores have the greatest sum (Viterbi 1967).
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping
from typing import Any

import numpy as np
from gguf import TokenType

from llamaweb.tokenizer.base import Tokenizer
from llamaweb.tokenizer.charsmap import CharsMap
from llamaweb.tokenizer.prefixes import Nested, of_vocabulary
from llamaweb.tokenizer.vocabulary import damaged, flag, needed_id, read_vocabulary, scores, token_types
from llamaweb.tokenizer.words import SPACE, WordBatches, word_pattern

EOS, UNKNOWN = 1, 2  # in files that name none
PENALTY = np.float32(10)  # of a character that is no token, below the lowest score
CHARSMAP = "tokenizer.ggml.precompiled_charsmap"
CACHED_PIECES, CACHED_PIECE_LENGTH = 16384, 64
NESTED = (
    32  # tokens that begin with one another; SentencePiece's have at most 16 characters, unless it is told otherwise
)
MOST_KEPT = 4096  # bytes of a user's token, far more than any has

_END = b"\0"  # of a word; no token has it inside
_CHARACTER = re.compile(rb"[\0-\x7f]|[\xc0-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf7][\x80-\xbf]{3}")
_LENGTHS = [1] * 12 + [2, 2, 3, 4]  # of a character, by the upper half of its first byte
_REPLACEMENT = "\ufffd".encode()


class UGMTokenizer(Tokenizer):
    """A tokenizer of unigrams from a GGUF file's metadata."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, read_vocabulary(metadata, bos=None, eos=EOS, add_bos=False, add_eos=True))
        self._unknown = needed_id(metadata, "unknown", self.n_vocab, UNKNOWN)
        tokens, of_token = self._vocabulary.tokens, scores(metadata, self.n_vocab)
        types = token_types(metadata, self.n_vocab)
        normal = of_token[types == TokenType.NORMAL]
        self._unknown_score = float(normal.min(initial=np.float32(np.finfo(np.float32).max)) - PENALTY)
        of_token[self._vocabulary.types == TokenType.USER_DEFINED] = 0
        kinds = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)
        self._tokens = [id for id in np.flatnonzero(np.isin(types, kinds)).tolist() if _END not in tokens[id]]
        self._prefixes = of_vocabulary([tokens[id] for id in self._tokens], NESTED)
        self._nested = Nested(self._prefixes, of_token[self._tokens].tolist())
        self._word = word_pattern(tokens)
        self._words = WordBatches(self._encode_words)
        self._space_prefix = flag(metadata, "add_space_prefix", False)
        self._merge_spaces = flag(metadata, "remove_extra_whitespaces", False)
        self._normal = Normalizer(
            _charsmap(metadata), [tokens[id] for id in np.flatnonzero(types == TokenType.USER_DEFINED).tolist()]
        )

    def _encode_text(self, data: bytes, *, begins: bool) -> list[int]:
        text = self._spaced(self._normal(data)).decode(errors="surrogateescape")
        ids: list[int] = []
        for id in self._words.encode(self._word.findall(text)):
            if id != self._unknown or ids[-1:] != [id]:  # of unknown ones in a row there is one
                ids.append(id)
        return ids

    def _spaced(self, data: bytes) -> bytes:
        """The text with its spaces as tokens have them."""
        if self._merge_spaces:
            return b"".join(SPACE + word for word in data.split(b" ") if word)
        word = data.lstrip(b" ")
        prefix = SPACE if self._space_prefix and word else b""
        return SPACE * (len(data) - len(word)) + prefix + word.replace(b" ", SPACE)

    def _encode_words(self, words: list[str]) -> list[list[int]]:
        spelled = [word.encode(errors="surrogateescape") for word in words]
        longest = self._prefixes.everywhere(_END.join(spelled))
        found, start = [], 0
        for word in spelled:
            found.append(self._best(word, longest[start : start + len(word)]))
            start += len(word) + len(_END)
        return found

    def _best(self, word: bytes, longest: memoryview) -> list[int]:
        """The tokens of a word with the best sum of scores. longest: the longest one that begins at each place."""
        nested = self._nested
        best = [0.0] + [-np.inf] * len(word)
        last = [(0, -1)] * (len(word) + 1)  # of the best way to a place: where its last token begins, and which it is
        at = 0
        while at < len(word):
            step = min(_LENGTHS[word[at] >> 4], len(word) - at)
            so_far, end, known = best[at], at + step, False
            for length, score, token in nested[longest[at]]:
                score += so_far
                to = at + length
                if score > best[to]:
                    best[to], last[to] = score, (at, token)
                known = known or to == end
            if not known and so_far + self._unknown_score > best[end]:
                best[end], last[end] = so_far + self._unknown_score, (at, -1)
            at = end
        ids = []
        while at:
            at, token = last[at]
            ids.append(self._unknown if token < 0 else self._tokens[token])
        return ids[::-1]

    def _plain_bytes(self, text: bytes) -> bytes:
        return text.replace(SPACE, b" ")


class Normalizer:
    """A text as its character map has it; what it shares with the beginning of a user's token stays as it is."""

    def __init__(self, charsmap: CharsMap | None, kept: list[bytes]) -> None:
        self._charsmap, self._kept = charsmap, sorted(kept)
        self._longest_kept = max(map(len, kept), default=0)
        if self._longest_kept > MOST_KEPT:
            raise damaged("one of its user-defined tokens is longer than a sound file's may be")
        self._first_kept = {token[0] for token in kept}
        quiet = set(range(1, 128) if charsmap is None else charsmap.quiet()) - self._first_kept
        self._quiet = re.compile(b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(quiet)) + b"]*" if quiet else b"")
        # Pieces between spaces are changed independently of each other, unless a key or a user's token has a space.
        spaced = any(b" " in token for token in kept) or (charsmap is not None and charsmap.has_label(ord(" ")))
        self._apart = not spaced
        self._remembered: dict[bytes, bytes] = {}

    def __call__(self, data: bytes) -> bytes:
        if not self._apart:
            return self._of(data)
        return b" ".join(
            [piece if self._quiet.fullmatch(piece) else self._of_piece(piece) for piece in data.split(b" ")]
        )

    def _of_piece(self, piece: bytes) -> bytes:
        found = self._remembered.get(piece)
        if found is None:
            if len(self._remembered) >= CACHED_PIECES:
                self._remembered.clear()
            found = self._of(piece)
            if len(piece) <= CACHED_PIECE_LENGTH:
                self._remembered[piece] = found
        return found

    def _of(self, data: bytes) -> bytes:
        parts, at = [], 0
        while at < len(data):
            if length := self._kept_length(data, at):
                parts.append(data[at : at + length])
            elif self._charsmap is not None and (found := self._charsmap.longest(data, at)):
                length, text = found
                parts.append(text)
            elif character := _CHARACTER.match(data, at):
                length = len(character[0])
                parts.append(character[0])
            else:
                length = 1
                parts.append(_REPLACEMENT)
            at += length
        return b"".join(parts)

    def _kept_length(self, data: bytes, at: int) -> int:
        """How many bytes from here on are those that some user's token begins with."""
        if data[at] not in self._first_kept:
            return 0
        text = data[at : at + self._longest_kept]
        place = bisect(self._kept, text)
        return max(_shared(text, token) for token in self._kept[max(0, place - 1) : place + 1])


def _shared(first: bytes, second: bytes) -> int:
    """How many bytes two texts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _charsmap(metadata: Mapping[str, Any]) -> CharsMap | None:
    value = metadata.get(CHARSMAP)
    if value is None:
        return None
    if (
        not isinstance(value, np.ndarray)
        or value.ndim != 1
        or value.dtype.kind not in "iu"
        or value.dtype.itemsize != 1
    ):
        raise damaged(f"{CHARSMAP} is not a list of bytes")
    return CharsMap(value.tobytes())
