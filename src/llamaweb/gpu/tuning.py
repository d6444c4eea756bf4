"""Tuning: times the variants of kernels with the model's own weights, and keeps what was fastest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import js
import numpy as np

from llamaweb.errors import KernelError
from llamaweb.files.storage import load_json, save_json
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.timer import Timer
from llamaweb.javascript import js_file
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.mul_mat import PLAIN
from llamaweb.kernels.template import edition
from llamaweb.kernels.tuner import (
    CHECKED_AT_ONCE,
    CHECKED_TOKENS,
    TUNED,
    Choices,
    Shape,
    Trial,
    Variant,
    alike,
    candidates,
    checked_tokens,
    choose,
    finalists,
    from_json,
    to_json,
)
from llamaweb.planner.plan import LONG_CONTEXT, Binding, Dispatch, ModelPlan

FILE = "llamaweb-tuning.json"
_FINALISTS = 3  # of each shape are timed once more beside the default,
_ROUNDS = 3  # … so many times
_NMSE = 1e-6  # between a variant's result and the plain one's
_NO_SCORE = -1e38  # less is the largest score of a split that has no positions
_NMSE_QUANTIZED = 5e-4  # … where activations are rounded to 8 bits

# One use of a kernel: its dispatch, behind the one that quantizes its input, if there is one.
Place = tuple[Dispatch, ...]


async def tuned(
    executor: Executor,
    replan: Callable[[Choices], ModelPlan],
    mode: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[Shape, Variant], list[Trial]]:
    """The choices for the executor's plan, whose weights are in place: kept ones, and for the rest what is timed now.

    replan gives the same plan with other variants. Mode "full" times everything anew. Trials are what was timed.
    """
    profile = executor.device.profile
    kept = await _kept()
    mine = _dict(kept.get(profile.name))
    products = _products(executor.plan)
    choices = {} if mode == "full" else from_json(mine, list(products), profile)
    missing = [shape for shape in products if shape not in choices]
    if not missing:
        return choices, []
    trying = _Trials(executor, replan, mode)
    try:
        trials = await trying.run(missing, progress)
    finally:
        trying.close()
    choices |= choose(trials)
    devices = {**kept, profile.name: {**mine, **to_json(choices)}}
    await save_json(FILE, {"kernels": edition(), "devices": devices})
    return choices, trials


async def kept_choices(executor: Executor) -> dict[Shape, Variant]:
    """What tuning has found on the executor's device before for the kernels of its plan; nothing is timed."""
    kept = await _kept()
    if not kept:
        return {}
    profile = executor.device.profile
    return from_json(kept.get(profile.name), list(_products(executor.plan)), profile)


async def _kept() -> dict[str, Any]:
    """By device, what is in the browser's storage of these very kernels."""
    stored = _dict(await load_json(FILE))
    return _dict(stored.get("devices")) if stored.get("kernels") == edition() else {}


def _dict(stored: Any) -> dict[str, Any]:
    """What is damaged is as if it were not there."""
    return stored if isinstance(stored, dict) else {}


def _products(plan: ModelPlan) -> dict[Shape, list[Place]]:
    """What has variants, of a token and of a prefill batch, by shape, in the order of the layers."""
    found: dict[Shape, list[Place]] = {}
    for name, ops in TUNED.items():
        phase = plan.phases.get(name)
        before: dict[Any, Dispatch] = {}
        for d in phase.dispatches if phase else ():
            slots = _slots(d)
            if d.kernel.template == "quantize":
                before[slots["y"]] = d
            elif d.kernel.template == "rope_kv":  # q, and the keys and values of the batch
                before[slots["k_cache"]] = d
            elif (shape := Shape.of(d.kernel, phase.n_tokens if phase else 1)) and shape.op in ops:
                first = before.get(slots.get("x_q8") or slots.get("k_cache"))
                found.setdefault(shape, []).append((first, d) if first else (d,))
    return found


def _slots(d: Dispatch) -> dict[str, Binding]:
    return {slot.name: binding for slot, binding in zip(d.kernel.slots, d.bindings, strict=True)}


