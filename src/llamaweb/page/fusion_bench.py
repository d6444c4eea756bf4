"""What each fusion brings: a model's decoding with all of them, and with one at a time left out. Runs in the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from llamaweb.llama import Llama
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.page.bench import bench
from llamaweb.planner import FUSIONS, plan_model

FUSION_PROMPT = 2  # tokens

Load = Callable[..., Awaitable[Llama]]


async def bench_fusions(
    load: Load,
    *,
    gen_tokens: int = 128,
    reps: int = 3,
    depth: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """load(unfused=…, tune="off") is `Llama.load` of the model.

    Gives under "fusions" what decoding `gen_tokens` tokens behind `depth` takes: dispatches_per_token,
    decode_per_second (tokens, median) and gpu_us (of a token's dispatches in order), first with every fusion (left_out
    is None), then without each that the model has. The default kernels run, so that nothing else differs.
    """
    facts: dict[str, Any] = {}

    async def measured(name: str | None) -> tuple[dict[str, Any], GGUFFile]:
        async with await load(unfused=[name] if name else [], tune="off") as llm:
            speed = await bench(llm, prompt_tokens=FUSION_PROMPT, gen_tokens=gen_tokens, reps=reps, depth=depth)
            profile = (await llm.profile(n_prompt=FUSION_PROMPT, n_generate=gen_tokens, depth=depth)).report()
            facts.update(runtime=speed["runtime"], adapter=llm.adapter, context=llm.plan.n_ctx)
            return {
                "left_out": name,
                "what": FUSIONS[name] if name else "",
                "dispatches_per_token": llm.dispatches_per_token,
                "decode_per_second": speed["decode_per_second"],
                "decode_all": speed["decode_all"],
                "gpu_us": profile["phases"][-1]["pass_us"],
            }, llm.file

    progress(0, 1 + len(FUSIONS))
    whole, file = await measured(None)
    found, names = [whole], _in_model(file)
    for name in names:
        progress(len(found), 1 + len(names))
        found.append((await measured(name))[0])
    progress(len(found), len(found))
    return {**facts, "gen_tokens": gen_tokens, "depth": depth, "fusions": found}


def _in_model(file: GGUFFile) -> list[str]:
    """The fusions without which a token of this model takes more dispatches, or fewer."""

    def dispatches(*unfused: str) -> int:
        return plan_model(file, n_ctx=2, n_ubatch=2, unfused=unfused).dispatches_per_token

    whole = dispatches()
    return [name for name in FUSIONS if dispatches(name) != whole]
