"""Tables for people: what `llamaweb bench` measured."""

from __future__ import annotations

import io
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from llamaweb.host.output import megabytes, memory_line


def bench_text(result: dict[str, Any]) -> str:
    """The whole result of a bench."""
    lines = [_speeds(result)]
    if result.get("profile"):
        lines.append(profile_text(result["profile"]))
    lines.append(f"{result['model']} on {result['adapter']}, {result['runtime']}; loaded in {_seconds(result)} s")
    lines.append(f"{memory_line(result['memory'])}; {result['dispatches_per_token']} dispatches a token")
    if result.get("floor_ratio"):
        lines.append(f"Decoding runs at {result['floor_ratio']:.2f} of the yardstick")
    if peer := result.get("peer"):
        on = "GPU" if peer.get("on_gpu") else f"CPU, {peer.get('threads')} threads"
        lines.append(f"{peer['engine']}: {peer.get('error') or 'on the ' + on}")
    return "\n".join(lines)


def loading_text(result: dict[str, Any]) -> str:
    """The whole result of a bench of loading."""
    files = f" in {result['files']} files" if result["files"] > 1 else ""
    rate, plain = (megabytes(result[f"{name}_bytes_per_second"]) for name in ("load", "plain"))
    beside = f"{result['load_ratio']:.2f} of the plain loop's {plain}/s"
    return "\n".join(
        (
            f"{result['model']}{files} on {result['adapter']}, {result['runtime']}; a context of {result['context']}",
            f"{memory_line(result['memory'])}, {megabytes(result['heap_growth'])} more than an empty one",
            f"{megabytes(result['bytes'])} loaded at {rate}/s, {beside}",
            f"First token {result['first_token_ms'] / 1e3:.2f} s after loading began, from the browser's storage",
        )
    )


def tune_text(result: dict[str, Any]) -> str:
    """What was tried for each shape: the default, the fastest and the slowest variant, and what was chosen."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("kernel", "default µs", "chosen µs", "worst µs", "tried", "wrong", "chosen variant"):
        table.add_column(name, justify="left" if name.startswith(("kernel", "chosen v")) else "right", no_wrap=True)
    by_shape: dict[str, list[dict[str, Any]]] = {}
    for trial in result["trials"]:
        by_shape.setdefault(trial["shape"], []).append(trial)
    for shape, trials in by_shape.items():
        # A default that does not compile was not timed, and of variants that are all wrong none is chosen.
        default, chosen = (next((t for t in trials if t[name]), None) for name in ("default", "chosen"))
        worst = max(trials, key=lambda t: t["microseconds"])
        table.add_row(
            shape,
            *(f"{trial['microseconds']:,.1f}" if trial else "" for trial in (default, chosen, worst)),
            str(len(trials)),
            str(sum(not t["right"] for t in trials)),
            chosen["variant"] if chosen else "none is right",
        )
    return f"Kernels on {result['adapter']}, each at best:\n{_text(table)}"


def profile_text(profile: dict[str, Any]) -> str:
    """A profile's report, a table for each phase."""
    peaks = profile["peaks"]
    of_device = (
        f"device: {peaks['bytes_per_second'] / 1e9:,.1f} GB/s, {peaks['flops_per_second'] / 1e9:,.0f} GFLOP/s, "
        f"{peaks['dispatch_us']:,.1f} µs an empty dispatch"
    )
    return "\n".join(_phase(phase, profile["source"], of_device) for phase in profile["phases"])


def _speeds(result: dict[str, Any]) -> str:
    n_prompt, n_generated, depth = result["prompt_tokens"], result["gen_tokens"], result["depth"]
    behind = f" behind {depth}" if depth else ""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", f"prefill of {n_prompt}", f"decode of {n_generated}"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("llamaweb", _rate(result, "prefill"), _rate(result, "decode"))
    if floor := result.get("floor"):
        table.add_row("yardstick", "", f"{floor['per_second']:,.1f}")
    peer = result.get("peer")
    if peer and "error" not in peer:
        table.add_row(peer["engine"], _rate(peer, "prefill"), _rate(peer, "decode"))
    return f"Tokens a second{behind}: median (all repetitions)\n{_text(table)}"


def _rate(result: dict[str, Any], what: str) -> str:
    each = ", ".join(f"{value:,.1f}" for value in result[f"{what}_all"])
    return f"{result[f'{what}_per_second']:,.1f} ({each})"


def _phase(phase: dict[str, Any], source: str, of_device: str) -> str:
    tokens = f"{phase['n_tokens']} tokens" if phase["n_tokens"] > 1 else "a token"
    title = f"{phase['phase']}: {tokens} behind {phase['n_past']}, by {source} ({of_device})"
    summary = (
        f"{phase['dispatches']} dispatches take {phase['dispatch_us']:,.0f} µs one kind after the other, "
        f"{phase['pass_us']:,.0f} µs in order, the whole {phase['whole_us']:,.0f} µs: "
        f"{phase['gap_us']:,.2f} µs between two"
    )
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("kernel", "format", "shape"):
        table.add_column(name, no_wrap=True)
    for name in ("count", "µs", "each", "share", "GB/s", "of peak", "GFLOP/s", "of peak"):
        table.add_column(name, justify="right", no_wrap=True)
    for k in phase["kernels"]:
        seconds = k["us"] / 1e6
        table.add_row(
            k["kernel"],
            k["format"],
            k["shape"],
            str(k["count"]),
            f"{k['us']:,.0f}",
            f"{k['us'] / k['count']:,.1f}",
            f"{k['share']:.1%}",
            f"{k['bytes'] / seconds / 1e9:,.1f}",
            f"{k['of_peak_bytes']:.0%}",
            *((f"{k['flops'] / seconds / 1e9:,.1f}", f"{k['of_peak_flops']:.0%}") if k["flops"] else ("", "")),
        )
    return f"{title}\n{_text(table)}\n{summary}\n"


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['load_ms'] / 1e3:.1f}"


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
