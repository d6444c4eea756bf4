"""Whether each family's tiny models compute what llama.cpp does, on this machine's GPU, with default kernels.

Under node.mjs, as kernel_numbers.py. arguments: SECONDS, after which it ends, and NAME ... of the models of
tests/families.py; else one in floats and one in a quantized format of each family. It compares log-probabilities and
likeliest tokens at the positions that the golden files keep, within what f16 takes: cached keys and values are that,
and factors of products, too, where the device has matrix units.
"""

import sys
import time
from pathlib import Path

import js
import numpy as np

import llamaweb
from llamaweb import Llama
from llamaweb.errors import LlamaWebError

sys.path.append(str(Path(llamaweb.__file__).parents[2]))
from tests.families import EMBEDDERS, MODELS, POSITIONS, TOKENS
from tests.tiny import tiny_model

LIMIT = 0.02


def names() -> list[str]:
    """Of each family two models, which differ in what they have."""
    plain = {MODELS[name].spec.family: name for name in reversed(MODELS)}
    quantized = {model.spec.family: name for name, model in MODELS.items() if model.spec.type != "F32"}
    return [name for name in MODELS if name in {*plain.values(), *quantized.values()} and name not in EMBEDDERS]


async def error(name: str) -> float:
    """Of a model: how far log-probabilities are from llama.cpp's, and how much less likely its choices are there."""
    spec, golden = MODELS[name].spec, np.load(MODELS[name].golden)[name].astype(np.float64)
    golden -= golden.max(1, keepdims=True)
    logs = golden - np.log(np.exp(golden).sum(1, keepdims=True))
    async with await Llama.load(tiny_model(spec), n_ctx=256, n_ubatch=64, logits_all=True, tune="off") as llm:
        found, likeliest = await llm.log_probabilities(TOKENS)
    worst = 0.0
    for row, at in zip(logs, POSITIONS, strict=True):
        if at + 1 < len(TOKENS):
            worst = max(worst, abs(row[TOKENS[at + 1]] - found[at]))
        if at < len(likeliest):
            worst = max(worst, row.max() - row[likeliest[at]])
    return worst


async def main(limit: float, asked: list[str]) -> None:
    began, wrong, done = time.monotonic(), 0, 0
    todo = asked or names()
    for name in todo:
        if time.monotonic() - began > limit:
            break
        try:
            worst = await error(name)
            said = f"{worst:.1e}"
        except LlamaWebError as refused:
            worst, said = np.inf, str(refused)
        done += 1
        wrong += worst > LIMIT
        print(f"{'right' if worst <= LIMIT else 'WRONG'}: {name}: {said}", flush=True)
    print(f"{done} of {len(todo)} models, {wrong} wrong.")
    if wrong:
        raise SystemExit("Not all models are right.")


limit, *asked = (str(word) for word in js.arguments)
await main(float(limit), asked)
