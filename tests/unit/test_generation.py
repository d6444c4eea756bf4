"""The generation loop over a GPU that is none: order, batches, what is in flight and what is dropped."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from llamaweb.errors import ContextError, GPUError, LlamaWebError, NotANumberError
from llamaweb.generation import Generator as Tokens
from llamaweb.generation import no_numbers
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED
from llamaweb.planner import plan_model
from llamaweb.planner.plan import LONG_CONTEXT
from llamaweb.sampling import Sampling
from tests.fake_gpu import GREEDY, N_CTX, FakeGPU, continued, engine, following, take
from tests.headers import TINY, llama_header


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


def test_after_a_reset_the_whole_prompt_is_read_again() -> None:
    async def chat(gpu: FakeGPU, tokens: Tokens) -> None:
        prompt = [3, 1, 4, 1, 5]
        await take(tokens, prompt, 6, 2)  # some tokens run past the stop
        tokens.reset()
        before = gpu.evaluated
        assert tokens.past == []
        assert await take(tokens, prompt, 1) == continued(prompt, 1)
        assert gpu.evaluated - before == 5
        under_way = tokens.generate(prompt, GREEDY, 20)
        await anext(under_way)
        tokens.reset()
        with pytest.raises(LlamaWebError, match="ended this one"):
            await anext(under_way)
        assert await take(tokens, [2, 7], 5) == continued([2, 7], 5)

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
