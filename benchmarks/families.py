"""Writes families.json, of runs of run_gpu.sh, as tables of families into README.md, between its markers.

usage: python -m benchmarks.families [RESULTS.json]      (of another run: first it takes the place of the one that
                                                          families.json has of the same adapter and runtime)

What a model reads and computes a token is its plan's, so that rates stand beside the first model's: bytes of weights a
second while decoding, FLOPs a second of a prompt.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import between_markers, table
from llamaweb.host import synthetic
from llamaweb.model.gguf_file import read_header
from llamaweb.planner import plan_model
from llamaweb.planner.cost import costs
from llamaweb.profile import DESKTOP

HERE = Path(__file__).parent
KEPT = HERE / "families.json"
README = HERE.parent / "README.md"
FIRST = "synthetic-llama-3.2-1b"


def of_token(model: str) -> tuple[int, float]:
    """Bytes of weights that decoding reads a token of synthetic-SHAPE-FORMAT, and the FLOPs of a prompt's token."""
    shape, format, name = synthetic.parse(":".join(model.replace("synthetic-", synthetic.PREFIX).rsplit("-", 1)))
    file = asyncio.run(read_header(synthetic.HeaderSource(name, shape, format, {})))
    plan = plan_model(file, DESKTOP)
    read = sum(cost.weights for cost in costs(plan, "decode", 1, 0))
    return read, sum(cost.flops for cost in costs(plan, "prefill", plan.n_ubatch, 0)) / plan.n_ubatch


def families(results: Sequence[dict[str, Any]]) -> str:
    """A table of each run."""
    runs = dict.fromkeys(map(_run, results))
    return "\n\n".join(_table([r for r in results if _run(r) == run]) for run in runs)


def _run(result: dict[str, Any]) -> tuple[str, str]:
    return result["adapter"], result["runtime"]


def _table(results: Sequence[dict[str, Any]]) -> str:
    rows, first = [], (0.0, 0.0)
    for r in sorted(results, key=lambda r: not r["model"].startswith(FIRST)):
        model = r["model"].removesuffix(".gguf")
        read, flops = of_token(model)
        rates = (read * r["decode_per_second"], flops * r["prefill_per_second"])
        first = first if rows else rates
        rows.append(
            (
                model.removeprefix("synthetic-"),
                f"{r['memory']['weights'] / 1e6:,.0f}",
                f"{read / 1e6:,.0f}",
                f"{r['dispatches_per_token']}",
                f"{r['prefill_per_second']:,.0f}",
                f"{rates[1] / first[1]:.2f}",
                f"{r['decode_per_second']:,.0f}",
                f"{rates[0] / first[0]:.2f}",
            )
        )
    header = ("model", "weights, MB", "read a token, MB", "dispatches a token")
    header += ("prefill", "of the first's FLOPs a second", "decode", "of the first's bytes a second")
    return f"{results[0]['adapter']}, {results[0]['runtime']}; tokens a second:\n\n{table(header, rows)}"


def main(args: Sequence[str]) -> None:
    if args:
        wanted = ("model", "adapter", "runtime", "memory", "dispatches_per_token", "prefill_per_second")
        found = json.loads(Path(args[0]).read_text())["results"]
        kept = [{name: r[name] for name in (*wanted, "decode_per_second")} for r in found]
        kept += [r for r in json.loads(KEPT.read_text()) if _run(r) not in map(_run, kept)]
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    README.write_text(between_markers(README.read_text(), "families-speed", families(json.loads(KEPT.read_text()))))


if __name__ == "__main__":
    main(sys.argv[1:])
