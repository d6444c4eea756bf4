"""What goes wrong on a GPU arrives in Python as one typed sentence, and every byte is counted and given back."""

from __future__ import annotations

import re

import pytest
from browser_page import Page

from llamaweb.errors import DeviceLostError, GPUError, ModelFileError, NoWebGPUError
from tests.tiny import TinyLlama, tiny_llama


@pytest.fixture(scope="module")
def model() -> bytes:
    return tiny_llama(TinyLlama(type="Q4_1"))


def test_a_kernel_that_does_not_compile_is_named_with_its_constants(page: Page) -> None:
    async def compile():
        from llamaweb.gpu.device import Device
        from llamaweb.gpu.pipelines import Pipelines
        from llamaweb.operations.norm import rms_norm_kernel

        device = await Device.open()
        try:
            await Pipelines(device).compile([rms_norm_kernel(96, eps, 1).kernel for eps in (1e-5, "nonsense")])
        finally:
            device.close()

    with pytest.raises(GPUError, match=r"rms_norm \(.*eps=nonsense.*\) does not compile"):
        page.run(compile)


def test_a_variant_that_does_not_compile_gives_way_to_the_plain_one_with_a_warning(page: Page, model: bytes) -> None:
    async def answer(model):
        import warnings
        from dataclasses import replace

        from llamaweb import Llama
        from llamaweb.errors import KernelWarning
        from llamaweb.gpu.executor import Executor

        allocate = Executor.allocate
        broken = 0

        async def allocate_a_broken_plan(self):
            nonlocal broken
            phases = {}
            for name, phase in self.plan.phases.items():
                dispatches = []
                for d in phase.dispatches:
                    if d.plain:
                        sizes = ("workgroup", "wx", "wq")
                        constants = tuple((k, v * 4096 if k in sizes else v) for k, v in d.kernel.constants)
                        d, broken = replace(d, kernel=replace(d.kernel, constants=constants)), broken + 1
                    dispatches.append(d)
                phases[name] = replace(phase, dispatches=tuple(dispatches))
            self.plan = replace(self.plan, phases=phases)
            await allocate(self)

        async def tokens():
            async with await Llama.load(model, n_ctx=64) as llm:
                prompt = [5 + i % 9 for i in range(40)]  # more than a tile of the plain products
                async for _ in llm.stream(prompt, temperature=0, max_tokens=6):
                    pass
                return llm.tokens

        right = await tokens()
        Executor.allocate = allocate_a_broken_plan
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                plain = await tokens()
        finally:
            Executor.allocate = allocate
        return right, plain, broken, [str(w.message) for w in caught if w.category is KernelWarning]

    right, plain, broken, said = page.run(answer, model=model)
    assert plain == right
    assert broken
    named = {name for text in said for name in re.findall(r"(\w+) \(", text)[:1]}
    assert len(said) == len(named) and {"mul_mat", "flash_attn"} <= named, (
        said
    )  # of a token's, where there are subgroups


def test_a_binding_that_webgpu_refuses_is_named_by_its_dispatch(page: Page, model: bytes) -> None:
    async def prepare(model):
        from dataclasses import replace

        from llamaweb.files.sources import open_source
        from llamaweb.gpu.device import Device
        from llamaweb.gpu.executor import Executor
        from llamaweb.model.gguf_file import read_header
        from llamaweb.planner import plan_model

        device = await Device.open()
        plan = plan_model(await read_header(open_source(model)), device.profile, n_ctx=32, n_ubatch=1)
        phase = plan.phases["decode"]
        dispatches = list(phase.dispatches)
        at = next(i for i, d in enumerate(dispatches) if d.label == "blk.1.attn")
        first, *rest = dispatches[at].bindings
        wrong = replace(first, offset=first.offset + 4)  # not aligned
        dispatches[at] = replace(dispatches[at], bindings=(wrong, *rest))
        phases = {**plan.phases, "decode": replace(phase, dispatches=tuple(dispatches))}
        executor = Executor(device, replace(plan, phases=phases))
        try:
            await executor.allocate()
            await executor.prepare()
        finally:
            device.close()

    with pytest.raises(GPUError, match=r"flash_attn_vec blk\.1\.attn"):
        page.run(prepare, model=model)


def test_a_buffer_larger_than_the_device_allows_is_refused(page: Page) -> None:
    async def allocate():
        from llamaweb.gpu.device import Device

        device = await Device.open()
        try:
            async with device.errors("allocating the impossible"):
                device.buffer("far too large", 1 << 50, "STORAGE")
        finally:
            device.close()

    with pytest.raises(GPUError, match="while allocating the impossible"):
        page.run(allocate)


def test_an_error_nobody_waits_for_surfaces_at_the_next_run(page: Page, model: bytes) -> None:
    async def generate(model):
        import numpy as np

        from llamaweb.llama import Llama
        from llamaweb.planner import Binding

        llm = await Llama.load(model, n_ctx=64, n_ubatch=1)
        try:
            executor = llm._executor
            executor.write(Binding("io", executor.plan.regions["io"], 64), np.zeros(64, np.uint32))  # behind its end
            await executor.device.handle.queue.onSubmittedWorkDone()
            return [piece async for piece in llm.stream("the", max_tokens=3)]
        finally:
            await llm.close()

    with pytest.raises(GPUError, match=r'refused the work.*"io"'):
        page.run(generate, model=model)


