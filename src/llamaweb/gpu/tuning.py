"""Tuning: times the variants of kernels with the model's own weights, and keeps what was fastest.

A model answers with the profile's defaults, or with what was kept, from the first moment on. What is not known of a
device yet is found out while nobody waits, in pieces of a few milliseconds (`turns`); each phase's kernels are swapped
when all of them are known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from llamaweb.files.storage import load_json, save_json
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.trials import Spare, Trials, places
from llamaweb.kernels.kernel import Variant
from llamaweb.kernels.template import edition
from llamaweb.kernels.tuner import Choices, Shape, Trial, choose, to_json
from llamaweb.planner import ModelPlan, Planner
from llamaweb.planner.variants import from_json
from llamaweb.profile import DeviceProfile
from llamaweb.turns import Turns

FILE = "llamaweb-tuning.json"
MOST_S = 60.0  # of work that nobody waits for, after which no other group is begun before the next load


async def kept_choices(plan: ModelPlan, profile: DeviceProfile) -> dict[Shape, Variant]:
    """What tuning has found on a device before for the kernels of a plan."""
    kept = await _kept()
    return from_json(kept.get(profile.key), places(plan), profile) if kept else {}


async def _kept() -> dict[str, Any]:
    """By device, what is in the browser's storage of these very kernels."""
    stored = _dict(await load_json(FILE))
    return _dict(stored.get("devices")) if stored.get("kernels") == edition() else {}


async def _keep(profile: DeviceProfile, choices: Choices) -> None:
    kept = await _kept()
    devices = {**kept, profile.key: {**_dict(kept.get(profile.key)), **to_json(choices)}}
    await save_json(FILE, {"kernels": edition(), "devices": devices})


def _dict(stored: Any) -> dict[str, Any]:
    """What is damaged is as if it were not there."""
    return stored if isinstance(stored, dict) else {}


class Tuning:
    """Of one loaded model. choices: what is known so far; trials: what was timed."""

    def __init__(self, executor: Executor, planner: Planner, choices: Choices) -> None:
        self.choices = dict(choices)
        self.trials: list[Trial] = []
        self._executor = executor
        self._planner = planner

    async def run(
        self,
        mode: str,
        turns: Turns,
        spare: Spare,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Times what is not known yet, decoding first; "full" has no end but the last variant, "auto" ends after
        MOST_S of work. spare: where the cache may be written. What has been found when it is cancelled is kept."""
        plan = self._executor.plan
        groups = [[s for s in group if s not in self.choices] for group in _groups(plan)]
        if not any(groups):
            return
        trials = Trials(self._executor, self._planner, mode, turns, spare)
        begin, rested = time.monotonic(), turns.rested_s
        total = 3 * sum(len(trials.candidates(shape)) for group in groups for shape in group)
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        try:
            for group in filter(None, groups):
                async for found in trials.run(group, step):
                    self.trials += found
                    chosen = choose(found)
                    self.choices |= chosen
                    await _keep(self._executor.device.profile, chosen)
                faster = self._planner.plan(self.choices)
                await self._executor.compile(self._executor.prepared, plan=faster)
                await turns.idle()
                self._executor.swap(faster)
                if mode == "auto" and time.monotonic() - begin - (turns.rested_s - rested) > MOST_S:
                    return
        finally:
            trials.close()
        progress(total, total)


def _groups(plan: ModelPlan) -> Iterable[list[Shape]]:
    """Shapes phase by phase: the kernels of a token, then of a batch; of each, what takes longest first."""
    shapes = list(places(plan))
    for batch in (False, True):
        found = [shape for shape in shapes if (shape.n_tokens > 1) == batch]
        yield sorted(found, key=lambda shape: -shape.k * shape.n)
