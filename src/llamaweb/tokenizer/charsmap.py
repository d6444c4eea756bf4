"""SentencePiece's precompiled character map: what a text is changed into before it is cut into tokens.

Its keys lie in a double-array trie (Aoe 1989, as Darts-clone packs it, 32 bits a node), from which one comes to the
place of the text that a key becomes. A node's children lie where its base, exclusive-or'ed with their byte, points.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np

from llamaweb.errors import megabytes
from llamaweb.tokenizer.vocabulary import damaged

LONGEST = 32  # bytes of a key, several times as many as any has: one or a few characters, which are written as another
MOST = 4 << 20  # bytes of a map, twelve times as many as the largest has

_TOO_LONG = "its precompiled_charsmap has a key that is longer than a sound file's may be"

Found = tuple[int, bytes]  # how many bytes of the text are replaced, and by what


class CharsMap:
    """A map of the bytes in the file; ModelFileError if it points outside of itself."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MOST:
            told = f"{megabytes(len(data), ceil)}, more than the {megabytes(MOST, floor)} that a sound file may have"
            raise damaged(f"its precompiled_charsmap takes {told}")
        size = int.from_bytes(data[:4], "little")
        if size < 4 or size + 4 >= len(data):
            raise damaged("its precompiled_charsmap is cut off")
        units = np.frombuffer(data, "<u4", size // 4, 4)
        self._texts = data[4 + size :]
        self._bases = ((units >> 10) << ((units & 0x200) >> 6)).tolist()
        self._labels = (units & 0x800000FF).tolist()  # of a value no byte
        self._leaves = (units >> 8 & 1).tolist()
        self._values = (units & 0x7FFFFFFF).tolist()
        self._check(np.array(self._bases), units)

    def _check(self, bases: np.ndarray, units: np.ndarray) -> None:
        """That no byte of any text leads out of the map."""
        bytes_, size, end = np.arange(1, 256), len(units), self._texts.rfind(b"\0")
        seen = np.zeros(size, bool)
        waiting, length = bases[:1], 0
        while len(waiting):
            if (length := length + 1) > LONGEST + 1:
                raise damaged(_TOO_LONG)
            if int(waiting.max()) | 0xFF >= size:
                raise damaged("its precompiled_charsmap has a node outside of its trie")
            children = (waiting[:, None] ^ bytes_).ravel()
            of_byte = units[children] & 0x800000FF == np.tile(bytes_, len(waiting))
            children = np.unique(children[of_byte])
            children = children[~seen[children]]
            seen[children] = True
            waiting = children ^ bases[children]
            leaves = waiting[units[children] >> 8 & 1 == 1]
            if len(leaves) and (leaves.max() >= size or (units[leaves] & 0x7FFFFFFF).max() > end):
                raise damaged("its precompiled_charsmap has a text outside of its texts")

    def has_label(self, byte: int) -> bool:
        """Whether some key may have this byte."""
        return byte in self._labels

    def quiet(self) -> bytes:
        """The ASCII characters that stay as they are before any other one."""
        return bytes(byte for byte in range(1, 128) if not self._begins(byte))

    def _begins(self, byte: int) -> bool:
        """Whether a key is this byte or goes on with an ASCII one."""
        node = self._bases[0] ^ byte
        if self._labels[node] != byte:
            return False
        base = node ^ self._bases[node]
        return bool(self._leaves[node]) or any(self._labels[base ^ other] == other for other in range(1, 128))

    def longest(self, data: bytes, at: int) -> Found | None:
        """The longest key that the text goes on with, and what it becomes; None if there is none."""
        bases, labels, leaves = self._bases, self._labels, self._leaves
        node, found = bases[0], None
        for end in range(at, len(data)):
            byte = data[end]
            node ^= byte
            if not byte or labels[node] != byte:
                break
            leaf = leaves[node]
            node ^= bases[node]
            if leaf:
                found = end + 1, node
            if end - at >= LONGEST:
                raise damaged(_TOO_LONG)
        if found is None:
            return None
        end, node = found
        start = self._values[node]
        return end - at, self._texts[start : self._texts.index(b"\0", start)]
