"""Write the table of families in README.md, between its marks, out of what their tests find.

From the repository's top: python -m tests.golden.make_families_table
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import numpy as np

from llamaweb.architectures import supported
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from tests.families import EMBEDDERS, MODELS, POSITIONS, TOKENS, Model, embeddings
from tests.reference import nmse
from tests.tiny import tiny_model

README = Path(__file__).parents[2] / "README.md"
_MARKS = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- /families -->)", re.DOTALL)


def dispatches(model: Model) -> int:
    """Of one token, or of a batch of texts, in a layer that takes most; but for what makes integers of a batch."""
    plan = plan_model(unfused(asyncio.run(read_header(BytesSource(tiny_model(model.spec))))))
    found = plan.phases["embed" if plan.embeddings else "decode"].dispatches
    labels = (d.label.split(".") for d in found if d.kernel.template != "quantize")
    return max(Counter(label[1] for label in labels if label[0] == "blk").values())


def error(name: str, model: Model) -> float:
    file = tiny_model(model.spec)
    of_texts = name in EMBEDDERS
    found = embeddings(file) if of_texts else model.reference(file, kv_f16=False).logits(TOKENS)[POSITIONS]
    return nmse(found, np.load(model.golden)[name])


def table() -> str:
    rows = [
        "| `general.architecture` | | dispatches a layer, at most | from llama.cpp |",
        "| --- | --- | ---: | ---: |",
    ]
    for family in supported():
        known = {name: m for name, m in (MODELS | EMBEDDERS).items() if m.spec.family == family}
        models = {name: m for name, m in known.items() if name in MODELS} or known
        module = import_module(f"llamaweb.families.{family.replace('-', '_')}")
        told = " ".join((module.__doc__ or "").split()).split(": ", 1)[1]
        counts = sorted({dispatches(model) for model in models.values()})
        worst = max(error(name, model) for name, model in models.items())
        rows.append(f"| `{family}` | {told} | {' or '.join(map(str, counts))} | {worst:.0e} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    README.write_text(_MARKS.sub(lambda _: table(), README.read_text()))
