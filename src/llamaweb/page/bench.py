"""Speed of a loaded model, as its user sees it, and of the yardstick beside it. Runs in the page."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from llamaweb.architectures import architecture
from llamaweb.gpu import yardstick
from llamaweb.javascript import user_agent
from llamaweb.kernels.formats import whole_blocks
from llamaweb.llama import Llama
from llamaweb.model.gguf_file import GGUFFile

_WARM = 16  # tokens generated before anything is timed


async def bench(
    llm: Llama,
    *,
    prompt_tokens: int = 512,
    gen_tokens: int = 128,
    reps: int = 3,
    depth: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Reads `prompt_tokens` tokens and generates `gen_tokens` behind them, both behind `depth` cached tokens.

    Gives prefill_per_second and decode_per_second (tokens, medians) and every repetition: an end token does not end
    one. No prompt repeats another, so that nothing but the `depth` tokens is reused.
    """
    runs = []
    progress(0, reps)
    for i in range(reps + 1):
        prompt = made_up_prompt(llm.tokenizer.n_vocab, depth, prompt_tokens, i)
        tokens = gen_tokens if i else min(gen_tokens, _WARM)
        async for _ in llm.stream(prompt, max_tokens=tokens, temperature=0, ignore_eos=True):
            pass
        if i:
            runs.append(llm.timings)
            progress(i, reps)
    prefill = [1e3 * prompt_tokens / run["prompt_ms"] for run in runs]
    decode = [run["generated_per_second"] for run in runs]
    return {
        "runtime": runtime(),
        "prompt_tokens": prompt_tokens,
        "gen_tokens": gen_tokens,
        "depth": depth,
        "context": llm.plan.n_ctx,
        "prefill_per_second": statistics.median(prefill),
        "decode_per_second": statistics.median(decode),
        "prefill_all": prefill,
        "decode_all": decode,
        "load_ms": llm.timings["load_ms"],
    }


def runtime() -> str:
    """What runs WebGPU here, by name and version: "HeadlessChrome 156", "Node.js 26"."""
    agent = user_agent()
    known = re.search(r"(Edg|\w*Chrome|Firefox|Node\.js|Version)/(\d+)", agent)
    return f"{known[1]} {known[2]}".replace("Version", "Safari") if known else agent


def made_up_prompt(n_vocab: int, depth: int, prompt_tokens: int, repetition: int) -> Sequence[int]:
    """`depth` tokens that every repetition shares, then `prompt_tokens` of its own."""
    shared = [(5 * i + 3) % n_vocab for i in range(depth)]
    return [*shared, *((7 * i + repetition) % n_vocab for i in range(prompt_tokens))]


async def floor(file: GGUFFile) -> dict[str, Any] | None:
    """The yardstick in the shape of a model, in whole blocks of 32: {ms_per_token, per_second, dispatches, bytes}; None
    without subgroups, and of a model whose layers are not all alike, or are not a llama's."""
    hp = architecture(file).hyperparameters(file)
    sizes = [getattr(hp, name, None) for name in ("n_layer", "n_embd", "n_ff", "n_head", "n_head_kv", "head_dim")]
    if not all(isinstance(size, int) for size in sizes):
        return None
    shape = {
        "layers": hp.n_layer,
        "embd": whole_blocks(hp.n_embd),
        "ff": whole_blocks(hp.n_ff),
        "qkv": (hp.n_head + 2 * hp.n_head_kv) * hp.head_dim,
        "heads": whole_blocks(hp.n_head * hp.head_dim),
        "vocab": hp.n_vocab,
    }
    return await yardstick.floor(shape)


def with_floor(result: dict[str, Any], found: dict[str, Any] | None) -> dict[str, Any]:
    """A bench's result with the yardstick and the ratio of its decoding to it."""
    ratio = result["decode_per_second"] / found["per_second"] if found else None
    return {**result, "floor": found, "floor_ratio": ratio}
