"""From a prompt to tokens: prefix reuse, prefill in batches, and decoding with several tokens in flight.

The GPU feeds itself: the sampler leaves the next token where the next run reads it. So runs are submitted ahead, and
tokens are read back while the GPU works on; what ran past a stop is dropped, and the cache's length set back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from llamaweb.errors import ContextError, LlamaWebError
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED
from llamaweb.planner.plan import ModelPlan
from llamaweb.sampling import Sampling

_AHEAD_MS = 40.0  # work kept submitted ahead on a fast GPU
_MIN_AHEAD = 4  # tokens
_FEW = 8  # tokens of a large batch's remainder that are read faster one by one, on a CPU as on a GPU


class Runner(Protocol):
    """What generation needs of an executor."""

    plan: ModelPlan

    def write_io(self, word: int, data: np.ndarray) -> None: ...
    async def prepare(self, phases: Iterable[str]) -> None: ...
    def run(self, phase: str, n_tokens: int, *, head: bool) -> None: ...
    def sample(self, phase: str, n_tokens: int, repeat: int = 1) -> Awaitable[Any]: ...
    async def read_results(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass
class _Run:
    """A generation under way: what was asked, what came, and what the GPU was told."""

    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    waiting: deque[Awaitable[Any]] = field(default_factory=deque)
    submitted: int = 0  # samplings; each after the first cached the token before it

    @property
    def cached(self) -> list[int]:
        return [*self.prompt, *self.tokens[: max(self.submitted - 1, 0)]] if self.submitted else []


class Generator:
    """Generates on one executor, one answer at a time: a new one ends the one before."""

    def __init__(self, runner: Runner, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._clock = clock  # milliseconds
        self._run: _Run | None = None
        self._newest = 0  # positions that were written, since the first was

    @property
    def past(self) -> list[int]:
        """The tokens whose keys and values the cache holds."""
        return self._run.cached if self._run else []

    async def generate(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int) -> AsyncGenerator[int]:
        """Tokens that follow `prompt`, up to `max_tokens` or the context's end; the caller stops by closing."""
        plan = self._runner.plan
        if not prompt:
            raise ContextError("The prompt is empty; give at least one token.")
        if len(prompt) > plan.n_ctx:
            raise ContextError(
                f"The prompt has {len(prompt)} tokens, but the context holds {plan.n_ctx}; "
                "shorten it, or load the model with a larger n_ctx."
            )
        past = self.past
        run = await self._begin(prompt)
        await self._runner.prepare(["prefill", plan.decode_phase(len(prompt) - 1)])
        self._check_owner(run)
        self._runner.write_io(IO.step, sampling.words())
        run.waiting.append(self._prefill(prompt, self._reused(past, prompt)))
        run.submitted = 1
        total = min(max_tokens, plan.n_ctx - len(prompt) + 1)
        ahead, burst, begin, last = _MIN_AHEAD, 1, 0.0, ""
        while len(run.tokens) < total:
            self._check_owner(run)
            while run.submitted < total and run.submitted - len(run.tokens) < ahead and len(run.waiting) < IN_FLIGHT:
                repeat = min(burst, total - run.submitted)
                phase = plan.decode_phase(len(prompt) + run.submitted - 1)
                if phase != last:  # its kernels may not be there yet
                    await self._runner.prepare([phase])
                    self._check_owner(run)
                    last = phase
                run.waiting.append(self._runner.sample(phase, 1, repeat))
                run.submitted += repeat
            found = (await run.waiting.popleft()).to_py()
            self._check_owner(run)
            for token in found:
                run.tokens.append(int(token))
                yield run.tokens[-1]
            now = self._clock()
            begin = begin or now
            if len(run.tokens) > _MIN_AHEAD:
                each = (now - begin) / (len(run.tokens) - 1)
                ahead = max(_MIN_AHEAD, min(IN_FLIGHT * SUBMITTED, int(_AHEAD_MS / max(each, 0.1))))
                burst = SUBMITTED if ahead >= 2 * SUBMITTED else 1

    async def _begin(self, prompt: Sequence[int]) -> _Run:
        """Takes the executor over: what ran past an earlier stop still uses read-back buffers, and is waited for."""
        previous, self._run = self._run, _Run(prompt)
        run = self._run
        if previous:
            self._newest = max(self._newest, len(previous.prompt) + previous.submitted - 1)
        if previous:
            await asyncio.gather(*previous.waiting, return_exceptions=True)
        return run

    def _check_owner(self, run: _Run) -> None:
        if self._run is not run:
            raise LlamaWebError("Another answer was begun on this model, which ended this one.")

    def _reused(self, past: Sequence[int], prompt: Sequence[int]) -> int:
        """How many tokens of the prompt the cache, with `past`, holds. All of them or none: where a layer with a window
        has overwritten what the next token would see, everything is computed again."""
        done = min(_common_prefix(past, prompt), len(prompt) - 1)
        if not done or not all(ring.holds(done, self._newest) for ring in self._runner.plan.rings):
            done = self._newest = 0
        return done

    def _prefill(self, prompt: Sequence[int], done: int) -> Awaitable[Any]:
        """Submits the prompt from token `done` on; the last batch samples."""
        n_ubatch = self._runner.plan.n_ubatch
        while True:
            part = prompt[done : done + n_ubatch]
            part = part if len(part) > min(_FEW, n_ubatch // 4) else part[:1]
            phase = "prefill" if len(part) > 1 else self._runner.plan.decode_phase(done)
            self._write_batch(done, part)
            done += len(part)
            if done == len(prompt):
                return self._runner.sample(phase, len(part))
            self._runner.run(phase, len(part), head=False)

    async def log_probabilities(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates `tokens` from an empty cache: the log-probability of each but the first given those before it,
        float32 (len - 1,), and the most likely next token at each position, uint32 (len,). Needs logits_all."""
        plan = self._runner.plan
        if len(tokens) > plan.n_ctx:
            raise ContextError(
                f"{len(tokens)} tokens do not fit the context of {plan.n_ctx}; load with a larger n_ctx."
            )
        await self._begin([])
        step = plan.phases["evaluate"].n_tokens
        found: list[np.ndarray] = []
        likely: list[np.ndarray] = []
        for at in range(0, len(tokens), step):
            part = tokens[at : at + step]
            targets = [*tokens[at + 1 : at + step + 1], 0][: len(part)]
            self._write_batch(at, part)
            self._runner.write_io(IO.targets(plan.n_ubatch), np.array(targets, np.uint32))
            self._runner.run("evaluate", len(part), head=True)
            log_p, top = await self._runner.read_results(len(part))
            found.append(log_p)
            likely.append(top)
        return np.concatenate(found)[: len(tokens) - 1], np.concatenate(likely)

    def _write_batch(self, n_past: int, tokens: Sequence[int]) -> None:
        self._runner.write_io(IO.n_past, np.array([n_past, len(tokens)], np.uint32))
        self._runner.write_io(IO.tokens, np.array(tokens, np.uint32))

    def spare(self, n: int) -> int | None:
        """For whoever uses the executor between answers: the first position of the cache that holds nothing, if `n`
        from there on may be written; else None."""
        begin = len(self.past)
        if begin + n > self._runner.plan.n_ctx:
            return None
        self._newest = max(self._newest, begin + n)
        return begin

    async def forget(self) -> None:
        """For whoever uses the executor besides: waits for what is under way, and takes the cache for lost."""
        await self._begin([])


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def stop_at(text: str, stops: Iterable[str]) -> tuple[str, bool]:
    """Cuts `text` before the first stop string it holds; says whether there was one."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def held_back(text: str, stops: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string, and must wait."""
    return max(
        (n for stop in stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0
    )
