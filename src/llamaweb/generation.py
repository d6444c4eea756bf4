"""From a prompt to tokens: prefix reuse, prefill in batches, and decoding with several tokens in flight.

The GPU feeds itself: the sampler leaves the next token where the next run reads it. So runs are submitted ahead, and
tokens are read back while the GPU works on; what ran past a stop is dropped, and the cache's length set back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import index
from typing import Any, Protocol

import numpy as np

from llamaweb.errors import ContextError, LlamaWebError, NotANumberError
from llamaweb.kernels.io import IN_FLIGHT, IO, NO_TOKEN, SUBMITTED
from llamaweb.planner.plan import ModelPlan
from llamaweb.sampling import Sampling

_AHEAD_MS = 40.0  # work kept submitted ahead on a fast GPU
_MIN_AHEAD = 4  # tokens
KEPT_EVERY = 32  # tokens of an answer, that are computed again at most where recurrent states are set back
_FEW = 8  # tokens of a large batch's remainder that are read faster one by one, on a CPU as on a GPU


class Runner(Protocol):
    """What generation needs of an executor."""

    plan: ModelPlan

    def write_io(self, word: int, data: np.ndarray) -> None: ...
    def write_rows(self, tokens: Sequence[int]) -> None: ...
    async def prepare(self, phases: Iterable[str]) -> None: ...
    def run(self, phase: str, n_tokens: int, *, head: bool) -> None: ...
    def sample(self, phase: str, n_tokens: int, repeat: int = 1) -> Awaitable[Any]: ...
    async def read_results(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]: ...
    async def settle(self) -> None: ...
    def keep_state(self, copy: int) -> None: ...
    def restore_state(self, copy: int) -> None: ...


@dataclass
class _Run:
    """A generation under way: what was asked, what came, and what the GPU was told."""

    prompt: Sequence[int]
    tokens: list[int] = field(default_factory=list)
    waiting: deque[Awaitable[Any]] = field(default_factory=deque)
    submitted: int = 0  # samplings; each after the first cached the token before it
    reused: int = 0  # tokens of the prompt that the cache held

    @property
    def cached(self) -> list[int]:
        return [*self.prompt, *self.tokens[: max(self.submitted - 1, 0)]] if self.submitted else []


@dataclass(frozen=True)
class _Copy:
    """Of recurrent states: as they were behind `position` tokens of a run. end: of its prompt."""

    run: _Run
    position: int
    end: bool


class _Copies:
    """What is kept of recurrent states, which cannot be cut back as a cache can: copies at the ends of prompts, and of
    the answer under way every KEPT_EVERY tokens, of which the last two stay, since a stop may come before the last."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._copies: list[_Copy | None] = [None] * runner.plan.copies
        self._at = 0  # the last position that was kept

    def keep(self, run: _Run, position: int, *, end: bool = False) -> None:
        if not self._copies or (not end and position - self._at < KEPT_EVERY):
            return
        slot = self._free(run)
        if slot is not None:
            self._runner.keep_state(slot)
            self._copies[slot], self._at = _Copy(run, position, end), position

    def _free(self, run: _Run) -> int | None:
        """Where nothing is, or the oldest of an answer that a later one makes needless, or of another prompt."""
        if None in self._copies:
            return self._copies.index(None)
        held = sorted(((i, copy) for i, copy in enumerate(self._copies) if copy), key=lambda each: each[1].position)
        passing = [i for i, copy in held if not copy.end]
        others = [i for i, copy in held if copy.run is not run]
        if len(passing) > 2 or (passing and not others):
            return passing[0]
        return others[0] if others else None

    def reach(self, at: int, wanted: int) -> int:
        """Sets the states, which are those behind `at` tokens, to those of a prefix of the cache that is no longer than
        `wanted`, and gives its length; copies of what is longer are none of what comes."""
        self._copies = [copy if copy and copy.position <= wanted else None for copy in self._copies]
        found = [(copy.position, i) for i, copy in enumerate(self._copies) if copy]
        done = self._at = max((position for position, _ in found), default=0)
        if at == wanted:
            return wanted
        if found:
            self._runner.restore_state(max(found)[1])
        return done


