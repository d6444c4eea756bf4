"""Commands that run in the page's Python, for the command line and the demo page: dicts in, events out.

Events: {"event": "progress", and the fields of Progress} · {"event": "text", text} · {"event": "result", …}. Errors are
raised; the worker turns them into events.
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from llamaweb import cache
from llamaweb.embedding import lines
from llamaweb.errors import CacheWarning, KernelWarning, LlamaWebError, ModelWarning, said
from llamaweb.files.storage import load_json, save_json
from llamaweb.files.url_source import UrlSource
from llamaweb.gpu.device import find_adapter
from llamaweb.gpu.recognition import FILE as ADAPTERS
from llamaweb.gpu.selfcheck import FILE as CHECKS
from llamaweb.gpu.tuning import FILE as TUNING
from llamaweb.kernels.tuner import choose
from llamaweb.llama import Llama
from llamaweb.model.shards import shard_names
from llamaweb.page.bench import bench, floor, with_floor
from llamaweb.page.fusion_bench import FUSION_PROMPT, bench_fusions
from llamaweb.page.loading_bench import bench_loading
from llamaweb.planner import USUAL_CONTEXT
from llamaweb.progress import Progress

Emit = Callable[[dict[str, Any]], None]
_OPTIONS = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop")

_KEPT = (TUNING, CHECKS, ADAPTERS)  # of the browser's storage, that what starts browsers keeps for the next ones

_loaded: Llama | None = None  # what `load` left for `chat`


async def handle(command: str, params: dict[str, Any], emit: Emit, file: Any = None) -> None:
    """Carry out one command; its last event is the result. `file`: Files of a model, in place of params["model"].

    With params["tuning"], what tuning and the self-check found in another browser, or None, what is known of it in the
    end is told in an event before the result.
    """
    if command not in _COMMANDS:
        raise LlamaWebError(f"There is no command {command!r} in the page; there are {', '.join(_COMMANDS)}.")
    before = params.get("tuning")
    if isinstance(before, dict):
        for name in (name for name in _KEPT if name in before):
            await save_json(name, before[name])
    result = await _COMMANDS[command](params, emit, file)
    if "tuning" in params:
        kept = {name: found for name in _KEPT if (found := await load_json(name))}
        emit({"event": "tuning", "kept": kept or None})
    emit({"event": "result", **result})


async def _run(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    async with await _load_model(params, emit, file, chat=bool(params.get("chat"))) as llm:
        prompt = params["prompt"]
        if params.get("chat"):
            pieces = llm.chat_stream([{"role": "user", "content": prompt}], **_options(params))
        else:
            pieces = llm.stream(prompt, special=True, **_options(params))
        return await _answer(llm, pieces, emit)


async def _perplexity(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    source = UrlSource(params["file"])
    text = await source.read(0, await source.size())
    chunk = params.get("context") or 512
    async with await _load_model({**params, "context": chunk}, emit, file, logits_all=True) as llm:
        found = await llm.perplexity(text, chunk, _progress(emit))
        if not math.isfinite(found.perplexity):  # which JSON does not have
            raise LlamaWebError("The perplexity is infinite: the model takes a part of the text for impossible.")
        return {"perplexity": found.perplexity, "tokens": found.tokens}


async def _embed(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    source = UrlSource(params["file"])
    texts = lines(await source.read(0, await source.size()))
    async with await _load_model(params, emit, file) as llm:
        ids = [llm.tokenize(text) for text in texts]
        found = await llm.embed(ids, normalize=params["normalize"], progress=_progress(emit))
        return {"embeddings": [each.tolist() for each in found], "tokens": [*map(len, ids)], **_facts(llm)}


async def _bench(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    sizes = {name: params[name] for name in ("prompt_tokens", "gen_tokens", "depth")}

    def progress(done: int, total: int) -> None:
        emit({"event": "progress", "phase": "repetitions", "done": done, "total": total, "unit": ""})

    options = {"tune": params.get("tune", "auto")}
    async with await _load_model(_with_room(params, sum(sizes.values())), emit, file, **options) as llm:
        await llm.tuned()
        result = {**await bench(llm, **sizes, reps=params["reps"], progress=progress), **_facts(llm)}
        if params.get("profile"):
            n_generate = min(sizes["gen_tokens"], 32)
            profile = await llm.profile(n_prompt=sizes["prompt_tokens"], n_generate=n_generate, depth=sizes["depth"])
            result["profile"] = profile.report()
    return with_floor(result, await floor(llm.file)) if params.get("floor") else result


def _with_room(params: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The same with a context of `tokens`, where none is asked for and the usual one is too short."""
    short = params.get("context") is None and tokens > USUAL_CONTEXT
    return {**params, "context": tokens} if short else params


