"""Nothing that a caller does wrong, breaks off or leaves makes a loaded model give another answer, or none."""

from __future__ import annotations

from typing import Any

from browser_page import Page

from llamaweb.errors import LlamaWebError
from tests.tiny import TinyLlama, tiny_llama

MODEL = TinyLlama(n_ctx=128)


async def misused(data: bytes) -> list[tuple[str, str, str, str]]:
    """After each misuse: its name, what it said, and the answers to a plain call before it and behind it."""
    import asyncio

    from llamaweb import Llama

    llm = await Llama.load(data, n_ctx=96, n_ubatch=16, tune="off", logits_all=True)
    spread = {"temperature": 100, "top_k": 0, "top_p": 1, "min_p": 0}  # so that an answer has many words
    plain = {**spread, "seed": 5, "max_tokens": 24, "ignore_eos": True}
    long = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}
    chat = [{"role": "user", "content": "the king"}]

    async def thrown(pieces):
        async for _ in pieces:
            raise KeyError("the consumer's")

    async def left(pieces):
        await anext(pieces)

    async def late(work, ticks):
        """Cancelled after some rounds of the loop."""
        task = asyncio.ensure_future(work)
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await task

    async def two():
        await asyncio.gather(llm.complete("in the and", **long), llm.chat(chat, **long))

    def fails(progress):
        raise KeyError("the callback's")

    misuses = {
        "half a token": lambda: llm.complete("the", max_tokens=2.5),
        "no tokens": lambda: llm.complete("the", max_tokens=0),
        "not a number": lambda: llm.complete("the", temperature=float("nan")),
        "a text for a number": lambda: llm.complete("the", temperature="hot"),
        "half a seed": lambda: llm.complete("the", seed=1.5),
        "no text": lambda: llm.complete(None),
        "a number": lambda: llm.complete(5),
        "ids of another model": lambda: llm.complete([1, 2, 10**9]),
        "ids that are none": lambda: llm.complete([1, 2.5]),
        "an empty prompt": lambda: llm.complete([]),
        "a prompt that is too long": lambda: llm.complete([5] * 97),
        "stops that are none": lambda: llm.complete("the", stop=[5]),
        "no messages": lambda: llm.chat([]),
        "an image": lambda: llm.chat([{"role": "user", "content": [{"type": "image_url"}]}]),
        "awaited": lambda: llm.stream("the"),
        "chunks of half a token": lambda: llm.perplexity("the king in the and", 4.5),
        "chunks that do not fit": lambda: llm.perplexity("the king in the and", 500),
        "a profile of less than nothing": lambda: llm.profile(n_prompt=-1),
        "a profile beyond the context": lambda: llm.profile(depth=96),
        "thrown in the loop": lambda: thrown(llm.stream("in the and", **long)),
        "thrown in the chat's loop": lambda: thrown(llm.chat_stream(chat, **long)),
        "left in its middle": lambda: left(llm.stream("in the and", **long)),
        "left before its begin": lambda: llm.stream("in the and", **long).aclose(),
        "two at once": two,
        "cancelled at once": lambda: late(llm.complete("in the and", **long), 0),
        "cancelled while it begins": lambda: late(llm.complete("in the and", **long), 1),
        "cancelled in the prompt": lambda: late(llm.complete([5] * 60, **plain), 4),
        "cancelled in its middle": lambda: late(llm.complete("in the and", **long), 20),
        "cancelled in a chat": lambda: late(llm.chat(chat, **long), 30),
        "cancelled in a perplexity": lambda: late(llm.perplexity("the king in the and " * 9, 16), 12),
        "thrown by a callback": lambda: llm.perplexity("the king in the and " * 9, 16, progress=fails),
        "cancelled in a profile": lambda: late(llm.profile(n_prompt=16, n_generate=30), 40),
        "cancelled in a profile's decoding": lambda: late(llm.profile(n_prompt=0, n_generate=90), 120),
    }
    seen = []
    expected = await llm.complete("the king in the", **plain)
    for name, misuse in misuses.items():
        said = ""
        try:
            async with asyncio.timeout(60):
                await misuse()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        try:
            async with asyncio.timeout(60):
                after = await llm.complete("the king in the", **plain)
        except TimeoutError:
            return [*seen, (name, said, expected, "never ended")], []
        seen.append((name, said, expected, after))
    log_p, _ = await llm.log_probabilities(llm.tokenize("the king in the and"))
    await llm.close()
    return seen, [float(p) for p in log_p]


