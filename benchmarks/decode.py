"""Prefill and decode of one model, under benchmarks/node.mjs: prints one JSON object.

arguments: MODEL [PROMPT_TOKENS] [GENERATED] [REPETITIONS]
"""

import json
import statistics

import js

from llamaweb import Llama

path, *numbers = [str(a) for a in js.arguments]
n_prompt, n_generate, repetitions = [*map(int, numbers), *(512, 128, 3)[len(numbers) :]]


async def main() -> str:
    llm = await Llama.load(await js.openFile(path), n_ctx=2048)
    runs = []
    for repetition in range(repetitions + 1):
        prompt = [(7 * i + repetition) % 1000 + 100 for i in range(n_prompt)]
        llm.tokenizer.eog = frozenset()
        async for _ in llm.stream(prompt, temperature=0, max_tokens=n_generate):
            pass
        runs.append(llm.timings)
    runs = runs[1:]
    return json.dumps(
        {
            "model": path.rsplit("/", 1)[-1],
            "prefill_per_second": statistics.median(r["prompt_per_second"] for r in runs),
            "decode_per_second": statistics.median(r["generated_per_second"] for r in runs),
            "decode_all": [round(r["generated_per_second"], 1) for r in runs],
            "load_ms": llm.timings["load_ms"],
            "memory": llm.memory,
            "adapter": llm.adapter,
            "dispatches_per_token": llm.dispatches_per_token,
        }
    )


await main()
