"""What a conversation leaves on a GPU that is none: rings of windows, states of recurrent models, rows of tables."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from llamaweb import generation
from llamaweb.generation import KEPT_EVERY
from llamaweb.generation import Generator as Tokens
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED
from llamaweb.planner import plan_model
from llamaweb.planner.plan import Binding, HostTable
from tests.fake_gpu import N_UBATCH, FakeGPU, continued, engine, take
from tests.headers import gemma3_header


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


def test_a_second_turn_of_a_recurrent_model_reads_only_what_is_new() -> None:
    gpu, tokens = engine(copies=4, n_ctx=400)
    first = list(range(20))
    answer = asyncio.run(take(tokens, first, 10))
    second = [*first, *answer, 7, 7, 7]
    before = gpu.evaluated
    assert asyncio.run(take(tokens, second, 5)) == continued(second, 5)
    assert gpu.evaluated - before == len(answer[9:]) + 3 + 4  # the last token was given, and not computed with
    assert tokens.reused == len(second) - len(answer[9:]) - 3


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
