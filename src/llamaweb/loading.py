"""Loading: from a source to a model whose weights and kernels are on the GPU; once more where a device was lost."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from llamaweb.architectures.embeddings import check_generates
from llamaweb.chat import check_chat
from llamaweb.errors import BrokenCopyError, CacheWarning, DeviceLostError, ModelChangedError, megabytes
from llamaweb.files.sources import StreamingSource
from llamaweb.gpu.checker import check_weights
from llamaweb.gpu.device import Device
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.recognition import recognize
from llamaweb.gpu.trials import Spare
from llamaweb.gpu.tuning import Tuning, kept_choices
from llamaweb.gpu.upload import Repacking, upload
from llamaweb.javascript import now_ms
from llamaweb.kernels.tuner import worth_tuning
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.model.shards import read_model
from llamaweb.planner import Planner
from llamaweb.planner.budget import asked
from llamaweb.planner.tables import tell_if_none_moves
from llamaweb.progress import Meter, Progress
from llamaweb.tokenizer import Tokenizer, load_tokenizer
from llamaweb.turns import Turns, begin


@dataclass(frozen=True)
class LoadOptions:
    """As of `Llama.load`."""

    n_ctx: int | None = None
    n_ubatch: int = 512
    memory_budget: int | None = None
    logits_all: bool = False
    type_k: str = "f16"
    type_v: str = "f16"
    tune: str = "auto"
    unfused: Collection[str] = ()
    precision: str = "high"
    chat: bool = False
    progress: Callable[[Progress], None] | None = None
    check: bool = False
    self_check: bool = True
    offload: str = "auto"
    pooling: str | None = None

    def __post_init__(self) -> None:
        asked(self.n_ctx, self.n_ubatch, self.memory_budget)  # before anything is fetched


FIRST = ("decode", "prefill", "evaluate", "embed")  # phases that are compiled before a load ends, if the plan has them


@dataclass(frozen=True)
class Loaded:
    """A model on the GPU, ready to answer. It took `load_ms` in all, and `weights_ms` of them its weights."""

    file: GGUFFile
    tokenizer: Tokenizer
    executor: Executor
    tuning: Tuning
    options: LoadOptions
    load_ms: float
    weights_ms: float

    async def finish(self, turns: Turns, spare: Spare) -> None:
        """What a first answer does not need, while nobody waits: the kernels of a long context, and tuning."""
        await self.executor.prepare()
        if worth_tuning(self.executor.device.profile, self.options.tune) and self.options.tune == "auto":
            await self.tuning.run("auto", turns, spare, _report(self.options, "tuning"))

    def free(self) -> None:
        """Gives all GPU memory back."""
        self.executor.close()
        self.executor.device.close()


class _Behind:
    """Progress of what goes on beside something else: it is told when that is done, so that phases are in order."""

    def __init__(self) -> None:
        self._last: Progress | None = None
        self._to: Callable[[Progress], None] | None = None

    def tell(self, progress: Progress) -> None:
        self._last = progress
        if self._to:
            self._to(progress)

    def go_on(self, to: Callable[[Progress], None]) -> None:
        self._to = to
        if self._last:
            to(self._last)


def _report(options: LoadOptions, phase: str, unit: str = "") -> Callable[[int, int], None]:
    meter, tell = Meter(phase, unit, now_ms), options.progress or (lambda _: None)
    return lambda done, total: tell(meter.progress(done, total))


async def load(source: StreamingSource, options: LoadOptions, before: GGUFFile | None = None) -> Loaded:
    """Loads the model of which `source` is a file, and closes the source; see `Llama.load`. Where a copy of it in the
    browser's storage cannot be read, it is fetched again, with a CacheWarning.

    before: what was loaded of the same source earlier; raises ModelChangedError if that is another model by now.
    """
    broken: set[str] = set()
    while True:
        try:
            return await _load(source, options, before)
        except BrokenCopyError as error:
            if error.name in broken:  # the browser does not give it up either
                raise
            broken.add(error.name)
            warnings.warn(str(error).replace("; load it again.", "."), CacheWarning, stacklevel=2)
            source = source.again()


async def _load(source: StreamingSource, options: LoadOptions, before: GGUFFile | None) -> Loaded:
    began = now_ms()
    report = options.progress or (lambda _: None)
    compiled = _Behind()
    opened = [source]
    device = executor = repacking = compiling = None
    try:
        file, sources = await read_model(source, lambda done: report(Progress("header", done, 0, "B")), opened.append)
        if before and not file.same_as(before):
            raise ModelChangedError(
                f"{source.name} is another model than the one that was loaded, and tokens may mean other text to it; "
                "load it anew with Llama.load."
            )
        if options.chat:
            check_generates(file, options.pooling)
            check_chat(file.metadata)
        device = await Device.open()
        pipelines = Pipelines(device)
        repacking = Repacking(pipelines, file)
        await asyncio.sleep(0)  # so that it begins
        await recognize(device, pipelines)
        planner = Planner(
            file,
            device.profile,
            n_ctx=options.n_ctx,
            n_ubatch=options.n_ubatch,
            memory_budget=options.memory_budget,
            logits_all=options.logits_all,
            type_k=options.type_k,
            type_v=options.type_v,
            tuned=worth_tuning(device.profile, options.tune),
            unfused=options.unfused,
            precision=options.precision,
            checked=options.self_check,
            offload=options.offload,
            pooling=options.pooling,
        )
        plan = planner.plan({})
        tell_if_none_moves(options.offload, plan.tables)
        choices = await kept_choices(plan, device.profile) if options.tune == "auto" else {}
        executor = Executor(device, planner.plan(choices), pipelines, options.self_check)
        await executor.allocate()
        # Kernels compile while Python has the vocabulary to make, and while weights come.
        compiling = begin(executor.compile(FIRST, _report(replace(options, progress=compiled.tell), "pipelines")))
        await asyncio.sleep(0)
        tokenizer = load_tokenizer(file.metadata)
        before_weights = now_ms()
        await upload(executor, file, sources, repacking, _report(options, "weights", "B"))
        weights_ms = now_ms() - before_weights
        compiled.go_on(report)
        await compiling
        await executor.prepare(FIRST)  # when all regions but the weights are idle: the self-check takes them
        if options.check:
            await check_weights(executor)
        await _close(opened)
        tuning = Tuning(executor, planner, choices)
        if options.tune == "full":
            await tuning.run("full", Turns(), lambda n: 0, _report(options, "tuning"))
    except BaseException as error:
        if repacking:
            repacking.close()
        if compiling:
            compiling.cancel()
        if executor:
            executor.close()
        if device:
            device.close()
        await _close(opened)
        if isinstance(error, DeviceLostError) and device and executor:
            raise DeviceLostError(
                f"The GPU device was lost ({device.loss}) while a model of "
                f"{megabytes(executor.plan.memory['total'])} was loaded; "
                "load it again, with a smaller n_ctx or a memory_budget if that happens again."
            ) from error
        raise
    return Loaded(file, tokenizer, executor, tuning, options, now_ms() - began, weights_ms)


async def _close(sources: list[StreamingSource]) -> None:
    """Closes the sources, whatever happens to one of them, and empties the list."""
    try:
        while sources:
            await sources.pop().close()
    finally:
        if sources:
            await _close(sources)