LOSE = """
import asyncio
from types import SimpleNamespace
from llamaweb.llama import Llama

async def read(llm):
    n = 0
    async for token in llm._generator.generate([1, 2, 3], SAMPLING, 60):
        n += 1
        if n == 3:
            device = llm._executor.device
            if how == "destroyed":
                device.handle.destroy()
            else:
                device._lost(SimpleNamespace(reason="unknown", message="the driver restarted"))
    return n

from llamaweb.sampling import Sampling
SAMPLING = Sampling(temperature=0)
llm = await Llama.load(model, n_ctx=64, n_ubatch=1)
errors = []
for _ in range(2):
    try:
        await asyncio.wait_for(read(llm), 30)
    except Exception as error:
        errors.append(error)
await llm.close()
return [(type(error).__module__, type(error).__name__, str(error)) for error in errors]
"""


@pytest.mark.parametrize("how", ["destroyed", "lost"])
def test_a_device_lost_while_decoding_is_an_error_and_stays_one(page: Page, model: bytes, how: str) -> None:
    errors = page.run(LOSE, model=model, how=how)
    assert len(errors) == 2, "the second generation went on as if nothing had happened"
    for module, name, message in errors:
        assert (module, name) == (DeviceLostError.__module__, "DeviceLostError"), (name, message)
        assert "begin again with recover()" in message


def test_a_device_lost_while_loading_is_an_error(page: Page, model: bytes) -> None:
    async def load(model):
        import asyncio

        from llamaweb.gpu.device import Device
        from llamaweb.llama import Llama

        opened, devices = Device.open, []

        async def open():
            devices.append(await opened())
            return devices[0]

        def lose(progress):
            if progress.phase == "weights":
                devices[0].handle.destroy()

        Device.open = open
        try:
            await asyncio.wait_for(Llama.load(model, n_ctx=64, n_ubatch=1, progress=lose), 30)
        finally:
            Device.open = opened

    with pytest.raises(DeviceLostError):
        page.run(load, model=model)


def test_created_bytes_are_the_planned_ones_and_all_are_given_back(page: Page, model: bytes) -> None:
    async def count(model):
        from llamaweb.gpu.device import Device
        from llamaweb.llama import Llama

        opened, created, alive = Device.open, [], {}

        async def open():
            device = await opened()
            make = device.handle.createBuffer

            def create(description):
                buffer = make.call(device.handle, description)
                created.append(int(buffer.size))
                alive[len(created)] = buffer
                return buffer

            from pyodide.ffi import create_proxy

            device.handle.createBuffer = create_proxy(create)
            return device

        Device.open = open
        try:
            llm = await Llama.load(model, n_ctx=100, n_ubatch=8, logits_all=True, self_check=False)
        finally:
            Device.open = opened
        device = llm._executor.device
        found = {
            "planned": llm.plan.memory["total"],
            "said": llm.memory,
            "after load": (device.live_bytes, sum(created), len(created)),
        }
        _ = [piece async for piece in llm.stream("the and", max_tokens=12, temperature=0.7)]
        await llm.log_probabilities([1, 2, 3, 4])
        found["after use"] = (device.live_bytes, sum(created), len(created))
        llm._executor.close()
        found["after close"] = device.live_bytes
        await llm.close()
        return found

    found = page.run(count, model=model)
    live, created, _ = found["after load"]
    assert live == created == found["planned"] == found["said"]["total"]
    assert found["after use"] == found["after load"]
    assert found["after close"] == 0


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_failed_load_gives_the_device_back(page: Page, model: bytes, cut: float) -> None:
    async def load(model):
        from llamaweb.gpu.device import Device
        from llamaweb.llama import Llama

        opened, devices = Device.open, []

        async def open():
            devices.append(await opened())
            return devices[0]

        Device.open = open
        try:
            await Llama.load(model, n_ctx=64)
        except Exception as error:
            return error, [device.live_bytes for device in devices]
        finally:
            Device.open = opened

    error, live = page.run(load, model=model[: int(cut * len(model))])
    assert isinstance(error, ModelFileError)
    assert sum(live) == 0


def test_a_browser_without_webgpu_is_told_so(page: Page) -> None:
    async def open():
        from types import SimpleNamespace

        from llamaweb.gpu import device

        real, device.js = device.js, SimpleNamespace(navigator=SimpleNamespace())
        try:
            await device.Device.open()
        finally:
            device.js = real

    with pytest.raises(NoWebGPUError, match="no WebGPU adapter"):
        page.run(open)


def test_a_page_that_is_not_secure_is_told_so(page: Page, model: bytes) -> None:
    """A page of http: on another machine's name has no navigator.gpu and no storage, in any browser; here they are set
    to what Chromium has there."""

    async def load(data):
        import js

        from llamaweb import Llama

        js.eval("""
            const hidden = { gpu: navigator, storage: navigator, isSecureContext: globalThis };
            for (const [name, owner] of Object.entries(hidden)) {
                const get = () => (name === "isSecureContext" ? false : undefined);
                Object.defineProperty(owner, name, { get, configurable: true });
            }
        """)
        try:
            await Llama.load(data)
        finally:
            js.eval("delete navigator.gpu; delete navigator.storage; delete globalThis.isSecureContext")

    with pytest.raises(
        NoWebGPUError, match=r"not secure: it came from http://127\.0\.0\.1:\d+ without TLS; open it by"
    ):
        page.run(load, data=model)
