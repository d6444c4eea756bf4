"""Writes benchmarks/results.json as tables into README.md, between markers such as <!-- speed --> and <!-- /speed -->.

usage: tables.py [--results FILE] [--readme FILE] [--check]      (--check: exit code 1 if they are not up to date)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Result = dict[str, Any]
# What wllama 3.8.1 holds on the GPU, and in copies of tensors on the CPU, of a model and context: counted once.
WLLAMA_BYTES = {("synthetic-llama-3.2-1b-Q4_0.gguf", 2048): 1070 << 20}


def speed(results: Sequence[Result]) -> str:
    """Tokens a second, a table for each device and runtime."""
    parts = []
    results = [r for r in results if "kind" not in r]
    devices = dict.fromkeys((r["adapter"], r["runtime"]) for r in results)
    for device in sorted(devices, key=lambda device: "Node" in device[1]):  # browsers first
        mine = [r for r in results if (r["adapter"], r["runtime"]) == device]
        rows = [
            (
                _name(r)
                + (f", cache in {r['type_k']}/{r['type_v']}" if "type_k" in r else "")
                + (f", {r['precision']}" if "precision" in r else ""),
                f"{r['depth']:,}",
                f"{r['prompt_tokens']:,} / {r['gen_tokens']:,}",
                _number(r["prefill_per_second"]),
                _number(r["decode_per_second"]),
                f"{r['floor_ratio']:.2f}" if r.get("floor_ratio") else "",
                _peer(r),
            )
            for r in mine
        ]
        header = ("model", "behind", "prompt / generated", "prefill", "decode", "of the yardstick", "peer")
        parts.append(f"{device[0]}, {device[1]}; tokens a second:\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def loading(results: Sequence[Result]) -> str:
    """What `llamaweb bench --loading` measured: memory, and loading; a table for each device."""
    results = [r for r in results if r.get("kind") == "loading"]
    parts = []
    for device in sorted({(r["adapter"], r["runtime"]) for r in results}):
        mine = [r for r in results if (r["adapter"], r["runtime"]) == device]
        header = (
            "model",
            "cache",
            "context",
            "weights",
            "KV",
            "arena",
            "I/O",
            "GPU in all",
            "of wllama's",
            "heap growth",
        )
        header += ("loading, MB/s", "of a plain loop", "first token from storage, s", "on the first visit, s")
        header += ("of that without tuning", "tokens/s then", "tokens/s after idling")
        parts.append(f"Memory in MiB; {', '.join(device)}:\n\n{table(header, [_loading(r) for r in mine])}")
    return "\n\n".join(parts)


def _loading(r: Result) -> list[str]:
    total = r["memory"]["total"]
    wllama = WLLAMA_BYTES.get((r["model"], r["context"]))
    return [
        _name(r) + (f", {r['files']} files" if r["files"] > 1 else ""),
        r["type_k"],
        f"{r['context']:,}",
        *(f"{r['memory'][name] / 2**20:,.1f}" for name in ("weights", "kv", "arena", "io")),
        f"{total / 2**20:,.1f}",
        f"{total / wllama:.3f}" if wllama else "",
        f"{r['heap_growth'] / 2**20:,.1f}" if "heap_growth" in r else "",
        f"{r['load_bytes_per_second'] / 1e6:,.0f}",
        f"{r['load_ratio']:.2f}",
        f"{r['first_token_ms'] / 1e3:.2f}",
        *(_visit(r) if "first_visit_ms" in r else [""] * 4),
    ]


def _visit(r: Result) -> list[str]:
    tuned = f"{_number(r['decode_tuned'])} ({r['tuning_ms'] / 1e3:.0f} s)"
    return [f"{r['first_visit_ms'] / 1e3:.2f}", f"{r['visit_ratio']:.2f}", _number(r["decode_first"]), tuned]


def fusions(results: Sequence[Result]) -> str:
    """What `llamaweb bench --fusions` measured: tokens a second without each fusion, beside all of them."""
    rows = []
    for r in (r for r in results if r.get("kind") == "fusions"):
        whole = r["fusions"][0]
        for each in r["fusions"]:
            ratio = each["decode_per_second"] / whole["decode_per_second"]
            rows.append(
                (
                    _name(r),
                    each["left_out"] or "",
                    str(each["dispatches_per_token"]),
                    _number(each["decode_per_second"]),
                    f"{ratio:.2f}",
                    f"{each['gpu_us']:,.0f}",
                )
            )
    header = ("model", "left out", "dispatches a token", "tokens/s", "of all fused", "GPU time of a token, µs")
    return f"{_devices(results, 'fusions')}:\n\n{table(header, rows)}"


TABLES = {"speed": speed, "memory": loading, "fusions": fusions}


def filled(text: str, results: Sequence[Result]) -> str:
    """`text` with every table between its markers written anew; markers that are not there are left out."""
    for name, of in TABLES.items():
        text = between_markers(text, name, of(results))
    return text


def between_markers(text: str, name: str, block: str) -> str:
    found = f"<!-- {name} -->\n{block}\n<!-- /{name} -->"
    return re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _: found, text, flags=re.DOTALL)


def _devices(results: Sequence[Result], kind: str) -> str:
    return "; ".join(dict.fromkeys(f"{r['adapter']}, {r['runtime']}" for r in results if r.get("kind") == kind))


def _name(result: Result) -> str:
    return result["model"].removesuffix(".gguf")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _peer(result: Result) -> str:
    peer = result.get("peer")
    if not peer:
        return ""
    if "error" in peer:
        return f"{peer['engine']}: fails"
    where = "" if peer.get("on_gpu", True) else " (on the CPU)"
    return f"{peer['engine']}: {_number(peer['prefill_per_second'])} / {_number(peer['decode_per_second'])}{where}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    used = [i for i, name in enumerate(header) if i == 0 or any(row[i] for row in rows)]
    rule = ["---" if i == 0 or name in ("peer", "left out") else "---:" for i, name in enumerate(header)]
    return "\n".join("| " + " | ".join(row[i] for i in used) + " |" for row in (header, rule, *rows))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results.json")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    old = args.readme.read_text()
    new = filled(old, json.loads(args.results.read_text())["results"])
    if not args.check:
        args.readme.write_text(new)
    return int(args.check and new != old)


if __name__ == "__main__":
    sys.exit(main())