class Generator:
    """Generates on one executor, one answer at a time: a new one ends the one before. Whatever ends an answer, an
    error, a cancellation or a reader who goes away, the next one begins on what the cache holds then."""

    def __init__(self, runner: Runner, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._clock = clock  # milliseconds
        self._owner: _Run | None = None  # the last to begin, which alone may submit
        self._run: _Run | None = None  # the last that has submitted, whose tokens the cache holds
        self._newest = 0  # positions that were written, since the first was
        self._at = 0  # tokens that the run before this one has submitted, which recurrent states are behind
        self._copies = _Copies(runner)
        self._alone = asyncio.Lock()

    @property
    def past(self) -> list[int]:
        """The tokens whose keys and values the cache holds."""
        return self._run.cached if self._run else []

    @property
    def reused(self) -> int:
        """How many tokens of the last prompt the cache held."""
        return self._run.reused if self._run else 0

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raises ContextError for a prompt that has no next token here."""
        if not prompt:
            raise ContextError("The prompt is empty; give at least one token.")
        if len(prompt) > self._runner.plan.n_ctx:
            raise ContextError(
                f"The prompt has {len(prompt)} tokens, but the context holds {self._runner.plan.n_ctx}; "
                "shorten it, or load the model with a larger n_ctx."
            )

    async def generate(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int) -> AsyncGenerator[int]:
        """Tokens that follow `prompt`, up to `max_tokens` or the context's end; the caller stops by closing. Raises
        NotANumberError where the model has no next token."""
        plan = self._runner.plan
        prompt = tuple(prompt)  # it tells later what the cache holds, and a caller may go on with its list
        self.check_prompt(prompt)
        total = min(index(max_tokens), plan.n_ctx - len(prompt) + 1)
        run = await self._begin(prompt)
        await self._runner.prepare(["prefill", plan.decode_phase(len(prompt) - 1)])
        self._check_owner(run)
        past = self._take(run)
        self._runner.write_io(IO.step, sampling.words())
        run.reused = self._reused(past, prompt)
        run.waiting.append(self._prefill(prompt, run.reused))
        run.submitted = 1
        self._copies.keep(run, len(prompt), end=True)
        # Rows of tables on the host wait for the token that they are of, and so does what reads them.
        ahead, burst, begin, last = 1 if plan.tables else _MIN_AHEAD, 1, 0.0, ""
        while len(run.tokens) < total:
            while run.submitted < total and run.submitted - len(run.tokens) < ahead and len(run.waiting) < IN_FLIGHT:
                repeat = min(burst, total - run.submitted)
                phase = plan.decode_phase(len(prompt) + run.submitted - 1)
                if phase != last:  # its kernels may not be there yet
                    await self._runner.prepare([phase])
                    self._check_owner(run)
                    last = phase
                self._runner.write_rows(run.tokens[-1:])
                run.waiting.append(self._runner.sample(phase, 1, repeat))
                run.submitted += repeat
                self._copies.keep(run, len(prompt) + run.submitted - 1)
            found = (await run.waiting.popleft()).to_py()
            self._check_owner(run)
            for token in map(int, found):
                if token == NO_TOKEN:
                    raise no_numbers(len(prompt) + len(run.tokens))
                run.tokens.append(token)
                yield token
                self._check_owner(run)
            now = self._clock()
            begin = begin or now
            if len(run.tokens) > _MIN_AHEAD and not plan.tables:
                each = (now - begin) / (len(run.tokens) - 1)
                ahead = max(_MIN_AHEAD, min(IN_FLIGHT * SUBMITTED, int(_AHEAD_MS / max(each, 0.1))))
                burst = SUBMITTED if ahead >= 2 * SUBMITTED else 1

    async def _begin(self, prompt: Sequence[int]) -> _Run:
        """Ends the answer before, and waits until the executor is free: what ran past a stop, and what nobody waits for
        any more, still uses read-back buffers."""
        run = self._owner = _Run(prompt)
        async with self._alone:
            await self._runner.settle()
        self._check_owner(run)
        return run

    def _take(self, run: _Run) -> list[int]:
        """From now on the cache is this run's; gives the tokens it holds until it is written."""
        previous, past = self._run, self.past
        if previous:
            self._at = len(previous.prompt) + previous.submitted - 1 if previous.submitted else -1
            self._newest = max(self._newest, self._at)
        self._run = run
        return past

    def reset(self) -> None:
        """Forgets what the cache holds, and ends an answer that is under way."""
        self._owner = _Run([])
        self._take(self._owner)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """For whoever uses the executor besides: while it lasts, answers wait. The cache is lost."""
        run = self._owner = _Run([])
        async with self._alone:
            await self._runner.settle()
            self._take(run)
            yield

    def _check_owner(self, run: _Run) -> None:
        if self._owner is not run:
            raise LlamaWebError("Another answer was begun on this model, which ended this one.")

    def _reused(self, past: Sequence[int], prompt: Sequence[int]) -> int:
        """How many tokens of the prompt the cache, with `past`, holds. All of them or none: where a layer with a window
        has overwritten what the next token would see, everything is computed again."""
        done = min(_common_prefix(past, prompt), len(prompt) - 1)
        if self._runner.plan.copies:
            done = self._copies.reach(self._at, done)
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
                f"{len(tokens)} tokens do not fit the context of {plan.n_ctx}; load the model with a larger n_ctx."
            )
        step = plan.phases["evaluate"].n_tokens
        found: list[np.ndarray] = []
        likely: list[np.ndarray] = []
        targets = np.array([*tokens[1:], 0], np.uint32)  # the last token has none
        async with self.alone():
            for at in range(0, len(tokens), step):
                part = tokens[at : at + step]
                self._write_batch(at, part)
                self._runner.write_io(IO.targets(plan.n_ubatch), targets[at : at + step])
                self._runner.run("evaluate", len(part), head=True)
                log_p, top = await self._runner.read_results(len(part))
                if NO_TOKEN in top:
                    raise no_numbers(at + int(np.argmax(top == NO_TOKEN)) + 1)
                found.append(log_p)
                likely.append(top)
        return np.concatenate(found)[: len(tokens) - 1], np.concatenate(likely)

    def _write_batch(self, n_past: int, tokens: Sequence[int]) -> None:
        self._runner.write_io(IO.n_past, np.array([n_past, len(tokens)], np.uint32))
        self._runner.write_io(IO.tokens, np.array(tokens, np.uint32))
        self._runner.write_rows(tokens)

    def spare(self, n: int) -> int | None:
        """For whoever uses the executor between answers: the first position of the cache that holds nothing, if `n`
        from there on may be written; else None."""
        begin = len(self.past)
        if begin + n > self._runner.plan.n_ctx:
            return None
        self._newest = max(self._newest, begin + n)
        return begin


def no_numbers(n_tokens: int, where: str | None = None) -> NotANumberError:
    """where: they come from, if that is known."""
    if where:
        advice = f"which begins in {where}; fetch the file again, or use another model."
    else:
        advice = "so there is no next token; load the model with check=True to see why, or use another one."
    return NotANumberError(f"The model's logits after {n_tokens} tokens are no numbers (NaN or infinite), {advice}")


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