async def _bench_fusions(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    sizes = {name: params[name] for name in ("gen_tokens", "depth", "reps")}
    params = _with_room(params, sizes["depth"] + FUSION_PROMPT + sizes["gen_tokens"])

    def progress(done: int, total: int) -> None:
        emit({"event": "progress", "phase": "fusions", "done": done, "total": total, "unit": ""})

    async def load(**options: Any) -> Llama:
        return await _load_model(params, lambda event: None, file, **options)

    return await bench_fusions(load, **sizes, progress=progress)


async def _bench_loading(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    """params["model"] is an address; of a split model, any file's."""
    folder, _, name = params["model"].rpartition("/")
    urls = [f"{folder}/{each}" for each in shard_names(name)]

    def progress(done: int, total: int) -> None:
        emit({"event": "progress", "phase": "loads", "done": done, "total": total, "unit": ""})

    async def load(cache: bool, tune: str) -> Llama:
        return await _load_model({**params, "cache": cache}, lambda event: None, None, tune=tune)

    await _forget(urls)  # so that the files are kept anew
    try:
        sizes = {name: params[name] for name in ("gen_tokens", "reps")}
        return await bench_loading(load, urls, **sizes, progress=progress)
    finally:
        await _forget(urls)


async def _forget(urls: Sequence[str]) -> None:
    for model in await cache.list():
        if model.url in urls:
            await cache.remove(model)


async def _webgpu(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    """Nothing, but NoWebGPUError where no model can run."""
    await find_adapter()
    return {}


async def _load(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    """Loads a model for `chat`, in place of the one before."""
    global _loaded
    previous, _loaded = _loaded, None
    if previous:
        await previous.close()
    told: list[str] = []

    def keep(event: dict[str, Any]) -> None:
        if event["event"] == "warning":
            told.append(said(event["message"], "page"))
        else:
            emit(event)

    _loaded = await _load_model(params, keep, file, chat=True)
    name = _loaded.file.metadata.get("general.name")
    return {"name": name, "context": _loaded.plan.n_ctx, "warnings": told, **_facts(_loaded)}


async def _chat(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    if _loaded is None:
        raise LlamaWebError("No model is loaded yet; load one first.")
    return await _answer(_loaded, _loaded.chat_stream(params["messages"], **_options(params)), emit)


async def _tune(params: dict[str, Any], emit: Emit, file: Any) -> dict[str, Any]:
    async with await _load_model(params, emit, file, tune="full") as llm:
        chosen = choose(llm.trials)
        trials = [
            {
                "shape": trial.shape.key,
                "variant": str(trial.variant),
                **asdict(trial.variant),
                "microseconds": trial.microseconds,
                "right": trial.right,
                "default": trial.default,
                "chosen": chosen.get(trial.shape) == trial.variant,
            }
            for trial in llm.trials
        ]
        return {"trials": trials, **_facts(llm)}


_TOLD = (CacheWarning, KernelWarning, ModelWarning)
_COMMANDS = {
    "run": _run,
    "perplexity": _perplexity,
    "embed": _embed,
    "bench": _bench,
    "bench_fusions": _bench_fusions,
    "bench_loading": _bench_loading,
    "tune": _tune,
    "webgpu": _webgpu,
    "load": _load,
    "chat": _chat,
}


async def _load_model(params: dict[str, Any], emit: Emit, file: Any, **options: Any) -> Llama:
    names = ("type_k", "type_v", "precision", "memory_budget", "check", "offload", "pooling")
    options |= {name: params[name] for name in names if params.get(name)}
    options |= {"n_ctx": params.get("context"), "cache": params.get("cache", False), "progress": _progress(emit)}
    with warnings.catch_warnings(record=True) as caught:
        for category in _TOLD:
            warnings.simplefilter("always", category)
        llm = await Llama.load(file or params["model"], **options)
    for warning in caught:
        if issubclass(warning.category, _TOLD):
            emit({"event": "warning", "message": str(warning.message)})
    return llm


async def _answer(llm: Llama, pieces: Any, emit: Emit) -> dict[str, Any]:
    """The result; when the command is cancelled, what came until then, marked `stopped`."""
    text = []
    stopped = {}
    try:
        async for piece in pieces:
            text.append(piece)
            emit({"event": "text", "text": piece})
    except asyncio.CancelledError:
        stopped = {"stopped": True}
    ended = {"finish_reason": llm.finish_reason, "stopped_by": llm.stopped_by}
    return {"text": "".join(text), "tokens": llm.tokens, **ended, "timings": llm.timings, **_facts(llm), **stopped}


def _facts(llm: Llama) -> dict[str, Any]:
    return {"memory": llm.memory, "adapter": llm.adapter, "dispatches_per_token": llm.dispatches_per_token}


def _options(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in _OPTIONS if params.get(name) is not None}


def _progress(emit: Emit) -> Callable[[Progress], None]:
    def report(p: Progress) -> None:
        emit({"event": "progress", **asdict(p)})

    return report
