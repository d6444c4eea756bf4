"""Where a case lies in two buffers: one of which its kernels only read, and one that they write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llamaweb.kernels import library
from llamaweb.kernels.checks.case import Case, Data, Run, Weight, whole

READ, WRITTEN = 0, 1
_ALIGNMENT = 256
_GUARD = 256  # bytes behind a slot, where what a kernel writes beyond it lands


@dataclass(frozen=True)
class Range:
    buffer: int
    at: int
    size: int


@dataclass(frozen=True)
class Laid:
    """ranges: of slots, and of what the weight is repacked from. runs: all kernels, and the ranges of their slots.
    bytes: of both buffers. found: bytes of all that is expected."""

    case: Case
    runs: tuple[tuple[Run, tuple[Range, ...]], ...]
    writes: tuple[tuple[Range, Data], ...]
    results: tuple[tuple[Range, Data], ...]
    bytes: tuple[int, int]

    @property
    def found(self) -> int:
        return sum(len(part.at) * part.row_bytes for _, part in self.results)


def lay_out(case: Case) -> Laid:
    ranges: dict[str, Range] = {}
    ends = [0, 0]

    def place(name: str, buffer: int, size: int) -> None:
        size = -(-(size + _GUARD) // _ALIGNMENT) * _ALIGNMENT
        ranges[name] = Range(buffer, ends[buffer], size)
        ends[buffer] += size

    access = {_name(run, slot.name): slot.access for run in case.runs for slot in run.kernel.slots}
    sizes = case.slots | (_weight_slots(case.weight) if case.weight else {})
    for name in access:
        place(name, READ if access[name] == "read" else WRITTEN, sizes.get(name, 0))
    data = [(name, part) for part in case.data for name in (part.slot,)]
    runs = []
    if case.weight:
        w = case.weight
        if w.format.codebook:
            data.append(("w_codes", whole("w_codes", w.format.codebook.data())))
        if not w.format.repacked:
            data += [("w_qs", part) for part in _rows(w)]
        else:
            for run, raw, job in _repacking(w):
                place(raw.slot, WRITTEN, raw.end)
                place(job.slot, WRITTEN, job.end)
                data += [(raw.slot, raw), (job.slot, job)]
                runs.append(run)
    return Laid(
        case,
        tuple((run, tuple(ranges[_name(run, slot.name)] for slot in run.kernel.slots)) for run in (*runs, *case.runs)),
        tuple((ranges[name], part) for name, part in data),
        tuple((ranges[part.slot], part) for part in case.expected),
        (ends[READ], ends[WRITTEN]),
    )


def _name(run: Run, slot: str) -> str:
    return run.renamed.get(slot, slot)


def _weight_slots(w: Weight) -> dict[str, int]:
    """Bytes of the planes up to the last row that is there, in whole units."""
    last, unit = max(first + count for first, count in w.groups), w.format.unit
    blocks = -(-last * w.k // w.format.block_size // unit) * unit
    codes = {"w_codes": w.format.codebook.data().nbytes} if w.format.codebook else {}
    return {f"w_{plane.name}": blocks * plane.bytes for plane in w.format.planes} | codes


def _rows(w: Weight) -> Iterator[Data]:
    """The rows of each group, as the file has them."""
    begin = 0
    for first, count in w.groups:
        yield whole("w_qs", w.raw[begin : begin + count], first * w.raw.shape[1])
        begin += count


def _repacking(w: Weight) -> Iterator[tuple[Run, Data, Data]]:
    """The upload's own kernel over the rows of each group, and its input."""
    blocks, begin = w.k // w.format.block_size, 0
    for i, (first, count) in enumerate(w.groups):
        raw = w.raw[begin : begin + count].reshape(-1)
        raw = np.pad(raw, (0, -len(raw) % 4))
        units = -(-count * blocks // w.format.unit)
        launch = library.repack(w.format, units)
        job = np.array([units, first * blocks], np.uint32)
        names = {"raw": f"raw{i}", "job": f"job{i}"}
        yield Run(launch.kernel, launch.workgroups, names), whole(names["raw"], raw), whole(names["job"], job)
        begin += count


def slack(slots: int) -> int:
    """What lies behind so many slots, at most."""
    return slots * (_GUARD + _ALIGNMENT)
