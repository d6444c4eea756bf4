"""Operations of the package in the page, tried once for each call of the browser that may fail in them (faults.js)."""

from __future__ import annotations

import asyncio
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import js
from pyodide.code import run_js
from pyodide.ffi import create_proxy, to_js

from llamaweb import Llama, cache, loading, turns
from llamaweb.errors import GPUError, LlamaWebError
from llamaweb.files import model_cache, storage
from llamaweb.files.cached_source import CachedSource
from llamaweb.files.model_cache import CachedModel
from llamaweb.files.url_source import Patience, UrlSource
from llamaweb.gpu import device, timer, tuning
from llamaweb.gpu import trials as trials_module
from llamaweb.turns import begin

OPTIONS: dict[str, Any] = {"n_ctx": 32, "n_ubatch": 1, "tune": "off", "check": True}
PROMPT, N_TOKENS = [5, 17, 99], 6
PATIENCE = Patience(attempts=2, delay=1, enough=1 << 20, range=40_000, parallel=2, first=16_000)
SECONDS = 30  # that nothing takes

faults: Any = None
device._WORD_COMES = 1  # of the page's own promise, in tenths of a second
turns.PAUSE_S = 0.0
timer._WARM_MS = timer._LONG_ENOUGH_MS = 0.0  # one run is enough: how long things take does not matter here
loading.worth_tuning = lambda profile, mode: mode == "auto"  # a software adapter is not
_all, _every = trials_module.candidates, tuning._groups
trials_module.candidates = lambda *args: _all(*args)[:2]
tuning._groups = lambda plan: [[group[0] for group in _every(plan) if group], list(_attention(plan))]


def _attention(plan: Any) -> list[Any]:
    return [shape for shape in trials_module.places(plan) if shape.op == "flash_attn_vec"][:1]


def install(script: str) -> None:
    global faults
    faults = run_js(script)()


async def answer(llm: Llama) -> list[int]:
    async for _ in llm.stream(PROMPT, max_tokens=N_TOKENS, temperature=0, ignore_eos=True):
        pass
    return llm.tokens


class Operation(ABC):
    """`run` is what calls may fail in; `again` comes behind it, with none that fail. Both give the same."""

    llm: Llama | None = None

    async def prepare(self) -> None:
        return  # most need nothing

    @abstractmethod
    async def run(self) -> Any: ...

    async def again(self) -> Any:
        return await self.run()

    async def wrong(self) -> str:
        """What is not as it should be, after the fault or at the end."""
        return ""

    async def close(self) -> None:
        if self.llm:
            await self.llm.close()
        self.llm = None


class Kept(Operation):
    """A model of which `stored` bytes are in the cache is loaded from `url`."""

    def __init__(self, url: str, data: bytes, sha256: str | None, stored: int) -> None:
        self.url, self.data, self.sha256, self.stored = url, data, sha256, stored

    async def prepare(self) -> None:
        facts = CachedModel(self.url, "tiny.gguf", len(self.data), None, None, self.sha256, bool(self.sha256))
        text = json.dumps({k: v for k, v in asdict(facts).items() if k != "stored"})
        begin = to_js(self.data[: self.stored])
        await fill(model_cache.FOLDER, model_cache.key(self.url) if self.stored else "", text, begin)

    async def run(self) -> list[int]:
        source = UrlSource(self.url, patience=PATIENCE)
        source = CachedSource(source, {self.url: self.sha256} if self.sha256 else {})
        self.llm = await Llama.load(source, **OPTIONS)
        return await answer(self.llm)

    async def again(self) -> list[int]:
        await self.close()
        tokens = await self.run()
        await self.close()
        kept = await self.kept()
        assert kept == "all", f"of the model there is {kept} in the cache"
        return tokens

    async def wrong(self) -> str:
        kept = await self.kept()
        return "" if kept in ("nothing", "beginning", "all") else kept

    async def kept(self) -> str:
        """What the cache has of the model: "nothing", its "beginning", "all" of it; or what is wrong."""
        models = await cache.list()
        if not models:
            return "nothing"
        [model] = models
        blob = await model_cache.opfs().file(model_cache.key(self.url))
        found = (await blob.arrayBuffer()).to_bytes()
        if found != self.data[: len(found)] or model.size != len(self.data):
            return f"{len(found)} bytes of something else"
        return "all" if len(found) == len(self.data) else "beginning"


class Removed(Kept):
    """A kept model is looked for, removed by its address, and what is left is cleared."""

    async def run(self) -> Any:
        await cache.size()
        await cache.remove(self.url)
        await cache.clear()
        return await self.kept()

    async def again(self) -> Any:
        await cache.clear()
        return await self.kept()


class Saved(Operation):
    """What is kept of a device is written anew: the old or the new of it is there."""

    async def prepare(self) -> None:
        await storage.save_json("test.json", {"of": "old"})

    async def run(self) -> Any:
        await storage.load_json("test.json")
        await storage.save_json("test.json", {"of": "new"})

    async def wrong(self) -> str:
        found = await storage.load_json("test.json")
        return "" if found in ({"of": "old"}, {"of": "new"}) else f"there is {found}"


class Loaded(Operation):
    """A model in memory is loaded onto a device of its own."""

    options: dict[str, Any] = OPTIONS

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def run(self) -> list[int]:
        self.llm = await Llama.load(self.data, **self.options)
        return await answer(self.llm)

    async def again(self) -> list[int]:
        await self.close()
        return await self.run()


