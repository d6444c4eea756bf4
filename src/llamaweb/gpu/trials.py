"""Trials of kernel variants: each is compiled, checked against the plain one, and timed with the model's own weights.

They use what the model has: its weights, its arena, and of its cache what holds nothing (`Spare`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import js
import numpy as np

from llamaweb.errors import KernelError
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.timer import Timer
from llamaweb.javascript import js_file, now_ms
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel, Variant
from llamaweb.kernels.tuner import (
    CHECKED_AT_ONCE,
    CHECKED_TOKENS,
    Shape,
    Trial,
    alike,
    checked_tokens,
    finalists,
)
from llamaweb.operations import BY_TEMPLATE, OPERATIONS
from llamaweb.planner import Binding, Dispatch, ModelPlan, Planner
from llamaweb.planner.plan import LONG_CONTEXT
from llamaweb.planner.variants import candidates
from llamaweb.turns import Turns

_FINALISTS = 3  # of each shape are timed once more beside the default,
_ROUNDS = 3  # … so many times
_NMSE = 1e-6  # between a variant's result and the plain one's
_NO_SCORE = -1e38  # less is the largest score of a split that has no positions
_NMSE_QUANTIZED = 5e-4  # … where activations are rounded to 8 bits
_SLICE_US = 4e3  # of the GPU's time that one run of the default may take: other variants take a multiple
_GROWTH = 4  # from one part of a product to the next
_HOPELESS = 4  # times the default's time: not worth timing again
_COMPILED_AT_ONCE = 8  # variants: a call's own kernels would wait behind them
_COLD_MS = 200.0  # without work, after which a GPU's clocks have fallen

T = TypeVar("T")

# One use of a kernel: its dispatch, behind those that prepare what it reads: its input as integers, or routes.
Place = tuple[Dispatch, ...]

# From which position on the cache holds nothing, where so many can be written; None: there is no such room.
Spare = Callable[[int], int | None]


def places(plan: ModelPlan) -> dict[Shape, list[Place]]:
    """What has variants, of a token and of a prefill batch, by shape, in the order of the layers."""
    found: dict[Shape, list[Place]] = {}
    for name, phase in plan.phases.items():
        dispatches = phase.dispatches[: phase.head if plan.embeddings else None]  # behind a pooling there are few texts
        before: dict[tuple[str, Binding], set[int]] = {}
        for i, d in enumerate(dispatches):
            slots = _slots(d)
            place = {i}.union(*(before.get(taken, ()) for taken in slots.items()))
            if prepares := BY_TEMPLATE[d.kernel.template].prepares:
                before[prepares[1], slots[prepares[0]]] = place
            elif d.shape and name in OPERATIONS[d.shape.op].tuned:
                found.setdefault(d.shape, []).append(tuple(dispatches[j] for j in sorted(place)))
    return found


def _slots(d: Dispatch) -> dict[str, Binding]:
    return {slot.name: binding for slot, binding in zip(d.kernel.slots, d.bindings, strict=True)}


@dataclass(frozen=True)
class _Entry:
    """A variant to be timed, and where the plan that has it uses it."""

    shape: Shape
    variant: Variant
    places: list[Place]
    default: bool

    @property
    def kernels(self) -> dict[Kernel, int]:
        """Its kernels, which differ by what a shape does not tell (a bias, a window), and the first place of each."""
        return {self.places[i][-1].kernel: i for i in reversed(range(len(self.places)))}


@dataclass(frozen=True)
class _Load:
    """How much of a shape is timed at once: so many places of a token, since small weights and keys stay in a cache, or
    so many tokens of a batch; and the microseconds that the default takes for one place and few tokens."""

    places: int
    n_tokens: int
    once: float


@dataclass(frozen=True)
class _Share:
    """What a slice holds of a shape: one of so many parts of its rows or heads, where a whole one takes longer, and how
    many runs of that for few tokens, one behind the other."""

    parts: int = 1
    runs: int = 1


def _part(place: Place, share: float) -> Place:
    """A place of which only so much of the rows or heads is computed, at least: the last dispatch has fewer
    workgroups."""
    *before, d = place
    x, y, z = d.workgroups
    return (*before, replace(d, workgroups=(min(math.ceil(share * x), x), y, z)))


class NoRoom(Exception):
    """The cache is full, so that attention cannot be tried."""


class Trials:
    """Of one model. Each piece of work is begun when nobody waits, and anew where a call came in between."""

    def __init__(self, executor: Executor, planner: Planner, mode: str, turns: Turns, spare: Spare) -> None:
        self._executor = executor
        self._planner = planner
        self._mode = mode
        self._turns = turns
        self._spare = spare
        self._replay = js_file("gpu/replay.js")(executor.device.handle)
        self._timer = Timer(executor.device)
        self._random = np.random.default_rng(0)
        self._plain: dict[Shape, list[Place]] = {}
        self._shares: dict[Shape, _Share] = {}
        self._worked = 0.0  # when something was timed last

    def candidates(self, shape: Shape) -> list[Variant]:
        return candidates(shape, self._executor.device.profile, self._mode)

    async def run(self, shapes: Sequence[Shape], step: Callable[[], None]) -> AsyncIterator[list[Trial]]:
        """The trials of one shape after the other. All variants are compiled side by side, then checked, then timed:
        while results are read, a GPU's clocks fall. step: is called once for each candidate's compiling, checking and
        timing."""
        plain = {shape: variant for shape in shapes if (variant := OPERATIONS[shape.op].any_device)}
        found = places(self._planner.plan(plain))
        self._plain = {shape: found[shape] for shape in plain}
        entries = await self._entries(shapes)
        atonce = asyncio.Semaphore(_COMPILED_AT_ONCE)

        async def compiles(entry: _Entry) -> bool:
            async with atonce:
                await self._turns.idle()
                works = await self._compiles(entry)
            for _ in range(1 if works else 3):  # what does not compile is not checked or timed either
                step()
            return works

        compiled = await asyncio.gather(*map(compiles, entries))
        works = [entry for entry, ok in zip(entries, compiled, strict=True) if ok]
        for shape in shapes:
            mine = [entry for entry in works if entry.shape == shape]
            if mine:
                await self._piece(self._fit, mine[0])
        right = []
        for entry in works:
            right.append(await self._piece(self._right, entry))
            step()
        for shape in shapes:
            checked = [(entry, is_right) for entry, is_right in zip(works, right, strict=True) if entry.shape == shape]
            if any(is_right is None for _, is_right in checked):
                continue  # there was no room to check it
            yield await self._timed([entry for entry, _ in checked], [bool(is_right) for _, is_right in checked], step)

    async def _entries(self, shapes: Sequence[Shape]) -> list[_Entry]:
        tried = {shape: self.candidates(shape) for shape in shapes}
        found = []
        for n in range(max(map(len, tried.values()), default=0)):
            await self._turns.idle()
            # One plan has the n-th variant of every shape.
            choices = {shape: variants[n] for shape, variants in tried.items() if n < len(variants)}
            used = places(self._planner.plan(choices))
            found += [_Entry(shape, choices[shape], used[shape], n == 0) for shape in choices]
        return found

    def close(self) -> None:
        self._timer.close()

    async def _piece(self, work: Callable[..., Awaitable[T]], *args: Any) -> T | None:
        """What some work gives; None where the cache has no room for it."""
        try:
            return await self._turns.when_idle(lambda: work(*args))
        except NoRoom:
            return None

    async def _compiles(self, entry: _Entry) -> bool:
        of_both = [place for i in entry.kernels.values() for place in (entry.places[i], self._plain_of(entry, i))]
        kernels, pipelines = [d.kernel for place in of_both for d in place], self._executor.pipelines
        if any(map(pipelines.refuses, kernels)):  # the self-check found it to be wrong
            return False
        try:
            await pipelines.compile(kernels)
        except KernelError:
            return False
        return True

    def _plain_of(self, entry: _Entry, i: int) -> Place:
        """What every device computes right in an entry's place i."""
        if entry.shape in self._plain:
            return self._plain[entry.shape][i]
        *before, d = entry.places[i]
        return (*before, d.plain or d)

    async def _timed(self, entries: list[_Entry], right: list[bool], step: Callable[[], None]) -> list[Trial]:
        """The trials of one shape: each variant, then the default and the fastest in turn, so that all see the same
        clocks."""
        if not entries:
            return []
        load = await self._piece(self._load, entries[0])
        trials: list[Trial] = []
        for entry, is_right in zip(entries, right, strict=True):
            us = await self._piece(self._time, entry, load) if load else None
            if us is None:
                return []
            trials.append(Trial(entry.shape, entry.variant, us, is_right, entry.default))
            step()
        (best,) = finalists(trials, _FINALISTS)
        return await self._piece(self._finals, entries, trials, best, load) or trials

    async def _finals(self, entries: list[_Entry], trials: list[Trial], best: list[int], load: _Load) -> list[Trial]:
        found = list(trials)
        for i in best * _ROUNDS:
            us = await self._time(entries[i], load, found[i].microseconds)
            found[i] = replace(found[i], microseconds=min(us, found[i].microseconds))
        return found

    async def _fit(self, entry: _Entry) -> None:
        """Finds how much of a shape may be computed at once so that few tokens take no longer than a slice: from one
        column of workgroups on, as many more as there is time for."""
        shape, d = entry.shape, entry.places[0][-1]
        few, parts = checked_tokens(shape.n_tokens, d.token_tile), d.workgroups[0]
        while True:
            self._shares[shape] = _Share(parts)
            held = await self._clock(entry, 1, few) / parts
            if parts == 1 or _GROWTH * held > _SLICE_US:
                break
            parts = max(parts // _GROWTH, 1)
        self._shares[shape] = _Share(parts, max(int(_SLICE_US / held), 1))

    async def _load(self, entry: _Entry) -> _Load:
        """How much of a shape keeps the GPU for no longer than a slice."""
        shape = entry.shape
        few = checked_tokens(shape.n_tokens, entry.places[0][-1].token_tile)
        once = await self._clock(entry, 1, few)
        fit = max(int(_SLICE_US * self._share(shape).parts / once), 1)
        if shape.n_tokens > 1:
            return _Load(1, min(shape.n_tokens, few * fit), once)
        return _Load(min(len(entry.places), fit), 1, once)

    async def _time(self, entry: _Entry, load: _Load, about: float = 0.0) -> float:
        """Microseconds a product, at best. about: what it is known to take, which is then measured once."""
        if not about:
            few = checked_tokens(entry.shape.n_tokens, entry.places[0][-1].token_tile)
            once = await self._clock(entry, 1, few)
            if once > _HOPELESS * load.once:
                return once * entry.shape.n_tokens / few
        # As of a whole batch, where not all of its tokens were timed.
        scale = entry.shape.n_tokens / load.n_tokens
        repetitions = 1 if about or load.n_tokens > 1 else 3
        return scale * await self._clock(entry, load.places, load.n_tokens, repetitions, about / scale)

    async def _clock(self, entry: _Entry, count: int, n_tokens: int, repetitions: int = 1, about: float = 0.0) -> float:
        """Microseconds of one place, of `count` one behind the other."""
        whole = entry.places[0][-1].workgroups[0]
        some = [_part(place, 1 / self._share(entry.shape).parts) for place in entry.places[:count]]
        scale = whole / some[0][-1].workgroups[0]
        steps = self._steps([d for place in some for d in place])
        n_past = self._depth(entry.shape, n_tokens)

        for d in dict.fromkeys(d for place in some for d in place if BY_TEMPLATE[d.kernel.template].steers):
            self._write_random(_rows(_slots(d)["x"], entry.shape.n_tokens, range(n_tokens)), self._random)

        def reset() -> None:
            self._turns.check()
            self._write_batch(n_past, n_tokens)

        if now_ms() - self._worked > _COLD_MS:
            await self._timer.warm(steps, reset)
        about *= count / scale
        us = await self._timer.time(steps, n_tokens, repetitions=repetitions, about=about, reset=reset)
        self._worked = now_ms()
        return scale * us / count

    def _room(self, n: int) -> int:
        """The first position that holds nothing, before room for n."""
        begin = self._spare(n)
        if begin is None:
            raise NoRoom
        return begin

    def _depth(self, shape: Shape, n_tokens: int) -> int:
        """How many tokens a kernel is timed behind: half of what its phase goes up to, or behind what the cache holds;
        a batch, no further than it must. A layer with a window writes there into a row that holds nothing."""
        plan = self._executor.plan
        if not OPERATIONS[shape.op].cached:
            return 0
        begin = self._room(n_tokens)
        if shape.n_tokens > 1:
            return begin
        ends_early = "decode_long" in plan.phases and shape.splits == 1  # the split one goes on from there
        wanted = (min(plan.n_ctx, LONG_CONTEXT) if ends_early else plan.n_ctx) // 2
        rows = {ring.rows for ring in plan.rings}
        if wanted <= begin or len(rows) > 1:
            return begin
        return begin + (wanted - begin) // max(rows) * max(rows) if rows else wanted

    def _write_batch(self, n_past: int, n_tokens: int) -> None:
        self._executor.write_io(IO.n_past, np.array([n_past, n_tokens], np.uint32))
        plan = self._executor.plan
        if plan.embeddings:  # one text
            text_of, begins = IO.texts(plan.n_ubatch)
            self._executor.write_io(text_of, np.zeros(n_tokens, np.uint32))
            self._executor.write_io(begins, np.array([0, n_tokens], np.uint32))

    def _write_random(self, rows: Binding, random: np.random.Generator) -> None:
        self._executor.write(rows, random.standard_normal(rows.size // 4, dtype=np.float32))

    def _steps(self, dispatches: Sequence[Dispatch]) -> Any:
        return js.Array.of(*map(self._step, dispatches))

    def _step(self, d: Dispatch) -> Any:
        return self._executor.pipelines.step(d.kernel, [(self._executor.buffers[b.region], b) for b in d.bindings], d)

    def _share(self, shape: Shape) -> _Share:
        return self._shares.get(shape) or _Share()

    async def _right(self, entry: _Entry) -> bool:
        pairs = [(entry.places[i], self._plain_of(entry, i)) for i in entry.kernels.values()]
        return all([place == plain or await self._same(entry, place, plain) for place, plain in pairs])

    async def _same(self, entry: _Entry, place: Place, plain: Place) -> bool:
        """Whether a place's result is the plain one's, as far as that is computed."""
        shape, parts = entry.shape, self._share(entry.shape).parts
        if parts > 1:
            all_rows = plain[-1].workgroups[0]
            plain = _part(plain, 1 / parts)
            # Tiles may end elsewhere, but not before those of the plain one.
            place = _part(place, plain[-1].workgroups[0] / (all_rows - 1 or 1))
        n_tokens = checked_tokens(shape.n_tokens, place[-1].token_tile)
        # A token's attention reads what it has written for those before it.
        cached = OPERATIONS[shape.op].cached
        runs = min(self._executor.plan.n_ctx, CHECKED_TOKENS) if cached and shape.n_tokens == 1 else 1
        begin = self._room(max(runs, n_tokens)) if cached else 0
        seed = int(self._random.integers(1 << 32))
        expected = [rows async for rows in self._results(plain, shape, n_tokens, range(begin, begin + runs), seed)]
        error = norm = 0.0
        async for rows in self._results(place, shape, n_tokens, range(begin, begin + runs), seed):
            wanted, found = _values(expected.pop(0)), _values(rows)
            if parts > 1:
                found = np.where(wanted == 0, np.float32(0), found)
            error += float(np.sum((found - wanted) ** 2, dtype=np.float64))
            norm += float(np.sum(wanted**2, dtype=np.float64))
        rounds = shape.precision == "fast" and any(d.kernel.template == "quantize" for d in place)
        limit = _NMSE_QUANTIZED if rounds else _NMSE
        return alike(error, norm, limit)

    async def _results(self, place: Place, shape: Shape, n_tokens: int, runs: range, seed: int) -> AsyncIterator[Any]:
        """What the last of `runs` gives, each of `n_tokens` behind so many, as JavaScript's arrays of some tokens:
        a whole batch would stay in Python's memory, which never shrinks. Inputs are random, the same for the same
        seed."""
        executor, random = self._executor, np.random.default_rng(seed)
        result = _slots(place[-1])["y"]
        x, y = (
            [_rows(binding, shape.n_tokens, part) for binding in bindings for part in _parts(n_tokens)]
            for bindings in (_sources(place), [result])
        )
        steps, before = self._steps(place), len(place) - 1
        self._turns.check()
        for n_past in runs:
            if (n_past - runs.start) % self._share(shape).runs == self._share(shape).runs - 1:
                await executor.device.wait(executor.device.handle.queue.onSubmittedWorkDone())
                self._turns.check()
            for rows in x:
                self._write_random(rows, random)
            self._write_batch(n_past, n_tokens)
            # What is not computed is zero, although what was read before may have lain there.
            if before:
                self._replay.run(steps, 0, before, n_tokens)
            executor.clear(result)
            self._replay.run(steps, before, len(place), n_tokens)
        for rows in y:
            copied = await executor.copy(rows)
            self._turns.check()
            yield copied


def _values(rows: Any) -> np.ndarray:
    """float32, but for scores of what a split does not have."""
    found = np.frombuffer(rows.to_bytes(), np.float32)
    return np.where(found < _NO_SCORE, np.float32(0), found)


def _parts(n_tokens: int) -> list[range]:
    return [range(at, min(at + CHECKED_AT_ONCE, n_tokens)) for at in range(0, n_tokens, CHECKED_AT_ONCE)]


def _rows(binding: Binding, n_tokens: int, tokens: range) -> Binding:
    """Those of some tokens, in a value of `n_tokens`."""
    row = binding.size // n_tokens // 4 * 4
    return Binding(binding.region, binding.offset + tokens.start * row, len(tokens) * row)


def _sources(place: Place) -> list[Binding]:
    """What its dispatches read that none of them has written, in an order that is the same for all variants."""
    slots = [_slots(d) for d in place]
    read = {each[slot] for each in slots for slot in ("qkv", "x") if slot in each}
    made = {each["y"] for each in slots[:-1] if "y" in each}
    return sorted(read - made, key=lambda binding: (binding.offset, binding.size))
