"""Tables for people: what `llamaweb bench` measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamaweb.host.kept import Kept
from llamaweb.host.output import megabytes, memory_line
from llamaweb.host.terminal import in_lines, one_line
from llamaweb.text_table import profile_text, text_table


def bench_text(result: dict[str, Any]) -> str:
    """The whole result of a bench."""
    result = in_lines(result)
    lines = [_speeds(result)]
    if result.get("profile"):
        lines.append(profile_text(result["profile"]))
    cache = f" with a cache in {result['type_k']}/{result['type_v']}" if "type_k" in result else ""
    precision = f" with --precision {result['precision']}" if "precision" in result else ""
    on = f"{result['adapter']}, {result['runtime']}"
    lines.append(f"{result['model']}{cache}{precision} on {on}; loaded in {_seconds(result)} s")
    lines.append(f"{memory_line(result['memory'])}; {result['dispatches_per_token']} dispatches a token")
    if result.get("floor_ratio"):
        lines.append(f"Decoding runs at {result['floor_ratio']:.2f} of the yardstick")
    elif "floor" in result:
        lines.append("The yardstick needs subgroups, which this device does not have")
    if peer := result.get("peer"):
        where = "GPU" if peer.get("on_gpu") else f"CPU, {peer.get('threads')} threads"
        lines.append(f"{peer['engine']}: {peer.get('error') or 'on the ' + where}")
    return "\n".join(lines)


def loading_text(result: dict[str, Any]) -> str:
    """The whole result of a bench of loading."""
    result = in_lines(result)
    files = f" in {result['files']} files" if result["files"] > 1 else ""
    rate, plain = (megabytes(result[f"{name}_bytes_per_second"]) for name in ("load", "plain"))
    beside = f"{result['load_ratio']:.2f} of the plain loop's {plain}/s"
    return "\n".join(
        (
            f"{result['model']}{files} on {result['adapter']}, {result['runtime']}; a context of {result['context']}",
            f"{memory_line(result['memory'])}, {megabytes(result['heap_growth'])} more than an empty one",
            f"{megabytes(result['bytes'])} loaded at {rate}/s, {beside}",
            f"First token {result['first_visit_ms'] / 1e3:.2f} s after loading began on the first visit, "
            f"{result['visit_ratio']:.2f} of the time without tuning; {result['first_token_ms'] / 1e3:.2f} s from the "
            "browser's storage",
            f"{result['decode_first']:,.1f} tokens a second then, {result['decode_tuned']:,.1f} after "
            f"{result['tuning_ms'] / 1e3:.1f} s of idling",
        )
    )


def fusions_text(result: dict[str, Any]) -> str:
    """The whole result of a bench of fusions."""
    result = in_lines(result)
    names = ("without", "dispatches", "tokens/s", "of all fused", "GPU µs a token", "what is left out")
    columns = {name: "<" if name in ("without", "what is left out") else ">" for name in names}
    whole = result["fusions"][0]
    rows = [
        [
            each["left_out"] or "(all fused)",
            str(each["dispatches_per_token"]),
            f"{each['decode_per_second']:,.1f}",
            f"{each['decode_per_second'] / whole['decode_per_second']:.2f}",
            f"{each['gpu_us']:,.0f}",
            each["what"],
        ]
        for each in result["fusions"]
    ]
    behind = f" behind {result['depth']}" if result["depth"] else ""
    return (
        f"Decoding {result['gen_tokens']} tokens{behind} without each fusion, with default kernels:\n"
        f"{text_table(columns, rows)}\n{result['model']} on {result['adapter']}, {result['runtime']}"
    )


def tune_text(result: dict[str, Any]) -> str:
    """What was tried for each shape: the default, the fastest and the slowest variant, and what was chosen."""
    result = in_lines(result)
    names = ("kernel", "default µs", "chosen µs", "worst µs", "tried", "wrong", "chosen variant")
    columns = {name: "<" if name.startswith(("kernel", "chosen v")) else ">" for name in names}
    rows = []
    by_shape: dict[str, list[dict[str, Any]]] = {}
    for trial in result["trials"]:
        by_shape.setdefault(trial["shape"], []).append(trial)
    for shape, trials in by_shape.items():
        # A default that does not compile was not timed, and of variants that are all wrong none is chosen.
        default, chosen = (next((t for t in trials if t[name]), None) for name in ("default", "chosen"))
        worst = max(trials, key=lambda t: t["microseconds"])
        times = [f"{trial['microseconds']:,.1f}" if trial else "" for trial in (default, chosen, worst)]
        counts = [str(len(trials)), str(sum(not t["right"] for t in trials))]
        rows.append([shape, *times, *counts, chosen["variant"] if chosen else "none is right"])
    return f"Kernels on {result['adapter']}, each at best:\n{text_table(columns, rows)}"


def cache_text(folder: str, there: Sequence[Kept], removed: Sequence[Kept] | None) -> str:
    """What is kept in the folder, after `removed` is gone from it (None: nothing was to be removed)."""
    lines = []
    if removed is not None:
        freed = megabytes(sum(each.bytes for each in removed))
        lines.append(
            f"Removed: {', '.join(one_line(each.name) for each in removed)} ({freed})"
            if removed
            else "Nothing was there"
        )
    if there:
        rows = [[one_line(each.name), each.kind, megabytes(each.bytes)] for each in there]
        lines.append(text_table({"name": "<", "kind": "<", "size": ">"}, rows))
    lines.append(f"{megabytes(sum(each.bytes for each in there))} in {one_line(folder)}")
    return "\n".join(lines)


def _speeds(result: dict[str, Any]) -> str:
    n_prompt, n_generated, depth = result["prompt_tokens"], result["gen_tokens"], result["depth"]
    behind = f" behind {depth}" if depth else ""
    columns = {"": "<", f"prefill of {n_prompt}": ">", f"decode of {n_generated}": ">"}
    rows = [["llamaweb", _rate(result, "prefill"), _rate(result, "decode")]]
    if floor := result.get("floor"):
        rows.append(["yardstick", "", f"{floor['per_second']:,.1f}"])
    peer = result.get("peer")
    if peer and "error" not in peer:
        rows.append([peer["engine"], _rate(peer, "prefill"), _rate(peer, "decode")])
    return f"Tokens a second{behind}: median (all repetitions)\n{text_table(columns, rows)}"


def _rate(result: dict[str, Any], what: str) -> str:
    each = ", ".join(f"{value:,.1f}" for value in result[f"{what}_all"])
    return f"{result[f'{what}_per_second']:,.1f} ({each})"


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['load_ms'] / 1e3:.1f}"
