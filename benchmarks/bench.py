"""`llamaweb bench` where there is no browser: a table of models in one run, under benchmarks/node.mjs.

arguments: RESULTS.json MODELS_FOLDER DONOR.gguf PROMPT_TOKENS GEN_TOKENS REPETITIONS MODEL ...
MODEL: a file or synthetic:SHAPE:FORMAT (written into MODELS_FOLDER with DONOR's tokenizer), then @DEPTH for tokens in
the context before, =fast for that precision, and + for a profile. TUNE in the environment: as `Llama.load`'s tune.
"""

import json
import os
import time
from pathlib import Path

import js

from llamaweb import Llama
from llamaweb.errors import LlamaWebError
from llamaweb.host import results, synthetic
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import FileSource
from llamaweb.page.bench import bench, floor, with_floor

output, folder, donor, *rest = [str(a) for a in js.arguments]
n_prompt, n_generate, reps = map(int, rest[:3])
tune = getattr(js.process.env, "TUNE", "auto")


def host(path: str) -> Path:
    """A file of the machine as Python sees it here."""
    return Path("/host") / os.path.abspath(path).lstrip("/")


async def model_file(model: str) -> str:
    if not model.startswith(synthetic.PREFIX):
        return model
    shape, format, name = synthetic.parse(model)
    if not host(f"{folder}/{name}").exists():
        header = await read_header(FileSource(host(donor)))
        synthetic.write(host(f"{folder}/{name}.part"), shape, format, header.metadata)
        host(f"{folder}/{name}.part").rename(host(f"{folder}/{name}"))
    return f"{folder}/{name}"


async def measure(path: str, depth: int, precision: str, profiled: bool) -> dict:
    n_ctx = max(2048, depth + n_prompt + n_generate)
    began = time.monotonic()
    async with await Llama.load(await js.openFile(path), n_ctx=n_ctx, precision=precision, tune=tune) as llm:
        loaded = time.monotonic()
        print(f"loaded in {loaded - began:.1f} s", flush=True)
        await llm.tuned()
        print(f"tuned ({tune}) in {time.monotonic() - loaded:.1f} s", flush=True)
        result = await bench(llm, prompt_tokens=n_prompt, gen_tokens=n_generate, reps=reps, depth=depth)
        result |= {"memory": llm.memory, "adapter": llm.adapter, "dispatches_per_token": llm.dispatches_per_token}
        if profiled:
            result["profile"] = (await llm.profile(n_prompt=n_prompt, n_generate=32, depth=depth)).report()
    unusual = {"precision": precision} if precision != "high" else {}
    return {"model": os.path.basename(path), **unusual, **with_floor(result, await floor(llm.file))}


def line(result: dict) -> str:
    short = {
        name: result[name] for name in ("model", "depth", "prefill_per_second", "decode_per_second", "floor_ratio")
    }
    return json.dumps(short | {"decode_all": [round(rate, 1) for rate in result["decode_all"]]})


for asked in rest[3:]:
    name, _, precision = asked.rstrip("+").partition("=")
    name, _, depth = name.partition("@")
    try:
        result = await measure(await model_file(name), int(depth or 0), precision or "high", asked.endswith("+"))
    except LlamaWebError as error:
        print(f"{asked}: {error}")
        continue
    results.add(host(output), result)
    print(line(result))
