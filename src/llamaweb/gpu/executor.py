"""The executor: a plan made real as buffers, pipelines and bind groups, and replayed. It knows no model."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import js
import numpy as np
from pyodide.ffi import JsException, to_js

from llamaweb.errors import KernelError, KernelWarning
from llamaweb.gpu.device import Device, Reading
from llamaweb.javascript import js_file, js_object
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED, readback_bytes
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.template import wgsl
from llamaweb.planner.plan import Binding, Dispatch, ModelPlan


class Pipelines:
    """Compiled kernels of a device; equal kernels are compiled once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._layouts: dict[tuple[str, ...], Any] = {}
        self._pipelines: dict[Kernel, Any] = {}
        self._step = js_file("gpu/step.js")(device.handle)

    async def compile(
        self,
        kernels: Sequence[Kernel],
        done: Callable[[int, int], None] | None = None,
        plain: Mapping[Kernel, Kernel] | None = None,
    ) -> set[Kernel]:
        """Compiles kernels side by side. Where WebGPU refuses one that has a plain variant, this is compiled instead,
        with a warning that names the kernel; gives the refused ones. Raises KernelError if there is no other way."""
        missing = [k for k in dict.fromkeys(kernels) if k not in self._pipelines]
        plain = plain or {}
        refused: set[Kernel] = set()
        finished = 0

        async def one(kernel: Kernel) -> None:
            nonlocal finished
            try:
                self._pipelines[kernel] = await self._compile(kernel)
            except KernelError as error:
                if kernel not in plain:
                    raise
                if kernel.template not in {k.template for k in refused}:
                    warnings.warn(f"{error}; its plain variant is used instead.", KernelWarning, stacklevel=1)
                refused.add(kernel)
                self._pipelines[plain[kernel]] = await self._compile(plain[kernel])
            finished += 1
            if done:
                done(finished, len(missing))

        await asyncio.gather(*(one(kernel) for kernel in missing))
        return refused

    def keep(self, kernels: Set[Kernel]) -> None:
        """Lets go of all others: tuning compiles hundreds."""
        self._pipelines = {kernel: made for kernel, made in self._pipelines.items() if kernel in kernels}

    async def _compile(self, kernel: Kernel) -> Any:
        handle = self._device.handle
        handle.pushErrorScope("validation")
        module = handle.createShaderModule(js_object({"label": kernel.template, "code": wgsl(kernel)}))
        shader = self._device.wait(handle.popErrorScope())
        layout = handle.createPipelineLayout(js_object({"bindGroupLayouts": [self._layout(kernel)]}))
        description = {"label": kernel.template, "layout": layout, "compute": {"module": module, "entryPoint": "main"}}
        try:
            return await handle.createComputePipelineAsync(js_object(description))
        except JsException as error:
            reason = error
        if getattr(reason, "reason", "") != "validation":
            await self._device.check_loss()  # a lost device compiles nothing
        constants = ", ".join(f"{name}={value}" for name, value in kernel.constants)
        why = getattr(await shader, "message", None) or reason
        raise KernelError(f"The kernel {kernel.template} ({constants}) does not compile here: {why}")

    def _layout(self, kernel: Kernel) -> Any:
        accesses = tuple(slot.access for slot in kernel.slots)
        if accesses not in self._layouts:
            types = {"read": "read-only-storage", "read_write": "storage"}
            entries = [
                {"binding": i, "visibility": 4, "buffer": {"type": types[access]}} for i, access in enumerate(accesses)
            ]  # 4: GPUShaderStage.COMPUTE
            self._layouts[accesses] = self._device.handle.createBindGroupLayout(js_object({"entries": entries}))
        return self._layouts[accesses]

    def step(self, kernel: Kernel, bindings: list[tuple[Any, Binding]], dispatch: Dispatch | None = None) -> Any:
        """A prepared dispatch for replay.js; `bindings` are buffers with the ranges to bind."""
        buffers = to_js([buffer for buffer, _ in bindings])
        ranges = to_js([at for _, b in bindings for at in (b.offset, b.size)])
        label = f"{kernel.template} {dispatch.label if dispatch else kernel.template}"
        workgroups = dispatch.workgroups if dispatch else (1, 1, 1)
        tile = dispatch.token_tile if dispatch else 0
        return self._step(label, self._layout(kernel), self._pipelines[kernel], buffers, ranges, *workgroups, tile)


