"""Tables of plain text, and a profile in them: the same in the page and on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def text_table(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under the names of their columns, each aligned to the left ("<") or the right (">"). Spaces behind a name
    tell it from another column's and are not shown."""
    names = [name.rstrip() for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    aligned = [
        "   ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, columns.values(), widths, strict=True))
        for row in (names, *rows)
    ]
    head, *lines = [f"  {line}".rstrip() for line in aligned]
    return "\n".join(["", head, " " + "─" * (sum(widths) + 3 * len(widths) - 1), *lines, ""])


def profile_text(profile: Mapping[str, Any]) -> str:
    """A profile's report, a table for each phase."""
    peaks = profile["peaks"]
    of_device = (
        f"device: {peaks['bytes_per_second'] / 1e9:,.1f} GB/s, {peaks['flops_per_second'] / 1e9:,.0f} GFLOP/s, "
        f"{peaks['dispatch_us']:,.1f} µs an empty dispatch"
    )
    return "\n".join(_phase(phase, profile["source"], of_device) for phase in profile["phases"])


def _phase(phase: Mapping[str, Any], source: str, of_device: str) -> str:
    tokens = f"{phase['n_tokens']} tokens" if phase["n_tokens"] > 1 else "a token"
    title = f"{phase['phase']}: {tokens} behind {phase['n_past']}, by {source} ({of_device})"
    summary = (
        f"{phase['dispatches']} dispatches take {phase['dispatch_us']:,.0f} µs one kind after the other, "
        f"{phase['pass_us']:,.0f} µs in order, the whole {phase['whole_us']:,.0f} µs: "
        f"{phase['gap_us']:,.2f} µs between two"
    )
    names = ("kernel", "format", "shape", "count", "µs", "each", "share", "GB/s", "of peak", "GFLOP/s", "of peak ")
    columns = {name: "<" if i < 3 else ">" for i, name in enumerate(names)}
    return f"{title}\n{text_table(columns, [_kernel(k) for k in phase['kernels']])}\n{summary}\n"


def _kernel(k: Mapping[str, Any]) -> list[str]:
    seconds = k["us"] / 1e6
    times = [str(k["count"]), f"{k['us']:,.0f}", f"{k['us'] / k['count']:,.1f}", f"{k['share']:.1%}"]
    moved = [_rate(k["bytes"] / seconds), f"{k['of_peak_bytes']:.0%}"]
    computed = [_rate(k["flops"] / seconds), f"{k['of_peak_flops']:.0%}"] if k["flops"] else ["", ""]
    return [k["kernel"], k["format"], k["shape"], *times, *moved, *computed]


def _rate(per_second: float) -> str:
    """In units of 10^9; a software adapter has little of them."""
    return f"{per_second / 1e9:,.{1 if per_second >= 1e9 else 3}f}"
