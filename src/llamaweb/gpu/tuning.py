"""Tuning: times the variants of matrix-vector products with the model's own weights, and keeps what was fastest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import js
import numpy as np

from llamaweb.errors import GPUError
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.javascript import js_file
from llamaweb.gpu.storage import load_json, save_json
from llamaweb.gpu.timer import Timer
from llamaweb.kernels.library import MulMatVec
from llamaweb.kernels.tuner import Choices, Shape, Trial, candidates, choose, finalists, from_json, to_json
from llamaweb.planner.plan import Binding, Dispatch, ModelPlan

_FILE = "llamaweb-tuning.json"
_FINALISTS = 3  # of each shape are timed once more beside the default
_NMSE = 1e-6  # between a variant's result and the plain one's


async def tuned(
    executor: Executor,
    replan: Callable[[Choices], ModelPlan],
    mode: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[Shape, MulMatVec], list[Trial]]:
    """The choices for the executor's plan, whose weights are in place: kept ones, and for the rest what is timed now.

    replan gives the same plan with other variants. Mode "full" times everything anew. Trials are what was timed.
    """
    profile = executor.device.profile
    kept = await load_json(_FILE) or {}
    mine = kept.get(profile.name, {}) if isinstance(kept, dict) else {}
    products = _products(executor.plan)
    choices = {} if mode == "full" else from_json(mine, list(products), profile)
    missing = [shape for shape in products if shape not in choices]
    if not missing:
        return choices, []
    trials = await _Trials(executor, replan, mode).run(missing, progress)
    choices |= choose(trials)
    await save_json(_FILE, {**kept, profile.name: {**mine, **to_json(choices)}})
    return choices, trials


def _products(plan: ModelPlan) -> dict[Shape, list[int]]:
    """The shapes of the decode phase's matrix-vector products, and where they are among its dispatches."""
    found: dict[Shape, list[int]] = {}
    for i, dispatch in enumerate(plan.phases["decode"].dispatches):
        if shape := Shape.of(dispatch.kernel):
            found.setdefault(shape, []).append(i)
    return found


class _Trials:
    def __init__(self, executor: Executor, replan: Callable[[Choices], ModelPlan], mode: str) -> None:
        self._executor = executor
        self._replan = replan
        self._mode = mode
        self._replay = js_file("replay.js")(executor.device.handle)
        self._timer = Timer(executor.device)
        self._random = np.random.default_rng(0)

    async def run(self, shapes: Sequence[Shape], progress: Callable[[int, int], None] | None) -> list[Trial]:
        """Every variant of every shape: all are compiled side by side, then timed one after the other."""
        profile = self._executor.device.profile
        tried = {shape: candidates(shape, profile, self._mode) for shape in shapes}
        todo: list[tuple[Shape, MulMatVec, list[Dispatch]]] = []
        for n in range(max(len(variants) for variants in tried.values())):
            # One plan has the n-th variant of every shape.
            choices = {shape: variants[n] for shape, variants in tried.items() if n < len(variants)}
            plan = self._replan(choices)
            for shape, places in _products(plan).items():
                if shape in choices:
                    todo.append((shape, choices[shape], [plan.phases["decode"].dispatches[i] for i in places]))
        compiled = await asyncio.gather(*(self._compiles(dispatches[0]) for _, _, dispatches in todo))
        trials: list[Trial] = []
        works = [entry for entry, ok in zip(todo, compiled, strict=True) if ok]
        if works:
            await self._timer.warm(self._steps(works[0][2]), lambda: None)
        for n, (shape, variant, dispatches) in enumerate(works):
            right = await self._right(dispatches[0])
            trials.append(Trial(shape, variant, await self._time(dispatches), right, variant == tried[shape][0]))
            if progress:
                progress(n + 1, len(works))
        for i, trial in finalists(trials, _FINALISTS):
            again = await self._time(works[i][2])
            trials[i] = replace(trial, microseconds=min(trial.microseconds, again))
        self._timer.close()
        return trials

    async def _compiles(self, dispatch: Dispatch) -> bool:
        try:
            await self._executor.pipelines.compile([dispatch.kernel, *(dispatch.plain or ())[:1]])
        except GPUError:
            return False
        return True

    async def _time(self, dispatches: list[Dispatch]) -> float:
        """Microseconds a dispatch, at best."""
        return await self._timer.time(self._steps(dispatches), reset=lambda: None) / len(dispatches)

    def _steps(self, dispatches: list[Dispatch]) -> Any:
        return js.Array.of(*map(self._step, dispatches))

    def _step(self, d: Dispatch) -> Any:
        return self._executor.pipelines.step(d.kernel, [(self._executor.buffers[b.region], b) for b in d.bindings], d)

    async def _right(self, d: Dispatch) -> bool:
        if d.plain is None:
            return True
        plain = Dispatch(d.label, d.plain[0], d.bindings, d.plain[1])
        slots = {slot.name: binding for slot, binding in zip(d.kernel.slots, d.bindings, strict=True)}
        x = self._random.standard_normal(slots["x"].size // 4).astype(np.float32)
        found, expected = [await self._result(one, slots["x"], slots["y"], x) for one in (d, plain)]
        return bool(np.sum((found - expected) ** 2) <= _NMSE * np.sum(expected**2))

    async def _result(self, d: Dispatch, x: Binding, y: Binding, values: np.ndarray) -> np.ndarray:
        executor = self._executor
        executor.write(x, values)
        executor.write(y, np.zeros(y.size // 4, np.float32))
        self._replay.run(js.Array.of(self._step(d)), 0, 1, 1)
        return np.frombuffer(await executor.read(y), np.float32).astype(np.float64)
