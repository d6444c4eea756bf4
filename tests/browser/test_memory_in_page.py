"""What is planned is what is created, to the byte, at every moment; and all of it is given back."""

from __future__ import annotations

import pytest
from browser_page import Page

from llamaweb.errors import GPUError, MemoryBudgetError
from llamaweb.planner import plan_model
from tests.headers import TINY, llama_header
from tests.tiny import Tiny, TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

# Opens devices whose buffers are counted, whoever makes them: `made` has what is alive of each device, and the most.
COUNT = """
from collections import Counter
from dataclasses import replace
from pyodide.ffi import create_proxy
from llamaweb.errors import LlamaWebError
from llamaweb.gpu.device import Device
from llamaweb.llama import Llama

made = []

class Count:
    def __init__(self, device):
        self.device, self.live, self.peak = device, 0, 0
        self.buffers, self.gone = Counter(), Counter()  # (label, bytes) of what is alive, and of what was destroyed
        self.make = device.handle.createBuffer
        device.handle.createBuffer = create_proxy(self.create)

    def create(self, description):
        buffer = self.make.call(self.device.handle, description)
        size, destroy, gone = int(buffer.size), buffer.destroy, []
        name = (str(buffer.label), size)
        self.buffers[name] += 1
        self.live += size
        self.peak = max(self.peak, self.live)

        def destroyed():
            if not gone:
                self.live -= size
                self.buffers -= Counter([name])
                self.gone[name] += 1
                gone.append(True)
            destroy.call(buffer)

        buffer.destroy = create_proxy(destroyed)
        return buffer

opened = Device.open

limits = {}

async def open():
    device = await opened()
    device.profile = replace(device.profile, **limits)
    made.append(Count(device))
    return device

from llamaweb.gpu import trials

candidates = trials.candidates
trials.candidates = lambda *args: candidates(*args)[:1]  # each takes a while to compile
Device.open = open
try:
    return await work()
finally:
    Device.open, trials.candidates = opened, candidates
"""


def counted(page: Page, work: str, **args: object) -> dict:
    """Runs `work`, the body of an async function, in the page, with devices that count; see COUNT."""
    lines = "\n".join("    " + line for line in work.strip().splitlines())
    head, tail = COUNT.split("Device.open = open\n")
    return page.run(f"{head}\nasync def work():\n{lines}\n\nDevice.open = open\n{tail}", **args)


LOAD = """
if limit:
    limits.update(max_buffer_size=limit, max_storage_buffer_binding_size=limit)
llm = await Llama.load(model, **options)
count, plan = made[0], llm.plan.memory
loaded = (count.live, llm._executor.device.live_bytes)
buffers, gone = sorted(count.buffers.elements()), sorted(count.gone.elements())
_ = [piece async for piece in llm.stream("the and", max_tokens=12, temperature=0.7)]
if options.get("logits_all"):
    await llm.log_probabilities([1, 2, 3, 4])
profiled = []
if profile:
    before = count.peak
    count.peak = 0
    await llm.profile(n_prompt=8, n_generate=4, repetitions=1)
    profiled = [count.peak]
    count.peak = max(before, count.peak)
after = (count.live, llm._executor.device.live_bytes)
peaks = (count.peak, llm._executor.device.peak_bytes)
shape = (llm.plan.n_ctx, llm.plan.n_ubatch)
planned, kept = sorted(llm.plan.buffers), sorted(count.buffers.elements())
used = sorted((count.gone - Counter(gone)).elements())
await llm.close()
return {"plan": plan, "planned": planned, "buffers": buffers, "kept": kept, "gone": gone, "used": used,
        "loaded": loaded, "after": after, "peaks": peaks, "shape": shape, "left": count.live, "profiled": profiled}
"""