class Executor:
    """Buffers and prepared dispatches of one plan."""

    def __init__(self, device: Device, plan: ModelPlan, pipelines: Pipelines | None = None) -> None:
        """pipelines: of the device, where some are compiled already."""
        self.device = device
        self.plan = plan
        self.pipelines = pipelines or Pipelines(device)
        self.buffers: dict[str, Any] = {}
        self._replay = js_file("gpu/replay.js")(device.handle)
        self._steps: dict[str, Any] = {}
        self._token_slots: list[Any] = []
        self._result_slot: Any = None
        self._next_slot = 0

    async def allocate(self) -> None:
        """Makes every buffer of the plan; nothing is allocated afterwards."""
        async with self.device.errors(f"allocating {self.plan.memory['total']} bytes"):
            self._token_slots = [
                self.device.buffer("token", 4 * SUBMITTED, "MAP_READ", "COPY_DST") for _ in range(IN_FLIGHT)
            ]
            self._result_slot = self.device.buffer("results", 8 * self.plan.n_ubatch, "MAP_READ", "COPY_DST")
            for region, size in self.plan.regions.items():
                size -= readback_bytes(self.plan.n_ubatch) if region == "io" else 0
                self.buffers[region] = self.device.buffer(region, size, "STORAGE", "COPY_DST", "COPY_SRC")

    async def prepare(self, done: Callable[[int, int], None] | None = None) -> None:
        """Compiles the plan's kernels and makes its bind groups."""
        dispatches = [d for phase in self.plan.phases.values() for d in phase.dispatches]
        plain = {d.kernel: d.plain.kernel for d in dispatches if d.plain}
        refused = await self.pipelines.compile([d.kernel for d in dispatches], done, plain)
        used: set[Kernel] = set()
        async with self.device.errors("preparing the plan"):
            for name, phase in self.plan.phases.items():
                steps = js.Array.new()
                for d in phase.dispatches:
                    if d.kernel in refused and d.plain:
                        d = d.plain
                    used.add(d.kernel)
                    steps.push(self.pipelines.step(d.kernel, [(self.buffers[b.region], b) for b in d.bindings], d))
                self._steps[name] = steps
        self.pipelines.keep(used)

    def steps(self, phase: str) -> Any:
        """A phase's prepared dispatches, in order: a JavaScript array for replay.js."""
        return self._steps[phase]

    def write(self, binding: Binding, data: np.ndarray | bytes) -> None:
        """Writes small data from Python; large data belongs in `upload`, past the WebAssembly heap."""
        self.device.check()
        view = data.view(np.uint8) if isinstance(data, np.ndarray) else data
        self.device.handle.queue.writeBuffer(self.buffers[binding.region], binding.offset, to_js(view))

    def clear(self, binding: Binding) -> None:
        """Sets a range to zero."""
        self.device.check()
        encoder = self.device.handle.createCommandEncoder()
        encoder.clearBuffer(self.buffers[binding.region], binding.offset, binding.size)
        self.device.handle.queue.submit(to_js([encoder.finish()]))

    def write_io(self, word: int, data: np.ndarray) -> None:
        """Writes 32-bit words of the I/O region."""
        self.write(Binding("io", 4 * word, data.nbytes), data)

    def run(self, phase: str, n_tokens: int, *, head: bool) -> None:
        """Submits a batch; without `head`, its logits are left out."""
        plan = self.plan.phases[phase]
        self.device.check()
        self._replay.run(self._steps[phase], 0, len(plan.dispatches) if head else plan.head, n_tokens)

    def sample(self, phase: str, n_tokens: int, repeat: int = 1) -> Reading:
        """Submits a batch with its sampler, `repeat` times over (at most SUBMITTED) in one submit.

        Gives the tokens it leaves, a JavaScript Uint32Array, to be awaited while the GPU works on. At most IN_FLIGHT of
        these may be waited for at once.
        """
        self.device.check()
        slot = self._token_slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % IN_FLIGHT
        io, at = self.buffers["io"], 4 * IO.tokens
        return Reading(self.device, self._replay.sample(self._steps[phase], n_tokens, repeat, io, at, slot))

    async def read_results(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """After the phase "evaluate": each token's target's log-probability, float32, and most likely token, uint32."""
        at = 4 * IO.results(self.plan.n_ubatch)
        promise = self._replay.readBytes(self.buffers["io"], at, 8 * n_tokens, self._result_slot)
        data = await Reading(self.device, promise)
        self.device.check()
        words = np.frombuffer(data.to_bytes(), np.uint32).reshape(n_tokens, 2)
        return words[:, 0].copy().view(np.float32), words[:, 1].copy()

    async def read(self, binding: Binding) -> bytes:
        """A copy of any range."""
        return (await self.copy(binding)).to_bytes()

    async def copy(self, binding: Binding) -> Any:
        """A copy of any range, outside of Python's memory: a Uint8Array, read through a buffer made for it."""
        slot = self.device.buffer("read", binding.size, "MAP_READ", "COPY_DST")
        try:
            buffer = self.buffers[binding.region]
            return await Reading(self.device, self._replay.readBytes(buffer, binding.offset, binding.size, slot))
        finally:
            self.device.destroy(slot)

    async def idle(self) -> None:
        """Waits until the GPU has done what was submitted; raises what went wrong."""
        await self.device.wait(self.device.handle.queue.onSubmittedWorkDone())
        self.device.check()

    def close(self) -> None:
        """Gives all buffers back."""
        for buffer in (*self.buffers.values(), *self._token_slots, *filter(None, [self._result_slot])):
            self.device.destroy(buffer)
        self.buffers, self._token_slots, self._result_slot, self._steps = {}, [], None, {}
