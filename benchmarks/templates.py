"""Renders all chat templates of a folder in some conversations, with LlamaWeb and with jinja2's own sandbox: where the
texts differ, and how much longer it takes.

usage: templates.py FOLDER [ROUNDS]
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from llamaweb.chat.template import render_template
from llamaweb.errors import LlamaWebError
from tests.conversations import CONVERSATIONS, jinja2s, variables


def main(folder: Path, rounds: int) -> None:
    taken: dict[str, list[float]] = {}  # seconds of jinja2's sandbox and of ours, by template
    slowest: list[tuple[float, str, str]] = []
    tried = differ = 0
    gc.disable()
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text()
        for kind in CONVERSATIONS:
            for going_on in (True, False):
                given = variables(kind, going_on)
                try:
                    right = jinja2s(source, given)
                except Exception as error:  # a template's own words, mostly
                    right = type(error).__name__
                try:
                    found = render_template(source, given)
                except LlamaWebError as error:
                    found = type(error.__cause__).__name__
                tried += 1
                if right != found:
                    differ += 1
                    print(f"{path.name}, {kind}: {found[:200]!r}, not {right[:200]!r}")
            try:
                jinja2s(source, given)
            except Exception:  # what does not render takes no time that counts
                continue
            best = [1e9, 1e9]
            for _ in range(rounds):
                for index, render in enumerate((jinja2s, render_template)):
                    start = time.thread_time()
                    render(source, given)
                    best[index] = min(best[index], time.thread_time() - start)
            sums = taken.setdefault(path.name, [0.0, 0.0])
            sums[0], sums[1] = sums[0] + best[0], sums[1] + best[1]
            slowest.append((best[1] / best[0], path.name, kind))
    whole = [sum(times[index] for times in taken.values()) for index in (0, 1)]
    print(f"{tried} renderings of {len(taken)} templates, {differ} differ; {whole[1] / whole[0]:.2f} times as long")
    print("The slowest templates:", *(f"{n[1] / n[0]:.2f} {name}" for name, n in by_pace(taken)[:8]), sep="\n  ")
    print(
        "The slowest renderings:", *(f"{r:.2f} {name}, {kind}" for r, name, kind in sorted(slowest)[:-9:-1]), sep="\n  "
    )


def by_pace(taken: dict[str, list[float]]) -> list[tuple[str, list[float]]]:
    return sorted(taken.items(), key=lambda item: -item[1][1] / item[1][0])


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
