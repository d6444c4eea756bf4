"""A device that is lost, whatever is waited for at that moment, is one typed sentence; and nothing is left unread."""

from __future__ import annotations

from dataclasses import replace

import pytest
from browser_page import Page
from unreliable_server import UnreliableServer

from llamaweb.host.browser import BrowserChoice
from tests.tiny import TinyLlama, tiny_llama

# `trial(at)` does the work and loses every device at the `at`-th promise of WebGPU, which is rejected as all later ones
# are, as when the GPU's process ends; it gives what was raised, the calls that were made, and what nobody heeded.
TRIAL = """
import asyncio, gc, js
from pyodide.code import run_js
from pyodide.ffi import create_proxy
from llamaweb.errors import DeviceLostError
from llamaweb.gpu import trials
from llamaweb.llama import Llama

lose = run_js('''(at) => {
    const asked = [];
    const devices = [];
    const undo = [];
    const wrap = (type, name, make) => {
        const real = type.prototype[name];
        type.prototype[name] = make(real);
        undo.push(() => (type.prototype[name] = real));
    };
    const gone = () => Promise.reject(new DOMException("the instance is gone", "OperationError"));
    for (const [type, name] of [
        [GPUDevice, "createComputePipelineAsync"],
        [GPUDevice, "popErrorScope"],
        [GPUQueue, "onSubmittedWorkDone"],
        [GPUBuffer, "mapAsync"],
    ]) {
        wrap(type, name, (real) => function (...args) {
            if (this instanceof GPUDevice && !devices.includes(this)) devices.push(this);
            if (asked.length === at) for (const device of devices) device.destroy();
            asked.push(name);
            return asked.length > at ? gone() : real.apply(this, args);
        });
    }
    return { asked, undo: () => undo.forEach((each) => each()), devices };
}''')

async def trial(at):
    unheeded = []
    hear = create_proxy(lambda event: unheeded.append(str(event.reason)))
    js.addEventListener("unhandledrejection", hear)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unheeded.append(str(context)))
    llm = None
    if work in USES:
        llm = await Llama.load(model, n_ctx=40, n_ubatch=2, tune="off", logits_all=work == "evaluate")
    losing = lose(at)
    if llm:
        losing.devices.push(llm._executor.device.handle)
    try:
        said = "nothing"
        if work in USES:
            await asyncio.wait_for(USES[work](llm), 30)
        else:
            options = {"n_ubatch": 2, "tune": "off"} if work == "load" else {"n_ubatch": 1, "tune": "full"}
            llm = await asyncio.wait_for(Llama.load(model, n_ctx=40, **options), 30)
    except DeviceLostError as error:
        said = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    finally:
        losing.undo()
    if llm:
        await llm.close()
    del llm
    gc.collect()
    await asyncio.sleep(0.01)
    js.removeEventListener("unhandledrejection", hear)
    loop.set_exception_handler(None)
    return said, [str(name) for name in losing.asked], unheeded

async def answer(llm):
    async for _ in llm.stream([1, 2, 3, 4, 5], max_tokens=20, temperature=0, ignore_eos=True):
        pass

USES = {
    "answer": answer,
    "evaluate": lambda llm: llm.log_probabilities(list(range(1, 12))),
    "profile": lambda llm: llm.profile(n_prompt=2, n_generate=8, repetitions=1),
}

kept = trials.candidates
trials.candidates = lambda *args: kept(*args)[:1]  # each takes a while to compile
try:
    said, asked, unheeded = await trial(1 << 30)
    found = [("undisturbed", said, unheeded)]
    for name in dict.fromkeys(asked):
        places = [i for i, each in enumerate(asked) if each == name]
        first, middle, last = places[0], places[len(places) // 2], places[-1]
        for at in sorted({"load": {first, middle, last}, "profile": {middle}}.get(work, {first, middle})):
            said, again, unheeded = await trial(at)
            if len(again) > at:  # how often something is timed depends on how long it takes
                found.append((f"{name}, {at} of {len(asked)}", said, unheeded))
finally:
    trials.candidates = kept
return found
"""


@pytest.fixture(scope="module")
def browser_choice(browser_choice: BrowserChoice) -> BrowserChoice:
    """A browser that goes on giving devices after its GPU's process has ended several times."""
    flags = ("--disable-domain-blocking-for-3d-apis", "--disable-gpu-process-crash-limit")
    return replace(browser_choice, flags=(*browser_choice.flags, *flags))


@pytest.fixture(scope="module")
def model() -> bytes:
    return tiny_llama(TinyLlama(n_layer=1, type="Q4_0"))


@pytest.mark.parametrize("work", ["load", "tune", "answer", "evaluate", "profile"])
def test_a_device_lost_at_any_promise_of_webgpu_is_a_typed_sentence(page: Page, model: bytes, work: str) -> None:
    (_, undisturbed, unheeded), *found = page.run(TRIAL, model=model, work=work)
    assert undisturbed == "nothing" and unheeded == []
    assert found
    advice = ("begin again with recover().", "if that happens again.")
    for moment, said, unheeded in found:
        assert said.startswith("The GPU device was lost (") and said.endswith(advice), (moment, said)
        assert unheeded == [], moment


# Begins the work, and comes back when it has got to the moment.
BEGIN = """
import asyncio, builtins
from llamaweb.errors import LlamaWebError
from llamaweb.gpu.device import Device
from llamaweb.llama import Llama

reached, builtins.lost_now, opened = asyncio.Event(), asyncio.Event(), Device.open

async def open_later():
    Device.open = opened
    await builtins.lost_now.wait()
    return await opened()

if moment == "header":
    Device.open = open_later

def report(progress):
    if progress.phase == moment:
        reached.set()

async def work():
    try:
        llm = await Llama.load(model, n_ctx=200, n_ubatch=8, tune="off", cache=False, progress=report)
        builtins.lost_model = llm
        reached.set()
        if moment == "profile":
            await llm.profile(n_prompt=8, n_generate=8)
        async for _ in llm.stream([1, 2, 3], max_tokens=150, temperature=0, ignore_eos=True):
            pass
        return "", "nothing"
    except LlamaWebError as error:
        return type(error).__name__, str(error)
    finally:
        reached.set()

builtins.lost_work = asyncio.ensure_future(work())
await reached.wait()
"""

END = """
import asyncio, builtins
builtins.lost_now.set()
said = await asyncio.wait_for(builtins.lost_work, 60)
llm = builtins.__dict__.pop("lost_model", None)
tokens = []
if llm:
    await llm.recover()
    async for _ in llm.stream([1, 2, 3], max_tokens=4, temperature=0, ignore_eos=True):
        pass
    tokens = llm.tokens
    await llm.close()
return said, len(tokens)
"""


@pytest.mark.parametrize("moment", ["header", "weights", "pipelines", "answer", "profile"])
def test_when_the_gpus_process_ends_it_is_a_typed_sentence_and_the_model_recovers(
    page: Page, server: UnreliableServer, model: bytes, moment: str
) -> None:
    url = server.url("model.gguf", model, pace=0.02)
    page.run(BEGIN, model=url, moment=moment)
    page.runner.driver.execute_cdp_cmd("Browser.crashGpuProcess", {})
    (kind, said), again = page.run(END)
    if moment == "header":  # before there is a device
        assert (kind, said) == ("", "nothing")
    else:
        assert kind == "DeviceLostError" and "was lost" in said, said
    assert again == (4 if moment in ("header", "answer", "profile") else 0)
