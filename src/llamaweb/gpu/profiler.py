"""The profiler: GPU time of every dispatch of a plan. The product's way of running (replay.js) stays as it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import Any

import js
import numpy as np

from llamaweb.errors import ContextError, LlamaWebError
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.timer import Timer
from llamaweb.javascript import now_ms
from llamaweb.kernels import peaks
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED
from llamaweb.kernels.kernel import Kernel, Launch
from llamaweb.planner.cost import costs
from llamaweb.planner.plan import Binding, Dispatch
from llamaweb.profiling import DispatchTime, Peaks, PhaseProfile, Profile
from llamaweb.sampling import Sampling


class Profiler:
    """Profiles one executor. It overwrites the cache."""

    def __init__(self, executor: Executor, repetitions: int) -> None:
        self._executor = executor
        self._device = executor.device
        self._repetitions = repetitions

    async def profile(self, n_prompt: int, n_generate: int, depth: int) -> Profile:
        """Of one batch of up to `n_prompt` tokens, and of a token on the average of `n_generate`, both behind `depth`
        tokens; a count of 0 leaves its phase out."""
        plan = self._executor.plan
        if min(n_prompt, n_generate, depth) < 0 or self._repetitions < 1:
            raise LlamaWebError(
                f"There is no profile of {n_prompt} and {n_generate} tokens behind {depth} in {self._repetitions} "
                "repetitions; give counts of 0 or more, and at least one repetition."
            )
        n_tokens = min(n_prompt, plan.n_ubatch)
        if depth + max(n_tokens, n_generate) > plan.n_ctx:
            raise ContextError(
                f"{depth} tokens and {max(n_tokens, n_generate)} more do not fit the context of {plan.n_ctx}; "
                "profile fewer, or load with a larger n_ctx."
            )
        self._executor.write_io(IO.step, Sampling(temperature=0).words())
        self._timer = Timer(self._device)
        phases = []
        try:
            await self._timer.warm(self._executor.steps("decode"), lambda: self._batch(1, depth))
            if n_tokens > 1:
                whole = await self._whole_batch(n_tokens, depth)
                phases.append(await self._phase("prefill", n_tokens, depth, whole))
            if n_generate:
                whole = await self._whole_token(n_generate, depth)
                position = depth + n_generate // 2
                phases.append(await self._phase(plan.decode_phase(position), 1, position, whole))
            return Profile(self._device.profile.name, self._timer.source, await self._peaks(), tuple(phases))
        finally:
            self._timer.close()

    async def _phase(self, name: str, n_tokens: int, n_past: int, whole_us: float) -> PhaseProfile:
        plan, steps = self._executor.plan, self._executor.steps(name)
        dispatches = plan.phases[name].dispatches
        groups: dict[Kernel, list[int]] = {}
        for i, dispatch in enumerate(dispatches):
            groups.setdefault(dispatch.kernel, []).append(i)
        times = [0.0] * len(dispatches)
        for group in groups.values():
            us = await self._time(name, js.Array.of(*(steps[i] for i in group)), n_tokens, n_past, behind=group[0])
            for i in group:
                times[i] = us / len(group)
        timed = zip(dispatches, times, costs(plan, name, n_tokens, n_past), strict=True)
        each = tuple(DispatchTime(d.label, d.kernel, us, cost) for d, us, cost in timed)
        return PhaseProfile(name, n_tokens, n_past, whole_us, await self._time(name, steps, n_tokens, n_past), each)

    async def _time(self, phase: str, steps: Any, n_tokens: int, n_past: int, behind: int = 0) -> float:
        """behind: so many dispatches of the phase, whose results the first of the steps reads: which experts a token
        has decides how long theirs take."""

        def reset() -> None:
            self._batch(n_tokens, n_past)
            self._executor.run_first(phase, n_tokens, behind)

        return await self._timer.time(steps, n_tokens, repetitions=self._repetitions, reset=reset)

    async def _whole_batch(self, n_tokens: int, n_past: int) -> float:
        """Microseconds of a batch as the product submits it, several in a row."""
        for repetitions in (1, self._repetitions):
            begin = now_ms()
            for _ in range(repetitions):
                self._batch(n_tokens, n_past)
                self._executor.run("prefill", n_tokens, head=True)
            await self._executor.idle()
        return 1e3 * (now_ms() - begin) / repetitions

    async def _whole_token(self, n_generate: int, n_past: int) -> float:
        """Microseconds of a token as the product generates them, several in flight; the median of the repetitions."""
        found = []
        together, in_flight = (1, 1) if self._executor.plan.tables else (SUBMITTED, IN_FLIGHT)
        for _ in range(self._repetitions + 1):
            self._batch(1, n_past)
            waiting: deque[Awaitable[Any]] = deque()
            begin = now_ms()
            for at in range(0, n_generate, together):
                if len(waiting) == in_flight:
                    await waiting.popleft()
                self._executor.write_rows([at % 64])
                phase = self._executor.plan.decode_phase(n_past + at)
                waiting.append(self._executor.sample(phase, 1, min(together, n_generate - at)))
            while waiting:
                await waiting.popleft()
            found.append(1e3 * (now_ms() - begin) / n_generate)
        return float(np.median(found[1:]))

    def _batch(self, n_tokens: int, n_past: int) -> None:
        """Any tokens will do; the sampler has moved the position."""
        self._executor.write_io(IO.n_past, np.array([n_past, n_tokens], np.uint32))
        tokens = np.arange(n_tokens, dtype=np.uint32) % 64
        self._executor.write_io(IO.tokens, tokens)
        self._executor.write_rows(tokens.tolist())

    async def _peaks(self) -> Peaks:
        profile = self._device.profile
        reading, size = peaks.read(profile)
        computing, operations = peaks.fma(profile)
        budget = self._executor.plan.memory_budget
        weights = None
        if budget is not None and self._device.live_bytes + size > budget:
            weights = self._executor.buffers["weights.0"]  # what is there may be read as well
            size = min(size, int(weights.size) // 16 * 16)
        return Peaks(
            1e6 * size / await self._peak(reading, size, weights),
            1e6 * operations / await self._peak(computing),
            await self._peak(peaks.dispatch()),
        )

    async def _peak(self, launch: Launch, size: int = 0, src: Any = None) -> float:
        """Microseconds of the quickest run of a kernel over `size` bytes, of `src` or of a buffer made for it. Its
        result of a word goes where a batch's words are, which are written anew for each."""
        await self._executor.pipelines.compile([launch.kernel])
        made = []
        try:
            if size and src is None:
                async with self._device.errors("measuring the device"):
                    made.append(src := self._device.buffer("src", size, "STORAGE"))
            known = {"src": (src, Binding("", 0, size)), "y": (self._executor.buffers["io"], Binding("io", 0, 256))}
            ranges = [known[slot.name] for slot in launch.kernel.slots]
            dispatch = Dispatch("peak", launch.kernel, (), launch.workgroups)
            step = self._executor.pipelines.step(launch.kernel, ranges, dispatch)
            return await self._timer.time(js.Array.of(step), reset=lambda: None)
        finally:
            for buffer in made:
                self._device.destroy(buffer)
