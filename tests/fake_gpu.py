"""A GPU that is none, for the generation loop: its model's next token follows from all before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llamaweb.errors import GPUError
from llamaweb.generation import Generator as Tokens
from llamaweb.kernels.io import IN_FLIGHT, IO, NO_TOKEN, SUBMITTED
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.planner.plan import HostTable
from llamaweb.sampling import Sampling
from tests.headers import TINY, llama_header

N_CTX, N_UBATCH = 40, 8
GREEDY = Sampling(temperature=0)


def plan(n_ctx: int = N_CTX, n_ubatch: int = N_UBATCH) -> ModelPlan:
    return plan_model(llama_header(**TINY), n_ctx=n_ctx, n_ubatch=n_ubatch, logits_all=True)


def following(tokens: Sequence[int]) -> int:
    """The model: a token that depends on every one before it and their order."""
    return sum((i + 1) * token for i, token in enumerate(tokens)) % 251


def continued(prompt: Sequence[int], n: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(following(tokens))
    return tokens[len(prompt) :]


class Answer:
    """Tokens under way, in a read-back buffer. They arrive one after the other, even if nobody waits any more."""

    def __init__(self, gpu: FakeGPU, tokens: list[int]) -> None:
        self.gpu = gpu
        self.tokens = tokens
        self.arrived = asyncio.get_running_loop().create_future()
        gpu.under_way.append(self)
        gpu.unread.append(self)
        gpu.free_at = max(gpu.free_at, asyncio.get_running_loop().time()) + gpu.seconds_per_token * len(tokens)
        asyncio.get_running_loop().call_at(gpu.free_at, self._arrive)

    def _arrive(self) -> None:
        self.gpu.under_way.remove(self)
        self.gpu.now += len(self.tokens) * self.gpu.ms_per_token
        self.arrived.set_result(self)

    def __await__(self) -> Generator[Any, None, Answer]:
        # What was submitted and not read yet, done or not: a slow machine may be overtaken by its GPU.
        self.gpu.in_flight_when_waiting.append(sum(len(answer.tokens) for answer in self.gpu.unread))
        return (yield from asyncio.shield(self.arrived).__await__())

    def to_py(self) -> np.ndarray:
        if self.gpu.lost:
            raise GPUError("lost")
        self.gpu.unread.remove(self)
        return np.array(self.tokens, np.uint32)


class FakeGPU:
    """A Runner that computes at once, and checks what an executor could not survive."""

    def __init__(self, n_ctx: int = N_CTX, n_ubatch: int = N_UBATCH, ms_per_token: float = 100.0) -> None:
        self.plan = plan(n_ctx, n_ubatch)
        self.ms_per_token = ms_per_token
        self.now = 1.0
        self.seconds_per_token = 0.0003  # really; `now` is the clock that generation sees
        self.free_at = 0.0  # when it will have done what was submitted, in the loop's time
        self.lost = False
        self.numbers = n_ctx  # tokens after which logits are no numbers
        self.prepared = {"decode", "evaluate"}  # phases that may run
        self.io = np.zeros(IO.bytes(self.plan.n_ubatch) // 4, np.uint32)
        self.cache = [-1] * n_ctx
        self.state: list[int] = []  # of a recurrent model: every token behind which it is
        self.kept: dict[int, list[int]] = {}
        self.looked_up: list[int] = []  # the tokens whose rows of the host's tables are there
        self.preparations = 0
        self.heads: list[bool] = []  # of each run: whether it was asked for logits
        self.runs: list[tuple[str, int, int]] = []  # phase, n_past, n_tokens
        self.repeats: list[int] = []
        self.under_way: list[Answer] = []
        self.unread: list[Answer] = []
        self.in_flight_when_waiting: list[int] = []

    def write_io(self, word: int, data: np.ndarray) -> None:
        assert data.dtype == np.uint32 and word + len(data) <= len(self.io)
        if word == IO.step:
            assert not self.under_way, "a generation began while an earlier one's read-back buffers were in use"
        self.io[word : word + len(data)] = data

    def write_rows(self, tokens: Sequence[int]) -> None:
        self.looked_up = list(tokens)

    async def prepare(self, phases: Iterable[str]) -> None:
        self.prepared |= set(phases)
        self.preparations += 1

    def next(self, n_past: int) -> int:
        return following(self.cache[:n_past]) if n_past <= self.numbers else NO_TOKEN

    def run(self, phase: str, n_tokens: int, *, head: bool) -> None:
        n_past = int(self.io[IO.n_past])
        assert phase in self.prepared
        assert n_tokens == self.io[IO.n_tokens] <= self.plan.phases[phase].n_tokens
        assert n_past + n_tokens <= self.plan.n_ctx, "ran past the context"
        assert -1 not in self.cache[:n_past], "attended to positions that were never written"
        self.state = self.state if n_past else []
        assert not self.plan.copies or self.state == self.cache[:n_past], "the state is behind other tokens"
        self.state = [*self.state, *self.io[IO.tokens : IO.tokens + n_tokens].tolist()]
        self.cache[n_past : n_past + n_tokens] = self.io[IO.tokens : IO.tokens + n_tokens].tolist()
        if self.plan.tables:
            assert self.looked_up == self.cache[n_past : n_past + n_tokens], "read another token's rows"
        self.runs.append((phase, n_past, n_tokens))
        self.heads.append(head)
        if phase == "evaluate":
            assert head
            self._evaluate(n_past, n_tokens)

    def _evaluate(self, n_past: int, n_tokens: int) -> None:
        targets, results = IO.targets(self.plan.n_ubatch), IO.results(self.plan.n_ubatch)
        for t in range(n_tokens):  # as log-probability: the target's own id, so that a shift shows
            log_p = np.array([-float(self.io[targets + t])], np.float32).view(np.uint32)[0]
            self.io[results + 2 * t : results + 2 * t + 2] = log_p, self.next(n_past + t + 1)

    def sample(self, phase: str, n_tokens: int, repeat: int = 1) -> Awaitable[Any]:
        assert 1 <= repeat <= SUBMITTED and len(self.under_way) < IN_FLIGHT
        tokens = []
        for _ in range(repeat):
            self.run(phase, n_tokens, head=True)
            past = int(self.io[IO.n_past]) + n_tokens
            tokens.append(self.next(past))
            self.io[[IO.n_past, IO.n_tokens, IO.tokens]] = past, 1, tokens[-1]
            self.io[IO.step] += 1
        self.repeats.append(repeat)
        return Answer(self, tokens)

    def keep_state(self, copy: int) -> None:
        assert 0 <= copy < self.plan.copies
        self.kept[copy] = self.state

    def restore_state(self, copy: int) -> None:
        self.state = self.kept[copy]

    async def settle(self) -> None:
        while self.under_way:
            await self.under_way[-1].arrived

    async def read_results(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        at = IO.results(self.plan.n_ubatch)
        words = self.io[at : at + 2 * n_tokens].reshape(n_tokens, 2)
        return words[:, 0].copy().view(np.float32), words[:, 1].copy()

    @property
    def evaluated(self) -> int:
        """Tokens of all runs so far."""
        return sum(n for _, _, n in self.runs)


def engine(copies: int = 0, tables: tuple[HostTable, ...] = (), **options: Any) -> tuple[FakeGPU, Tokens]:
    """copies: of the states of a recurrent model, which are kept. tables: of the host."""
    gpu = FakeGPU(**options)
    gpu.plan = replace(gpu.plan, copies=copies, tables=tables)
    return gpu, Tokens(gpu, lambda: gpu.now)


async def take(tokens: Tokens, prompt: Sequence[int], max_tokens: int, stop_after: int | None = None) -> list[int]:
    """What is generated; left early after `stop_after` tokens, as a reader who breaks off does."""
    found: list[int] = []
    generation = tokens.generate(prompt, GREEDY, max_tokens)
    try:
        async for token in generation:
            found.append(token)
            if len(found) == stop_after:
                break
    finally:
        await generation.aclose()
    return found
