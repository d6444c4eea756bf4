"""The calls of llama-cpp-python's names in the page: what they give is what the short ones give."""

from __future__ import annotations

import pytest
from browser_page import Page

from tests.tiny import TinyLlama, tiny_llama

pytestmark = pytest.mark.usefixtures("one_device")


async def others(data):
    """What is said of options that `load` and `stream` do not have."""
    import warnings

    from llamaweb import Llama, LlamaWebError

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        llm = await Llama.load(data, n_ctx=64, tune="off", n_gpu_layers=-1, verbose=False)
    said = [f"{w.category.__name__} {w.message} {w.filename.rpartition('/')[2]}" for w in told]
    for call in (lambda: Llama.load(data, n_ctxx=64), lambda: llm.complete("the", temprature=1)):
        try:
            await call()
        except LlamaWebError as error:
            said.append(str(error))
    await llm.close()
    return said


def test_options_of_others_are_warned_of_once_and_unknown_ones_refused(page: Page) -> None:
    warned, load, stream = page.run(others, data=tiny_llama(TinyLlama(n_ctx=128)))
    assert warned.startswith("OptionWarning n_gpu_layers, verbose: mean nothing in a browser; leave it out.")
    assert load == "Llama.load has no option 'n_ctxx'; did you mean 'n_ctx'?"
    assert stream == "An answer has no option 'temprature'; did you mean 'temperature'?"


async def calls(data):
    """What each of them gives."""
    from llamaweb import Llama

    async with await Llama.load(data, n_ctx=128, n_ubatch=16, tune="off") as llm:
        plain = {"temperature": 0, "ignore_eos": True}
        messages = [{"role": "user", "content": "the king"}]
        found = {"complete": await llm.complete("in the and", max_tokens=20, **plain)}
        found["completion"] = await llm.create_completion("in the and", max_tokens=20, **plain)
        found["called"] = await llm("in the and", max_tokens=5, **plain)
        found["chunks"] = [c async for c in llm("in the and", max_tokens=20, stream=True, **plain)]
        found["chat"] = await llm.chat(messages, max_tokens=20, **plain)
        found["chat_completion"] = await llm.create_chat_completion(messages, max_tokens=20, **plain)
        stream = await llm.create_chat_completion(messages, stream=True, **plain)
        left = []
        async for chunk in stream:
            left.append(chunk["choices"][0]["delta"].get("content", ""))
            if len(left) == 6:
                break
        await stream.aclose()
        found["left"] = "".join(left)
        found["after"] = await llm.create_completion("in the and", max_tokens=20, **plain)
        found["several"] = await llm.create_completion("the", max_tokens=12, n=2, seed=3, temperature=5.0, top_k=0)
        one = await llm.create_completion("the", max_tokens=12, seed=4, temperature=5.0, top_k=0)
        found["second"] = one["choices"][0]["text"]
        llm.reset()
        again = await llm.create_completion("the", max_tokens=12, seed=4, temperature=5.0, top_k=0)
        found["again"] = [again["choices"][0]["text"], again["usage"]["prompt_tokens_details"]["cached_tokens"]]
        found["questions"] = [llm.n_ctx(), llm.n_vocab(), llm.token_bos(), llm.token_eos()]
        found["tokens"] = [llm.tokenizer.n_vocab, llm.tokenizer.bos, llm.tokenizer.eos]
        return found


def test_calls_give_what_the_short_ones_give(page: Page) -> None:
    found = page.run(calls, data=tiny_llama(TinyLlama(n_ctx=128)))
    completion = found["completion"]
    assert completion["choices"][0]["text"] == found["complete"] == found["after"]["choices"][0]["text"]
    assert found["complete"].startswith(found["called"]["choices"][0]["text"])
    assert "".join(chunk["choices"][0]["text"] for chunk in found["chunks"]) == found["complete"]
    assert found["chunks"][-1]["choices"][0]["finish_reason"] == "length"
    assert found["chunks"][-1]["timings"]["predicted_n"] == completion["timings"]["predicted_n"] == 20
    n_prompt = completion["usage"]["prompt_tokens"]
    assert completion["usage"]["prompt_tokens_details"]["cached_tokens"] == n_prompt - 1  # `complete` has read it
    assert found["chat_completion"]["choices"][0]["message"]["content"] == found["chat"]
    assert found["left"] and found["chat"].startswith(found["left"])
    assert found["several"]["choices"][1]["text"] == found["second"] != found["several"]["choices"][0]["text"]
    assert found["again"] == [found["second"], 0]
    assert found["questions"] == [128, *found["tokens"]]
