"""The generation loop over a GPU that is none: order, batches, the cache, what is in flight and what is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llamaweb import generation
from llamaweb.errors import ContextError, GPUError, LlamaWebError, NotANumberError
from llamaweb.generation import KEPT_EVERY, no_numbers
from llamaweb.generation import Generator as Tokens
from llamaweb.kernels.io import IN_FLIGHT, IO, NO_TOKEN, SUBMITTED
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.planner.plan import LONG_CONTEXT, Binding, HostTable
from llamaweb.sampling import Sampling
from tests.headers import TINY, gemma3_header, llama_header

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
        await generation.aclose()  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("n_prompt", [1, 2, 7, 8, 9, 16, 17, 39, 40])
def test_tokens_are_the_models_own_up_to_the_contexts_end(n_prompt: int) -> None:
    gpu, tokens = engine()
    prompt = list(range(3, 3 + n_prompt))
    found = asyncio.run(take(tokens, prompt, 1000))
    assert found == continued(prompt, N_CTX - n_prompt + 1)
    assert gpu.evaluated == N_CTX  # every position once, and none past the end


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 20])
def test_no_more_than_max_tokens_are_given_or_computed(max_tokens: int) -> None:
    gpu, tokens = engine()
    assert asyncio.run(take(tokens, [5, 6, 7], max_tokens)) == continued([5, 6, 7], max_tokens)
    assert gpu.evaluated == 3 + max_tokens - 1


def test_a_prompt_goes_in_batches_and_only_the_last_one_samples() -> None:
    gpu, tokens = engine()
    asyncio.run(take(tokens, list(range(19)), 1))
    assert gpu.runs == [("prefill", 0, 8), ("prefill", 8, 8), ("prefill", 16, 3)]
    assert gpu.heads == [False, False, True]
    assert gpu.repeats == [1]


def test_a_remainder_of_one_token_takes_the_decode_plan() -> None:
    gpu, tokens = engine()
    asyncio.run(take(tokens, list(range(9)), 1))
    assert gpu.runs == [("prefill", 0, 8), ("decode", 8, 1)]


def test_a_few_tokens_are_read_one_by_one() -> None:
    gpu, tokens = engine(n_ctx=200, n_ubatch=64)
    asyncio.run(take(tokens, list(range(70)), 1))
    assert gpu.runs == [("prefill", 0, 64), *(("decode", at, 1) for at in range(64, 70))]
    assert gpu.repeats == [1]


@pytest.mark.parametrize(("n_ubatch", "few"), [(8, 2), (64, 8), (320, 8)])
def test_more_than_a_few_tokens_are_read_in_a_batch(n_ubatch: int, few: int) -> None:
    for rest, batches in ((few, few), (few + 1, 1)):
        gpu, tokens = engine(n_ctx=400, n_ubatch=n_ubatch)
        asyncio.run(take(tokens, list(range(n_ubatch + rest)), 1))
        assert len(gpu.runs) == 1 + batches and gpu.evaluated == n_ubatch + rest


def test_batches_of_one_take_the_decode_plan_throughout() -> None:
    file = llama_header(**TINY)
    gpu, tokens = engine()
    gpu.plan = plan_model(file, n_ctx=N_CTX, n_ubatch=1)
    assert asyncio.run(take(tokens, [4, 5, 6], 4)) == continued([4, 5, 6], 4)
    assert {phase for phase, _, _ in gpu.runs} == {"decode"}


def test_at_least_four_tokens_are_in_flight_while_waiting() -> None:
    gpu, tokens = engine()
    gpu.seconds_per_token = 0.005
    asyncio.run(take(tokens, [1, 2], 30))
    assert min(gpu.in_flight_when_waiting[:-4]) >= 4


@pytest.mark.parametrize("ms_per_token", [0.05, 1.0, 5.0])
def test_a_fast_gpu_gets_more_tokens_ahead_in_bursts(ms_per_token: float) -> None:
    gpu, tokens = engine(n_ctx=400, ms_per_token=ms_per_token)
    prompt = [9, 8, 7]
    assert asyncio.run(take(tokens, prompt, 10_000)) == continued(prompt, 398)
    assert gpu.evaluated == 400
    assert max(gpu.in_flight_when_waiting) >= min(8, int(40 / ms_per_token))
    if ms_per_token <= 1:
        assert gpu.repeats.count(SUBMITTED) > 50
    assert max(gpu.in_flight_when_waiting) <= IN_FLIGHT * SUBMITTED


def test_a_slow_gpu_is_not_flooded() -> None:
    gpu, tokens = engine(n_ctx=200, ms_per_token=300.0)
    asyncio.run(take(tokens, [1], 100))
    assert max(gpu.in_flight_when_waiting) <= 5 and set(gpu.repeats) == {1}


def test_the_next_turn_evaluates_only_what_is_new() -> None:
    async def chat(gpu: FakeGPU, tokens: Tokens) -> None:
        answer = await take(tokens, [3, 1, 4, 1, 5], 6)
        before = gpu.evaluated
        prompt = [3, 1, 4, 1, 5, *answer, 9, 2, 6]
        assert await take(tokens, prompt, 1) == continued(prompt, 1)
        assert gpu.evaluated - before == 4  # the answer's last token was never evaluated; and the three new ones
        before = gpu.evaluated
        assert await take(tokens, prompt, 1) == continued(prompt, 1)
        assert gpu.evaluated - before == 1  # the same again: its last token, for the logits
        before = gpu.evaluated
        assert await take(tokens, [3, 1, 7, 7], 2) == continued([3, 1, 7, 7], 2)
        assert gpu.evaluated - before == 3  # from where it differs, and one decoded

    asyncio.run(chat(*engine()))


@pytest.mark.parametrize("stop_after", [1, 2, 5, 9])
@pytest.mark.parametrize("ms_per_token", [0.05, 100.0])
def test_what_ran_past_a_stop_is_dropped_and_the_next_turn_is_right(stop_after: int, ms_per_token: float) -> None:
    async def chat(gpu: FakeGPU, tokens: Tokens) -> None:
        prompt = [2, 7, 1, 8]
        answer = await take(tokens, prompt, 100, stop_after)
        assert answer == continued(prompt, stop_after)
        for then in ([*prompt, *answer, 2, 8], [*prompt, *answer], prompt, [2, 7], [*prompt, *answer[:-1], 200, 3]):
            assert await take(tokens, then, 5) == continued(then, 5)

    asyncio.run(chat(*engine(ms_per_token=ms_per_token)))


def test_a_cancelled_task_leaves_a_generator_that_works() -> None:
    async def cancel(gpu: FakeGPU, tokens: Tokens) -> None:
        gpu.seconds_per_token = 0.05
        task = asyncio.create_task(take(tokens, [6, 2, 8], 30))
        while not gpu.in_flight_when_waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gpu.under_way  # what was submitted is still running
        assert await take(tokens, [6, 2, 8, 5], 10) == continued([6, 2, 8, 5], 10)

    asyncio.run(cancel(*engine()))


def test_an_error_of_the_gpu_reaches_the_reader() -> None:
    async def lose(gpu: FakeGPU, tokens: Tokens) -> None:
        gpu.lost = True
        with pytest.raises(GPUError):
            await take(tokens, [1, 2, 3], 10)

    asyncio.run(lose(*engine()))


def test_sampling_begins_anew_with_every_generation() -> None:
    async def twice(gpu: FakeGPU, tokens: Tokens) -> None:
        for n in (4, 7):
            generation = tokens.generate([1, 2, 3], Sampling(temperature=0.5, seed=n), n)
            assert len([token async for token in generation]) == n
            assert (gpu.io[IO.step], gpu.io[IO.seed]) == (n, n)
            assert gpu.io[IO.temperature : IO.temperature + 1].view(np.float32) == 0.5

    asyncio.run(twice(*engine()))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "The prompt is empty; give at least one token."),
        (
            [1] * 41,
            "The prompt has 41 tokens, but the context holds 40; shorten it, or load the model with a larger n_ctx.",
        ),
    ],
)
def test_prompts_that_do_not_fit_are_refused_with_the_figures(prompt: list[int], message: str) -> None:
    with pytest.raises(ContextError) as caught:
        asyncio.run(take(engine()[1], prompt, 1))
    assert str(caught.value) == message


@pytest.mark.parametrize("n_prompt", [LONG_CONTEXT - 1, LONG_CONTEXT, LONG_CONTEXT + 1])
def test_tokens_far_behind_take_the_phase_of_long_contexts_which_is_prepared_when_it_is_needed(n_prompt: int) -> None:
    gpu, tokens = engine(n_ctx=LONG_CONTEXT + 50, n_ubatch=LONG_CONTEXT)
    gpu.prepared.clear()
    prompt = list(range(n_prompt))
    assert asyncio.run(take(tokens, prompt, 1)) == continued(prompt, 1)
    assert ("decode_long" in gpu.prepared) == (n_prompt > LONG_CONTEXT)
    asked = gpu.preparations
    assert asyncio.run(take(tokens, prompt, 20)) == continued(prompt, 20)
    assert gpu.preparations - asked <= 3  # not for each token
    for phase, past, n in gpu.runs:
        assert n > 1 or phase == ("decode_long" if past >= LONG_CONTEXT else "decode")


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 16, 40])
def test_log_probabilities_pair_every_token_with_its_next_across_batches(n: int) -> None:
    async def evaluate(gpu: FakeGPU, tokens: Tokens) -> None:
        await take(tokens, [1, 2, 3], 5)  # an old cache, which must not show
        gpu.runs.clear()
        text = [10 + i for i in range(n)]
        log_p, top = await tokens.log_probabilities(text)
        assert (-log_p).tolist() == text[1:]
        assert top.tolist() == [following(text[: i + 1]) for i in range(n)]
        assert [run[1:] for run in gpu.runs] == [(at, min(8, n - at)) for at in range(0, n, 8)]
        assert await take(tokens, [1, 2, 3], 5) == continued([1, 2, 3], 5)

    asyncio.run(evaluate(*engine()))


@pytest.mark.parametrize("numbers", [0, 2, 7, 8, 12])
def test_logits_that_are_no_numbers_are_an_error_that_says_after_how_many_tokens(numbers: int) -> None:
    async def read(gpu: FakeGPU, tokens: Tokens) -> None:
        gpu.numbers = numbers
        told = (
            rf"after {numbers + 1} tokens are no numbers \(NaN or infinite\), so there is no next token; load the model"
        )
        with pytest.raises(NotANumberError, match=told):
            await tokens.log_probabilities(list(range(20)))
        for prompt in (list(range(numbers + 1)), [5]):
            found = []
            with pytest.raises(NotANumberError, match=told):
                async for token in tokens.generate(prompt, GREEDY, 20):
                    found.append(token)
            assert found == continued(prompt, numbers + 1 - len(prompt))

    asyncio.run(read(*engine()))


def test_where_numbers_end_is_named_if_it_is_known() -> None:
    assert str(no_numbers(3, "blk.1.attn")) == (
        "The model's logits after 3 tokens are no numbers (NaN or infinite), which begins in blk.1.attn; "
        "fetch the file again, or use another model."
    )


def test_between_answers_the_place_behind_the_cached_tokens_is_to_be_had_if_it_is_large_enough() -> None:
    async def ask(gpu: FakeGPU, tokens: Tokens) -> None:
        assert (tokens.past, tokens.spare(N_CTX), tokens.spare(N_CTX + 1)) == ([], 0, None)
        answer = await take(tokens, [1, 2, 3], 5)
        assert tokens.past == [1, 2, 3, *answer[:-1]]
        assert (tokens.spare(N_CTX - 7), tokens.spare(N_CTX - 6)) == (7, None)

    asyncio.run(ask(*engine()))


def test_a_prompt_is_cut_back_as_far_as_a_window_allows_without_reading_anew() -> None:
    async def evaluated(kept: int) -> int:
        gpu = RingGPU(5, 200, 8)
        tokens = Tokens(gpu, lambda: gpu.now)
        await take(tokens, list(range(3, 103)), 1)
        before = gpu.evaluated
        await take(tokens, list(range(3, 3 + kept)), 1)
        return gpu.evaluated - before

    ring = RingGPU(5, 200, 8).ring
    least = 100 - ring.rows + ring.window  # whose last token sees what was not overwritten
    assert asyncio.run(evaluated(least)) == 1 and asyncio.run(evaluated(least - 1)) == least - 1


def test_what_was_written_behind_the_cached_tokens_counts_against_a_window() -> None:
    async def talk(written: int) -> int:
        gpu = RingGPU(5, 200, 8)
        tokens = Tokens(gpu, lambda: gpu.now)
        prompt = list(range(3, 60))
        await take(tokens, prompt, 1)
        assert tokens.spare(written) == len(prompt)
        gpu.runs.clear()
        await take(tokens, prompt, 1)
        return gpu.evaluated

    ring = RingGPU(5, 200, 8).ring
    ahead = ring.rows - ring.window  # what may be written before the last token's window is overwritten
    assert asyncio.run(talk(ahead)) == 1 and asyncio.run(talk(ahead + 1)) > 8


def test_what_is_written_for_a_moment_hides_nothing_that_was_written_further_on() -> None:
    async def talk() -> int:
        gpu = RingGPU(5, 200, 8)
        tokens = Tokens(gpu, lambda: gpu.now)
        least = 100 - gpu.ring.rows + gpu.ring.window
        await take(tokens, list(range(3, 103)), 1)
        await take(tokens, list(range(3, 3 + least)), 1)
        assert tokens.spare(1) == least
        before = gpu.evaluated
        await take(tokens, list(range(3, 3 + least - 1)), 1)
        return gpu.evaluated - before - (least - 1)

    assert asyncio.run(talk()) == 0


def test_log_probabilities_of_more_than_the_context_are_refused() -> None:
    with pytest.raises(ContextError, match=r"41 tokens.*40"):
        asyncio.run(engine()[1].log_probabilities([1] * 41))


def test_a_new_answer_ends_the_one_before_and_keeps_what_the_cache_holds() -> None:
    async def play() -> None:
        gpu = FakeGPU()
        tokens = Tokens(gpu, lambda: gpu.now)
        first = tokens.generate([1, 2, 3], GREEDY, 20)
        begun = [await anext(first), await anext(first)]
        second = [token async for token in tokens.generate([1, 2, 3, *begun], GREEDY, 5)]
        assert second == continued([1, 2, 3, *begun], 5)
        with pytest.raises(LlamaWebError, match=r"^Another answer was begun on this model, which ended this one\.$"):
            _ = [token async for token in first]
        third = [token async for token in tokens.generate([1, 2, 3, *begun], GREEDY, 3)]
        assert third == second[:3]

    asyncio.run(play())


class RingGPU(FakeGPU):
    """Layers with a window keep fewer rows than the context: what a token sees there must be what came last."""

    def __init__(self, window: int, n_ctx: int, n_ubatch: int) -> None:
        super().__init__(n_ctx=n_ctx, n_ubatch=n_ubatch)
        file = gemma3_header(n_layer=6, n_embd=64, n_ff=96, n_vocab=300, head_dim=32, window=window)
        self.plan = plan_model(file, n_ctx=n_ctx, n_ubatch=n_ubatch, logits_all=True)
        (self.ring,) = self.plan.rings
        self.rows: list[tuple[int, int]] = [(-1, -1)] * self.ring.rows

    def run(self, phase: str, n_tokens: int, *, head: bool) -> None:
        past = int(self.io[IO.n_past])
        super().run(phase, n_tokens, head=head)
        for position in range(past, past + n_tokens):  # the batch is written as a whole, then read
            self.rows[position % self.ring.rows] = position, self.cache[position]
        for position in range(past, past + n_tokens):
            for seen in range(max(position + 1 - self.ring.window, 0), position + 1):
                assert self.rows[seen % self.ring.rows] == (seen, self.cache[seen]), (phase, position, seen)


@pytest.mark.parametrize("ms_per_token", [0.1, 2.0, 100.0])  # up to 32 tokens run past a stop, or 4
@pytest.mark.parametrize("in_flight", [1, IN_FLIGHT])
@pytest.mark.parametrize(("window", "n_ubatch"), [(5, 8), (1, 40), (20, 1), (16, 33)])
def test_conversations_with_windows_find_in_the_ring_what_they_need(
    window: int, n_ubatch: int, in_flight: int, ms_per_token: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(gpu: RingGPU, tokens: Tokens) -> None:
        random = np.random.default_rng(window)
        text: list[int] = []
        for _ in range(60):
            back = int(random.choice([0, 0, 1, 2, 7, 30, 90, 200]))
            text = text[: max(len(text) - back, 0)] + random.integers(3, 250, int(random.integers(1, 30))).tolist()
            text = text if len(text) < 200 else text[:20]
            stop = int(random.integers(1, 9))
            found = await take(tokens, text, 25, stop_after=stop)
            assert found == continued(text, stop)
            text += found

    monkeypatch.setattr(generation, "IN_FLIGHT", in_flight)
    gpu = RingGPU(window, 256, n_ubatch)
    gpu.ms_per_token = ms_per_token
    asyncio.run(talk(gpu, Tokens(gpu, lambda: gpu.now)))


def test_with_windows_too_an_answer_goes_on_where_it_was_stopped_without_reading_anew() -> None:
    gpu = RingGPU(5, 200, 8)
    tokens = Tokens(gpu, lambda: gpu.now)
    prompt = list(range(3, 100))

    async def twice() -> None:
        found = await take(tokens, prompt, 30, stop_after=6)
        before = gpu.evaluated
        await take(tokens, [*prompt, *found, 7, 8], 1)
        assert gpu.evaluated - before <= 3  # the new ones, and the last of the answer
        await take(tokens, prompt[:50], 1)  # which is no longer there
        assert gpu.runs[-1][1] < 50 and ("prefill", 0, 8) in gpu.runs[-8:]

    asyncio.run(twice())


def test_behind_another_conversation_the_ring_is_trusted_again_and_only_what_is_new_is_read() -> None:
    gpu = RingGPU(5, 200, 8)
    tokens = Tokens(gpu, lambda: gpu.now)

    async def talk() -> None:
        await take(tokens, list(range(3, 150)), 1)  # far into the ring
        text = [*range(200, 220)]
        text += await take(tokens, text, 2)
        before = gpu.evaluated
        await take(tokens, [*text, 7, 8], 1)
        assert gpu.evaluated - before == 3  # the new ones, and the last of the answer

    asyncio.run(talk())


def test_a_second_turn_of_a_recurrent_model_reads_only_what_is_new() -> None:
    gpu, tokens = engine(copies=4, n_ctx=400)
    first = list(range(20))
    answer = asyncio.run(take(tokens, first, 10))
    second = [*first, *answer, 7, 7, 7]
    before = gpu.evaluated
    assert asyncio.run(take(tokens, second, 5)) == continued(second, 5)
    assert gpu.evaluated - before == len(answer[9:]) + 3 + 4  # the last token was given, and not computed with


def test_a_recurrent_model_goes_on_from_the_end_of_its_prompt_where_it_was_stopped() -> None:
    gpu, tokens = engine(copies=4, n_ctx=400)
    gpu.seconds_per_token = 0.002

    async def turns() -> None:
        first = list(range(20))
        second = [*first, *await take(tokens, first, 30, stop_after=5), 7, 7]
        assert await take(tokens, second, 3) == continued(second, 3)

    asyncio.run(turns())
    begin = max(i for i, (_, n_past, _) in enumerate(gpu.runs) if n_past == 20)  # the end of the first prompt
    assert sum(n for _, _, n in gpu.runs[begin:]) == 5 + 2 + 2


@pytest.mark.parametrize("copies", [1, 2, 3, 8])
@pytest.mark.parametrize("stop_after", [70, 101])
def test_of_a_long_answer_a_recurrent_model_reads_the_last_tokens_again(copies: int, stop_after: int) -> None:
    gpu, tokens = engine(copies=copies, n_ctx=400)
    gpu.seconds_per_token = 0.0002

    async def turns() -> int:
        first = list(range(20))
        second = [*first, *await take(tokens, first, 300, stop_after=stop_after), 7]
        before = len(gpu.runs)
        assert await take(tokens, second, 1) == continued(second, 1)
        return sum(n for _, n_past, n in gpu.runs[before:] if n_past < len(second))

    most = 2 * KEPT_EVERY + SUBMITTED if copies > 2 else stop_after + 1
    assert 0 < asyncio.run(turns()) <= most + IN_FLIGHT * SUBMITTED  # what was still under way counts as well


def test_another_prompt_begins_a_recurrent_model_anew_and_an_earlier_turn_is_found_again() -> None:
    gpu, tokens = engine(copies=4, n_ctx=400)
    first = list(range(20))
    asyncio.run(take(tokens, first, 8))
    second = [*first, *range(30, 50)]
    asyncio.run(take(tokens, second, 8))
    before = gpu.evaluated
    again = [*first, 9, 9]  # as an edited message
    assert asyncio.run(take(tokens, again, 4)) == continued(again, 4)
    assert gpu.evaluated - before == 2 + 3
    other = [3, 2, 1]
    before = gpu.evaluated
    assert asyncio.run(take(tokens, other, 4)) == continued(other, 4)
    assert gpu.evaluated - before == 3 + 3
    assert asyncio.run(take(tokens, first, 3)) == continued(first, 3)


def test_what_a_recurrent_model_was_evaluated_with_is_not_gone_on_from() -> None:
    _, tokens = engine(copies=2, n_ctx=400)
    asyncio.run(take(tokens, [1, 2, 3], 4))
    asyncio.run(tokens.log_probabilities([5, 6, 7, 8]))
    assert asyncio.run(take(tokens, [1, 2, 3], 4)) == continued([1, 2, 3], 4)


def test_where_tables_are_on_the_host_each_token_waits_for_the_one_before_whose_rows_it_reads() -> None:
    gpu, tokens = engine(tables=(HostTable("embd", 32, Binding("tables", 0, 128 * N_UBATCH)),))
    prompt = list(range(2 * N_UBATCH + 3))
    assert asyncio.run(take(tokens, prompt, 8)) == continued(prompt, 8)
    assert set(gpu.in_flight_when_waiting) == {1} and set(gpu.repeats) == {1}
    asyncio.run(tokens.log_probabilities(prompt))
