"""What loading a model takes: memory, and time beside a plain loop that moves the same bytes. Runs in the page."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llamaweb.gpu.yardstick import plain_load
from llamaweb.javascript import empty_heap_bytes, now_ms
from llamaweb.llama import Llama
from llamaweb.page.bench import made_up_prompt, runtime

Load = Callable[..., Awaitable[Llama]]


async def bench_loading(
    load: Load,
    urls: Sequence[str],
    *,
    prompt_tokens: int = 505,
    reps: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """load(cache=…) is `Llama.load` of the model whose files are at `urls`.

    Gives the memory of the loaded model behind a prompt of `prompt_tokens`; heap_growth, in bytes over a Pyodide that
    has run nothing; load_bytes_per_second and the plain loop's, in turns, medians; load_ratio between them; and
    first_token_ms from the browser's storage: of all that happens from the call to `load` to the first token.
    """
    steps = 2 * reps + 2
    progress(0, steps)
    plain, ours = [], []
    result: dict[str, Any] = {}
    for i in range(reps):
        plain.append(await plain_load(urls))
        progress(2 * i + 1, steps)
        async with await load(cache=False) as llm:
            ours.append(llm.timings["weights_ms"])
            if not result:
                await _first_token(llm, prompt_tokens)
                result = {
                    "runtime": runtime(),
                    "adapter": llm.adapter,
                    "context": llm.plan.n_ctx,
                    "bytes": llm.file.size,
                    "files": len(urls),
                    "memory": llm.memory,
                }
        progress(2 * i + 2, steps)
    result["heap_growth"] = result["memory"]["wasm_heap"] - await empty_heap_bytes()
    async with await load(cache=True):
        progress(steps - 1, steps)
    begin = now_ms()
    async with await load(cache=True) as llm:
        await _first_token(llm, 16)
        first_token_ms = now_ms() - begin
    progress(steps, steps)
    rates = [[1e3 * result["bytes"] / ms for ms in each] for each in (ours, plain)]
    return {
        **result,
        "load_bytes_per_second": statistics.median(rates[0]),
        "plain_bytes_per_second": statistics.median(rates[1]),
        "load_all": rates[0],
        "plain_all": rates[1],
        "load_ratio": statistics.median(plain) / statistics.median(ours),
        "first_token_ms": first_token_ms,
    }


async def _first_token(llm: Llama, prompt_tokens: int) -> None:
    prompt = made_up_prompt(llm.tokenizer.n_vocab, 0, prompt_tokens, 1)
    async for _ in llm.stream(prompt, max_tokens=1, temperature=0, ignore_eos=True):
        pass