def test_after_every_misuse_the_next_plain_call_gives_the_same_answer(page: Page) -> None:
    seen: list[Any]
    seen, log_p = page.run(misused, data=tiny_llama(MODEL))
    assert len(seen) > 30 and all(-20 < p < 0 for p in log_p)
    for name, said, expected, after in seen:
        assert len(set(expected)) > 4 and after == expected, (name, said, expected, after)
        assert said or name.startswith("left"), name
        assert not said.startswith(("PageError", "GPUError", "AssertionError", "InvalidStateError")), (name, said)
    told = {name: said.partition(":")[0] for name, said, _, _ in seen}
    assert told["half a token"] == told["awaited"] == told["two at once"] == "LlamaWebError"
    assert told["thrown in the loop"] == told["thrown by a callback"] == "KeyError"
    assert {told[name] for name in told if name.startswith("cancelled")} == {"CancelledError"}


async def again(data: bytes) -> tuple[list[float], list[tuple[int, list[float]]]]:
    """What a call that reads results gives alone, and right after one that was cancelled after some rounds."""
    import asyncio

    from llamaweb import Llama

    async with await Llama.load(data, n_ctx=96, n_ubatch=16, tune="off", logits_all=True) as llm:
        tokens = list(range(20, 80))
        expected = (await llm.log_probabilities(tokens))[0].tolist()
        found = []
        for ticks in range(12):
            task = asyncio.ensure_future(llm.log_probabilities(tokens))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            found.append((ticks, (await llm.log_probabilities(tokens))[0].tolist()))
        return expected, found


def test_a_call_right_after_one_that_was_cancelled_while_it_read_its_results_gives_the_same(page: Page) -> None:
    expected, found = page.run(again, data=tiny_llama(MODEL))
    assert len(found) == 12 and [ticks for ticks, each in found if each != expected] == []


def test_what_a_recovery_ends_is_told_as_that_and_goes_on_with_the_conversation(page: Page) -> None:
    async def recovered(data):
        from llamaweb import Llama

        options = {"temperature": 0, "ignore_eos": True}
        async with await Llama.load(data, n_ctx=96, n_ubatch=16, tune="off") as llm:
            whole = await llm.complete([20, 21, 22], max_tokens=12, **options) and list(llm.tokens)
            pieces = llm.stream([20, 21, 22], max_tokens=40, **options)
            await anext(pieces)
            await llm.recover()
            try:
                async for _ in pieces:
                    pass
                said = None
            except Exception as error:
                said = error
            before = len(llm.tokens)
            await llm.complete(llm.conversation, max_tokens=12 - before, **options)
            return whole, said, llm.conversation[3:]

    whole, said, after = page.run(recovered, data=tiny_llama(MODEL))
    assert type(said) is LlamaWebError and "loaded again by recover(), which ended this call" in str(said)
    assert after == whole


async def texts(data: bytes) -> list[str]:
    from llamaweb import Llama

    async with await Llama.load(data, n_ctx=64, n_ubatch=16, tune="off") as llm:
        plain = {"temperature": 100, "top_k": 0, "top_p": 1, "min_p": 0, "seed": 5, "max_tokens": 6}
        found = [await llm.complete("the and in", **plain, stop=stop) for stop in ((), "", [""], None)]
        found.append("".join([piece async for piece in llm.stream(b"the and in", **plain)]))
        parts = [{"type": "text", "text": "the and in"}]
        said = [await llm.chat([{"role": "user", "content": c}], **plain) for c in ("the and in", parts, b"the and in")]
        return found, said, llm.finish_reason, llm.stopped_by


def test_empty_stop_texts_bytes_and_text_parts_mean_what_they_say(page: Page) -> None:
    found, said, finish_reason, stopped_by = page.run(texts, data=tiny_llama())
    assert found[0] and set(found) == {found[0]} and said[0] and set(said) == {said[0]}
    assert (finish_reason, stopped_by) in (("length", "max_tokens"), ("stop", "<|im_end|>"))


def test_a_device_that_comes_when_its_load_was_cancelled_is_closed(page: Page) -> None:
    async def reason(script):
        import asyncio

        from pyodide.code import run_js

        from llamaweb.gpu.device import Device

        seen = run_js(script)()
        try:
            task = asyncio.ensure_future(Device.open())
            while not seen.asked:
                await asyncio.sleep(0)
            task.cancel()
            return await asyncio.wait_for(seen.lost(), 30)
        finally:
            seen.restore()

    script = """() => {
      const real = GPUAdapter.prototype.requestDevice;
      let device;
      const seen = { asked: 0, lost: async () => (await (await device).lost).reason };
      seen.restore = () => (GPUAdapter.prototype.requestDevice = real);
      GPUAdapter.prototype.requestDevice = function (...args) {
        seen.asked++;
        return (device = real.apply(this, args));
      };
      return seen;
    }"""
    assert page.run(reason, script=script) == "destroyed"
