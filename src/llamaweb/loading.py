"""Loading: from a source to a model whose weights and kernels are on the GPU; once more where a device was lost."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from llamaweb.chat import check_chat
from llamaweb.errors import DeviceLostError, ModelChangedError
from llamaweb.files.sources import StreamingSource
from llamaweb.gpu.device import Device
from llamaweb.gpu.executor import Executor, Pipelines
from llamaweb.gpu.tuning import kept_choices, tuned
from llamaweb.gpu.upload import Repacking, upload
from llamaweb.javascript import now_ms
from llamaweb.kernels.tuner import Shape, Trial, Variant, worth_tuning
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.model.shards import read_model
from llamaweb.planner import plan_model
from llamaweb.planner.budget import asked
from llamaweb.progress import Meter, Progress
from llamaweb.tokenizer import Tokenizer, load_tokenizer


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
    chat: bool = False
    progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        asked(self.n_ctx, self.n_ubatch, self.memory_budget)  # before anything is fetched


@dataclass(frozen=True)
class Loaded:
    """A model on the GPU. trials: kernel variants that were timed while it was loaded, which took `load_ms` in all, and
    `weights_ms` of them its weights."""

    file: GGUFFile
    tokenizer: Tokenizer
    executor: Executor
    trials: list[Trial]
    load_ms: float
    weights_ms: float

    def free(self) -> None:
        """Gives all GPU memory back."""
        self.executor.close()
        self.executor.device.close()


async def load(source: StreamingSource, options: LoadOptions, before: GGUFFile | None = None) -> Loaded:
    """Loads the model of which `source` is a file, and closes the source; see `Llama.load`.

    before: what was loaded of the same source earlier; raises ModelChangedError if that is another model by now.
    """
    begin = now_ms()
    report = options.progress or (lambda _: None)

    def report_of(phase: str, unit: str = "") -> Callable[[int, int], None]:
        meter = Meter(phase, unit, now_ms)
        return lambda done, total: report(meter.progress(done, total))

    opened = [source]
    device = executor = repacking = None
    try:
        file, sources = await read_model(source, lambda done: report(Progress("header", done, 0, "B")), opened.append)
        if before and not file.same_as(before):
            raise ModelChangedError(
                f"{source.name} is another model than the one that was loaded, and tokens may mean other text to it; "
                "load it anew with Llama.load."
            )
        if options.chat:
            check_chat(file.metadata)
        device = await Device.open()
        pipelines = Pipelines(device)
        repacking = Repacking(pipelines, file)
        await repacking.begun()
        tokenizer = load_tokenizer(file.metadata)
        tunes = worth_tuning(device.profile, options.tune)
        replan = partial(
            plan_model,
            file,
            device.profile,
            n_ctx=options.n_ctx,
            n_ubatch=options.n_ubatch,
            memory_budget=options.memory_budget,
            logits_all=options.logits_all,
            type_k=options.type_k,
            type_v=options.type_v,
            tuned=tunes,
            unfused=options.unfused,
        )
        executor = Executor(device, replan(), pipelines)
        await executor.allocate()
        before_weights = now_ms()
        await upload(executor, file, sources, repacking, report_of("weights", "B"))
        weights_ms = now_ms() - before_weights
        trials: list[Trial] = []
        choices: dict[Shape, Variant] = {}
        if tunes:
            done = report_of("tuning")
            choices, trials = await tuned(executor, lambda choices: replan(choices=choices), options.tune, done)
        elif options.tune != "off":
            choices = await kept_choices(executor)
        if choices:
            executor.plan = replan(choices=choices)
        await executor.prepare(report_of("pipelines"))
        await _close(opened)
    except BaseException as error:
        if repacking:
            repacking.close()
        if executor:
            executor.close()
        if device:
            device.close()
        await _close(opened)
        if isinstance(error, DeviceLostError) and device and executor:
            raise DeviceLostError(
                f"The GPU device was lost ({device.loss}) while a model of {executor.plan.memory['total']} bytes was "
                "loaded; load it again, with a smaller n_ctx or a memory_budget if that happens again."
            ) from error
        raise
    return Loaded(file, tokenizer, executor, trials, now_ms() - begin, weights_ms)


async def _close(sources: list[StreamingSource]) -> None:
    """Closes the sources, whatever happens to one of them, and empties the list."""
    try:
        while sources:
            await sources.pop().close()
    finally:
        if sources:
            await _close(sources)