@dataclass(frozen=True)
class _Entry:
    """A variant to be timed, and where the plan that has it uses it."""

    shape: Shape
    variant: Variant
    places: list[Place]

    @property
    def kernels(self) -> dict[Kernel, int]:
        """Its kernels, which differ by what a shape does not tell (a bias, a window), and the first place of each."""
        return {self.places[i][-1].kernel: i for i in reversed(range(len(self.places)))}

    @property
    def timed(self) -> list[Dispatch]:
        """Every layer's of a token, since small weights and keys stay in a cache; one of a batch, which takes long."""
        places = self.places if self.shape.n_tokens == 1 else self.places[:1]
        return [d for place in places for d in place]


class _Trials:
    def __init__(self, executor: Executor, replan: Callable[[Choices], ModelPlan], mode: str) -> None:
        self._executor = executor
        self._replan = replan
        self._mode = mode
        self._replay = js_file("gpu/replay.js")(executor.device.handle)
        self._timer = Timer(executor.device)
        self._random = np.random.default_rng(0)
        self._plain: dict[Shape, list[Place]] = {}

    async def run(self, shapes: Sequence[Shape], progress: Callable[[int, int], None] | None) -> list[Trial]:
        """Every variant of every shape: all are compiled side by side, then timed one after the other."""
        profile = self._executor.device.profile
        tried = {shape: candidates(shape, profile, self._mode) for shape in shapes}
        self._plain = _products(self._replan({shape: PLAIN for shape in shapes if shape.op == "mul_mat"}))
        todo: list[_Entry] = []
        for n in range(max(len(variants) for variants in tried.values())):
            # One plan has the n-th variant of every shape.
            choices = {shape: variants[n] for shape, variants in tried.items() if n < len(variants)}
            for shape, places in _products(self._replan(choices)).items():
                if shape in choices:
                    todo.append(_Entry(shape, choices[shape], places))
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, 3 * len(todo))

        async def compiles(entry: _Entry) -> bool:
            works = await self._compiles(entry)
            for _ in range(1 if works else 3):  # what does not compile is not checked or timed either
                step()
            return works

        compiled = await asyncio.gather(*(compiles(entry) for entry in todo))
        works = [entry for entry, ok in zip(todo, compiled, strict=True) if ok]
        right = []
        for entry in works:  # all before the first is timed: while results are read, a GPU's clocks fall
            right.append(await self._right(entry))
            step()
        if works:
            await self._timer.warm(self._steps(works[0].timed), lambda: None)
        trials: list[Trial] = []
        for entry, is_right in zip(works, right, strict=True):
            default = entry.variant == tried[entry.shape][0]
            trials.append(Trial(entry.shape, entry.variant, await self._time(entry), is_right, default))
            step()
        for best in finalists(trials, _FINALISTS):
            for i in best * _ROUNDS:  # in turn, so that all see the same clocks
                again = await self._time(works[i], trials[i].microseconds)
                trials[i] = replace(trials[i], microseconds=min(again, trials[i].microseconds))
        return trials

    def close(self) -> None:
        self._timer.close()

    async def _compiles(self, entry: _Entry) -> bool:
        places = [place for i in entry.kernels.values() for place in (entry.places[i], self._plain_of(entry, i))]
        try:
            await self._executor.pipelines.compile([d.kernel for place in places for d in place])
        except KernelError:
            return False
        return True

    def _plain_of(self, entry: _Entry, i: int) -> Place:
        """What every device computes right in an entry's place i."""
        if entry.shape.op == "mul_mat":
            return self._plain[entry.shape][i]
        *before, d = entry.places[i]
        return (*before, d.plain or d)

    async def _time(self, entry: _Entry, about: float = 0.0) -> float:
        """Microseconds a product, at best. about: what it is known to take, which is then measured once."""
        n_tokens, products = entry.shape.n_tokens, len(entry.timed) / len(entry.places[0])
        repetitions = 3 if n_tokens == 1 and not about else 1
        steps, n_past = self._steps(entry.timed), self._depth(entry.shape)

        def reset() -> None:
            self._write_batch(n_past, n_tokens)

        us = await self._timer.time(steps, n_tokens, repetitions=repetitions, about=about * products, reset=reset)
        return us / products

    def _depth(self, shape: Shape) -> int:
        """How many tokens a kernel is timed behind: half of what its phase goes up to; for a batch, none."""
        plan = self._executor.plan
        if shape.op != "flash_attn_vec":
            return 0
        ends_early = "decode_long" in plan.phases and shape.splits == 1  # the split one goes on from there
        return (min(plan.n_ctx, LONG_CONTEXT) if ends_early else plan.n_ctx) // 2

    def _write_batch(self, n_past: int, n_tokens: int) -> None:
        self._executor.write_io(IO.n_past, np.array([n_past, n_tokens], np.uint32))

    def _steps(self, dispatches: Sequence[Dispatch]) -> Any:
        return js.Array.of(*map(self._step, dispatches))

    def _step(self, d: Dispatch) -> Any:
        return self._executor.pipelines.step(d.kernel, [(self._executor.buffers[b.region], b) for b in d.bindings], d)

    async def _right(self, entry: _Entry) -> bool:
        pairs = [(entry.places[i], self._plain_of(entry, i)) for i in entry.kernels.values()]
        return all([place == plain or await self._same(entry, place, plain) for place, plain in pairs])

    async def _same(self, entry: _Entry, place: Place, plain: Place) -> bool:
        """Whether a place's result is the plain one's."""
        shape = entry.shape
        n_tokens = checked_tokens(shape.n_tokens, place[-1].token_tile)
        # A token's attention reads what it has written for those before it.
        runs = min(self._executor.plan.n_ctx, CHECKED_TOKENS) if shape.op == "flash_attn_vec" else 1
        seed = int(self._random.integers(1 << 32))
        expected = [rows async for rows in self._results(plain, shape, n_tokens, runs, seed)]
        error = norm = 0.0
        async for rows in self._results(place, shape, n_tokens, runs, seed):
            wanted, found = _values(expected.pop(0)), _values(rows)
            error += float(np.sum((found - wanted) ** 2, dtype=np.float64))
            norm += float(np.sum(wanted**2, dtype=np.float64))
        limit = _NMSE_QUANTIZED if place[0].kernel.template == "quantize" else _NMSE
        return alike(error, norm, limit)

    async def _results(self, place: Place, shape: Shape, n_tokens: int, runs: int, seed: int) -> AsyncIterator[Any]:
        """What the last of `runs` gives, each of `n_tokens` behind those before, as JavaScript's arrays of some tokens:
        a whole batch would stay in Python's memory, which never shrinks. Inputs are random, the same for the same
        seed."""
        executor, random = self._executor, np.random.default_rng(seed)
        source, result = _source(place), _slots(place[-1])["y"]
        x, y = ([_rows(binding, shape.n_tokens, part) for part in _parts(n_tokens)] for binding in (source, result))
        executor.clear(result)
        for i in range(runs):
            for rows in x:
                executor.write(rows, random.standard_normal(rows.size // 4, dtype=np.float32))
            self._write_batch(i, n_tokens)
            self._replay.run(self._steps(place), 0, len(place), n_tokens)
        for rows in y:
            yield await executor.copy(rows)


def _values(rows: Any) -> np.ndarray:
    """float32, but for scores of what a split does not have."""
    found = np.frombuffer(rows.to_bytes(), np.float32)
    return np.where(found < _NO_SCORE, np.float32(0), found)


def _parts(n_tokens: int) -> list[range]:
    return [range(at, min(at + CHECKED_AT_ONCE, n_tokens)) for at in range(0, n_tokens, CHECKED_AT_ONCE)]


def _rows(binding: Binding, n_tokens: int, tokens: range) -> Binding:
    """Those of some tokens, in a value of `n_tokens`."""
    row = binding.size // n_tokens
    return Binding(binding.region, binding.offset + tokens.start * row, len(tokens) * row)


def _source(place: Place) -> Binding:
    slots = _slots(place[0])
    return slots["qkv" if "qkv" in slots else "x"]