LLAMA = TinyLlama(type="Q4_1", n_ctx=1000, head_dim=32, n_layer=1)
SPLIT = TinyLlama(type="Q4_0", types={"*attn_v*": "Q8_0", "token_embd*": "Q8_0"})
# The model, options, and the most bytes of a buffer and a binding, where not the device's own.
CASES: dict[str, tuple[Tiny, dict, int]] = {
    "generation alone": (LLAMA, {"n_ctx": 100, "n_ubatch": 8}, 0),
    "logits of all": (LLAMA, {"n_ctx": 100, "n_ubatch": 8, "logits_all": True}, 0),
    "tuned": (LLAMA, {"n_ctx": 700, "type_k": "q8_0", "type_v": "f32", "tune": "full"}, 0),
    "as long as the model's own": (LLAMA, {"n_ctx": 0, "n_ubatch": 8, "tune": "off"}, 0),
    "gemma3": (TinyGemma3(n_layer=2), {"n_ctx": 300, "n_ubatch": 8}, 0),
    "split": (SPLIT, {"n_ctx": 60, "n_ubatch": 6, "tune": "off", "self_check": False}, 10 << 10),
    "split, logits of all": (
        SPLIT,
        {"n_ctx": 60, "n_ubatch": 6, "tune": "off", "self_check": False, "logits_all": True},
        10 << 10,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_buffer_is_a_planned_one_to_the_byte(page: Page, name: str) -> None:
    spec, options, limit = CASES[name]
    model = tiny_llama(spec) if isinstance(spec, TinyLlama) else tiny_gemma3(spec)
    found = counted(page, LOAD, model=model, options=options, limit=limit, profile=False)
    planned = found["plan"]
    assert found["buffers"] == found["kept"] == found["planned"]
    assert found["loaded"] == found["after"] == (planned["total"], planned["total"])
    assert sum(size for _, size in found["planned"]) == planned["total"]
    # What is made for a while is what the self-check and tuning need, and using the model makes nothing.
    tunes = {"timestamps", "timestamps read", "read"} if options.get("tune") == "full" else set()
    checks = {"checked"} if options.get("self_check", True) else set()
    assert {label for label, _ in found["gone"]} - {"check"} == tunes | checks and found["used"] == []
    assert (planned["total"] < found["peaks"][0]) == bool(tunes | checks)
    assert planned["total"] <= found["peaks"][0] == found["peaks"][1] <= planned["peak"]
    assert found["left"] == 0
    if limit:
        assert max(size for _, size in found["buffers"]) <= limit
        assert {"weights.1", "kv.1"} <= {label for label, _ in found["buffers"]}
    if not options["n_ctx"]:
        assert found["shape"] == (1000, 8)


def test_a_budget_is_kept_at_every_moment_tuning_and_profiling_included(page: Page) -> None:
    spec = TinyLlama(n_ctx=100_000, n_layer=1)
    header = llama_header(**{**TINY, "n_layer": 1}, n_ctx=100_000, type="F32")
    budget = plan_model(header, n_ctx=3000, n_ubatch=64, tuned=True).memory["peak"]
    options = {"n_ctx": 0, "memory_budget": budget, "tune": "full"}
    found = counted(page, LOAD, model=tiny_llama(spec), options=options, limit=0, profile=True)
    assert found["peaks"][0] == found["peaks"][1] <= found["plan"]["peak"] <= budget
    assert found["profiled"][0] <= budget
    assert found["plan"]["peak"] > budget - 4096  # hardly a token more would have fitted
    assert found["shape"][1] == 32


def test_what_does_not_fit_is_refused_before_a_weight_is_fetched(page: Page) -> None:
    async def load(model):
        from llamaweb.errors import MemoryBudgetError
        from llamaweb.files.sources import open_source
        from llamaweb.llama import Llama

        source, read = open_source(model), []

        class Watched:
            name = "watched"
            size = source.size

            async def read(self, offset, length):
                read.append((offset, length))
                return await source.read(offset, length)

            async def stream(self, offset):
                raise AssertionError("weights were asked for")

            async def close(self):
                await source.close()

        try:
            await Llama.load(Watched(), n_ctx=512, memory_budget=100_000)
        except MemoryBudgetError as error:
            return error

    error = page.run(load, model=tiny_llama(TinyLlama()))
    assert isinstance(error, MemoryBudgetError) and "budget is 0.1 MB" in str(error)


@pytest.mark.parametrize("value", ["2GB", 0])
def test_a_budget_that_is_none_is_refused_before_anything_is_fetched(page: Page, value: object) -> None:
    with pytest.raises(MemoryBudgetError, match="memory_budget is"):
        counted(page, "await Llama.load('https://not.there/m.gguf', memory_budget=value)", value=value)


def test_more_than_the_device_has_is_refused_with_what_to_do_and_given_back(page: Page) -> None:
    work = """
try:
    await Llama.load(model, n_ctx=0, n_ubatch=1, tune="off")
except LlamaWebError as error:
    return error, [(count.live, count.device.live_bytes) for count in made]
"""
    error, left = counted(page, work, model=tiny_llama(TinyLlama(n_layer=40, n_ctx=1 << 27)))
    assert isinstance(error, GPUError) and left == [(0, 0)]
    assert "out of memory while allocating" in str(error) and "smaller n_ctx, or with a memory_budget" in str(error)


def test_loading_and_closing_twenty_times_leaves_nothing(page: Page) -> None:
    work = """
for n in range(20):
    async with await Llama.load(model, n_ctx=64, n_ubatch=1, tune="off") as llm:
        assert made[-1].live == llm.plan.memory["total"] > 0
        if n % 9 == 0:
            _ = [piece async for piece in llm.stream("the", max_tokens=2)]
    await llm.close()  # a second time does no harm
return {"live": [count.live for count in made], "said": [count.device.live_bytes for count in made]}
"""
    found = counted(page, work, model=tiny_llama(TinyLlama(n_layer=1)))
    assert found == {"live": [0] * 20, "said": [0] * 20}
