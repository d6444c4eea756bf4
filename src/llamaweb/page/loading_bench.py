"""What loading a model takes: memory, and time beside a plain loop that moves the same bytes. Runs in the page."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llamaweb.files.storage import save_json
from llamaweb.gpu.tuning import FILE as TUNING
from llamaweb.gpu.yardstick import plain_load
from llamaweb.javascript import empty_heap_bytes, now_ms
from llamaweb.llama import Llama
from llamaweb.page.bench import bench, made_up_prompt, runtime

Load = Callable[..., Awaitable[Llama]]


async def bench_loading(
    load: Load,
    urls: Sequence[str],
    *,
    prompt_tokens: int = 505,
    gen_tokens: int = 128,
    reps: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """load(cache=…, tune=…) is `Llama.load` of the model whose files are at `urls`. What tuning found is forgotten.

    Gives the memory of the loaded model behind a prompt of `prompt_tokens`; heap_growth, in bytes over a Pyodide that
    has run nothing; load_bytes_per_second and the plain loop's, in turns, medians; load_ratio between them; and
    first_token_ms from the browser's storage: of all that happens from the call to `load` to the first token. The same
    from the network is first_visit_ms, of the first load of all, and visit_ratio beside a load that never tunes, in
    turns, medians. decode_first is the speed of `gen_tokens` tokens then, decode_tuned after tuning_ms of idling.
    """
    steps = 3 * reps + 4  # one of each load, and of each plain loop
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, steps)

    progress(0, steps)
    await save_json(TUNING, {})
    begin = now_ms()
    async with await load(cache=False, tune="auto") as llm:
        await _first_token(llm, 16)
        result: dict[str, Any] = {"first_visit_ms": now_ms() - begin}
        step()
        result["decode_first"] = await _decode(llm, gen_tokens)
        begin = now_ms()
        await llm.tuned()
        result["tuning_ms"] = now_ms() - begin
        result["decode_tuned"] = await _decode(llm, gen_tokens)
        await _first_token(llm, prompt_tokens)
        result |= {
            "runtime": runtime(),
            "adapter": llm.adapter,
            "context": llm.plan.n_ctx,
            "bytes": llm.file.size,
            "files": len(urls),
            "memory": llm.memory,
        }
        step()
    plain, ours = [], []
    visits: dict[str, list[float]] = {"auto": [], "off": []}
    for _ in range(reps):
        plain.append(await plain_load(urls))
        step()
        for tune, ms in visits.items():
            await save_json(TUNING, {})
            begin = now_ms()
            async with await load(cache=False, tune=tune) as llm:
                await _first_token(llm, 16)
                ms.append(now_ms() - begin)
                if tune == "auto":
                    ours.append(llm.timings["weights_ms"])
            step()
    result["visit_ratio"] = statistics.median(visits["auto"]) / statistics.median(visits["off"])
    result["heap_growth"] = result["memory"]["wasm_heap"] - await empty_heap_bytes()
    async with await load(cache=True, tune="auto"):
        step()
    begin = now_ms()
    async with await load(cache=True, tune="auto") as llm:
        await _first_token(llm, 16)
        first_token_ms = now_ms() - begin
    step()
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


async def _decode(llm: Llama, tokens: int) -> float:
    """Tokens a second."""
    return float((await bench(llm, prompt_tokens=16, gen_tokens=tokens, reps=1))["decode_per_second"])