class Answered(Loaded):
    """A loaded model answers; a lost device is replaced."""

    left: list[str] | None = None  # what a loaded model has open

    async def prepare(self) -> None:
        if self.llm and (self.llm._executor.device.lost or self.llm._executor.device.closed):
            await self.close()
        self.llm = self.llm or await Llama.load(self.data, **self.options)
        await self.llm.tuned()
        await self.llm.complete([1], max_tokens=1)  # so that nothing of the prompt is cached
        self.left = self.left or list(await faults.left())

    async def run(self) -> list[Any]:
        assert self.llm
        return await answer(self.llm)

    async def again(self) -> list[Any]:
        assert self.llm
        if self.llm._executor.device.lost:
            await self.llm.recover()
            await self.llm.tuned()
        found = await self.run()
        left = list(await faults.left())
        assert left == self.left, f"open are {left}, and before {self.left}"
        return found


class Left(Answered):
    """Whoever reads an answer goes away while tokens are on their way, and asks anew."""

    async def run(self) -> list[int]:
        assert self.llm
        async for _ in self.llm.stream(PROMPT, max_tokens=N_TOKENS, temperature=0, ignore_eos=True):
            break
        return await answer(self.llm)


class Evaluated(Answered):
    """Tokens are evaluated."""

    options = OPTIONS | {"logits_all": True}

    async def run(self) -> list[float]:
        assert self.llm
        log_p, _ = await self.llm.log_probabilities([*PROMPT, 7, 8])
        return [round(float(p), 3) for p in log_p]


class Profiled(Answered):
    """A loaded model is profiled, and answers."""

    async def run(self) -> list[int]:
        assert self.llm
        await self.llm.profile(n_generate=2, repetitions=1)
        return await answer(self.llm)


class Tuned(Answered):
    """Two kernels of a loaded model are tuned while nobody waits, with two variants each, and it answers."""

    options = OPTIONS | {"tune": "auto"}

    async def run(self) -> list[int]:
        assert self.llm
        self.llm._loaded.tuning.choices.clear()
        self.llm._rest = begin(self.llm._loaded.finish(self.llm._turns, self.llm._generator.spare))
        await self.llm.tuned()
        return await answer(self.llm)


class Recovered(Loaded):
    """A model is loaded again onto another device; where that fails, it can be tried again."""

    async def prepare(self) -> None:
        self.llm = await Llama.load(self.data, **OPTIONS)

    async def run(self) -> list[int]:
        assert self.llm
        await self.llm.recover()
        return await answer(self.llm)

    async def again(self) -> list[int]:
        assert self.llm
        try:
            await answer(self.llm)
        except GPUError as error:
            assert str(error).endswith("begin again with recover()."), error
        await self.llm.recover()
        return await answer(self.llm)


async def trials(operation: Operation, group: str, kind: str, lasting: bool) -> tuple[int, list[str], list[str]]:
    """How many calls failed, one after the other (with `lasting`, and all that came behind it); what was said; and what
    was wrong."""
    unheeded: list[str] = []
    hear = create_proxy(lambda event: unheeded.append(f"unheeded: {event.reason}"))
    js.addEventListener("unhandledrejection", hear)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unheeded.append(f"unheeded: {context}"))
    said: list[str] = []
    wrong: list[str] = []
    at = -1
    try:
        expected, _, _ = await trial(operation, group, kind, at, lasting, said)
        assert said == [], said
        while True:
            at += 1
            found, call, problems = await trial(operation, group, kind, at, lasting, said)
            if call is None:
                return at, said, wrong
            if found not in (None, expected):
                problems.append(f"it gave {found} and not {expected}")
            wrong += [f"{call}, {at}, {kind}: {problem}" for problem in [*problems, *unheeded]]
            unheeded.clear()
    finally:
        js.removeEventListener("unhandledrejection", hear)
        hear.destroy()
        loop.set_exception_handler(None)


async def trial(
    operation: Operation, group: str, kind: str, at: int, lasting: bool, said: list[str]
) -> tuple[Any, str | None, list[str]]:
    """What the operation gave, the name of the call that failed, and what was wrong."""
    problems: list[str] = []
    found = None

    async def step(work: Callable[[], Awaitable[Any]]) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = await asyncio.wait_for(work(), SECONDS)
        told.extend(str(each.message) for each in caught)
        return value

    told: list[str] = []
    await operation.prepare()
    faults.begin(group, kind, at, lasting)
    try:
        found = await step(operation.run)
    except LlamaWebError as error:
        told.append(str(error))
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    ended = faults.end()
    call = str(ended.asked[at]) if ended.hits else None
    said += told
    problems += [f"no sentence: {each!r}" for each in told if not each.endswith(".") or "\n" in each]
    try:
        if problem := await operation.wrong():
            problems.append(problem)
        again = await step(operation.again)
        if found is not None and again != found:
            problems.append(f"the second time it gave {again} and not {found}")
        found = again
    except Exception as error:
        problems.append(f"the second time: {type(error).__name__}: {error}")
    if not isinstance(operation, Answered) or problems:
        await operation.close()
        await asyncio.sleep(0)
        if left := list(await faults.left()):
            problems.append(f"left open: {', '.join(left)}")
            faults.forget()
    return found, call, problems


fill = run_js(
    """
    async (folder, name, facts, data) => {
      const root = await navigator.storage.getDirectory();
      await root.removeEntry(folder, { recursive: true }).catch(() => {});
      if (!name) return;
      const place = await root.getDirectoryHandle(folder, { create: true });
      for (const [each, text] of [[name, data], [`${name}.json`, facts]]) {
        const writable = await (await place.getFileHandle(each, { create: true })).createWritable();
        await writable.write(text);
        await writable.close();
      }
    }
    """
)
