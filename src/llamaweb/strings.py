"""Many strings, as the hundreds of thousands of a vocabulary, in little more memory than their bytes. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_REMEMBERED = 16384  # lookups
_SHOWN = 40  # bytes of a string in a repr


class Strings(Sequence[bytes]):
    """An array of strings: one run of bytes, and where each ends in it."""

    def __init__(self, data: bytes, ends: np.ndarray) -> None:
        self.data = data
        self._ends = ends.astype(np.int32, copy=False)

    @classmethod
    def of(cls, strings: Iterable[bytes]) -> Strings:
        found = StringsBuilder()
        for string in strings:
            found.append(string)
        return found.strings()

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate((np.zeros(1, np.int32), self._ends))[:-1]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self._ends, prepend=np.int32(0))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return self.data[self._ends[i - 1] if i else 0 : self._ends[i]]

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self._ends.tolist():
            yield self.data[start:end]
            start = end

    def __contains__(self, value: object) -> bool:
        return isinstance(value, bytes) and self._place(value) is not None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return self.data == other.data and np.array_equal(self._ends, other._ends)
        return isinstance(other, list) and len(self) == len(other) and list(self) == other

    def __repr__(self) -> str:
        first = [string[:_SHOWN] for string in self[:3]]
        return f"Strings({first}{'…' if len(self) > 3 else ''})"

    def joined(self, mark: bytes) -> bytes:
        """All of them in one, each behind a mark of one byte."""
        return np.insert(np.frombuffer(self.data, np.uint8), self.starts, mark[0]).tobytes()

    def tolist(self) -> list[bytes]:
        return list(self)

    def _place(self, value: bytes) -> int | None:
        if not value:
            return next(iter(np.flatnonzero(self.lengths == 0).tolist()), None)
        at = self.data.find(value)
        while at >= 0:
            place = int(np.searchsorted(self._ends, at, side="right"))
            if self._ends[place] == at + len(value) and (not place or self._ends[place - 1] == at):
                return place
            at = self.data.find(value, at + 1)
        return None


class StringsBuilder:
    """Strings that come one by one."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("i")

    def __len__(self) -> int:
        return len(self._ends)

    def append(self, string: bytes) -> None:
        self._data += string
        self._ends.append(len(self._data))

    def strings(self) -> Strings:
        return Strings(bytes(self._data), np.array(self._ends, np.int32))


class Index:
    """The place of a string among many; of one that stands several times, the first.

    Strings of the same length lie sorted in one numpy array each, where a search takes microseconds; the answers to
    the last questions are remembered.
    """

    def __init__(self, strings: Strings) -> None:
        data, starts, lengths = np.frombuffer(strings.data, np.uint8), strings.starts, strings.lengths
        self._sorted: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by length: strings, and their places
        self._empty: int | None = None  # the place of an empty one
        self._remembered: dict[bytes, int | None] = {}
        self.twice: bytes | None = None  # a string that stands several times
        by_length = np.argsort(lengths, kind="stable").astype(np.int32)
        for places in np.split(by_length, np.flatnonzero(np.diff(lengths[by_length])) + 1):
            length = int(lengths[places[0]]) if len(places) else 0
            if not length:
                self._empty = int(places[0]) if len(places) else None
                self.twice = b"" if len(places) > 1 else None
                continue
            rows = data[starts[places, None] + np.arange(length, dtype=np.int32)].view(f"S{length}").ravel()
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
            self._sorted[length] = rows, places[order]
            same = np.flatnonzero(rows[1:] == rows[:-1])
            if len(same) and self.twice is None:
                self.twice = strings[int(places[order[same[0]]])]

    def get(self, string: bytes, default: int | None = None) -> int | None:
        try:
            found = self._remembered[string]
        except KeyError:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            found = self._remembered[string] = self._search(string)
        return default if found is None else found

    def __contains__(self, string: bytes) -> bool:
        return self.get(string) is not None

    def __getitem__(self, string: bytes) -> int:
        found = self.get(string)
        if found is None:
            raise KeyError(string)
        return found

    def _search(self, string: bytes) -> int | None:
        if len(string) not in self._sorted:
            return self._empty if not string else None
        rows, places = self._sorted[len(string)]
        at = int(rows.searchsorted(string))
        # numpy leaves out zero bytes at the end; in strings of one length that makes no two alike.
        return int(places[at]) if at < len(rows) and rows[at] == string.rstrip(b"\0") else None
