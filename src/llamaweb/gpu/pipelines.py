"""Kernels as a device's pipelines, and its dispatches prepared for replay."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any

from pyodide.ffi import JsException, to_js

from llamaweb.errors import KernelError, KernelWarning, one_line
from llamaweb.gpu.device import Device
from llamaweb.javascript import js_file, js_object
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.template import wgsl
from llamaweb.planner.plan import Binding, Dispatch

_ADVICE = "; load the model again, or update the browser and the graphics driver."


class Pipelines:
    """Compiled kernels of a device; equal kernels are compiled once, whoever asks for them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._layouts: dict[tuple[str, ...], Any] = {}
        self._pipelines: dict[Kernel, Any] = {}
        self._compiling: dict[Kernel, asyncio.Future[Any]] = {}
        self._refused: set[Kernel] = set()  # in whose place their plain variant runs
        self._step = js_file("gpu/step.js")(device.handle)

    async def compile(
        self,
        kernels: Sequence[Kernel],
        done: Callable[[int, int], None] | None = None,
        plain: Mapping[Kernel, Kernel] | None = None,
    ) -> None:
        """Compiles kernels side by side. Where WebGPU refuses one that has a plain variant, this is compiled instead,
        with a warning that names the kernel. Raises KernelError if there is no other way."""
        missing = [k for k in dict.fromkeys(kernels) if k not in self._pipelines and k not in self._refused]
        for kernel in missing:  # before anything is waited for: the browser compiles while Python does other things
            self._begin(kernel)
        finished = 0

        async def one(kernel: Kernel) -> None:
            nonlocal finished
            try:
                await self._compiled(kernel)
            except KernelError as error:
                if not plain or kernel not in plain:
                    raise
                if kernel.template not in {k.template for k in self._refused}:
                    reason = str(error).removesuffix(_ADVICE)
                    warnings.warn(f"{reason}; its plain variant is used instead.", KernelWarning, stacklevel=1)
                self._refused.add(kernel)
                await self._compiled(plain[kernel])
            finished += 1
            if done:
                done(finished, len(missing))

        await asyncio.gather(*(one(kernel) for kernel in missing))

    async def _compiled(self, kernel: Kernel) -> None:
        if kernel not in self._pipelines:
            made = self._begin(kernel)
            await asyncio.wait([made])  # and not made itself: others may wait for it when this wait is cancelled
            self._pipelines[kernel] = made.result()

    def _begin(self, kernel: Kernel) -> asyncio.Future[Any]:
        if kernel not in self._compiling:
            handle = self._device.handle
            handle.pushErrorScope("validation")
            module = handle.createShaderModule(js_object({"label": kernel.template, "code": wgsl(kernel)}))
            shader = self._device.wait(handle.popErrorScope())
            layout = handle.createPipelineLayout(js_object({"bindGroupLayouts": [self._layout(kernel)]}))
            compute = {"module": module, "entryPoint": "main"}
            description = {"label": kernel.template, "layout": layout, "compute": compute}
            made = handle.createComputePipelineAsync(js_object(description))
            self._compiling[kernel] = asyncio.ensure_future(self._made(kernel, made, shader))
            self._compiling[kernel].add_done_callback(lambda made: self._ended(kernel, made))
        return self._compiling[kernel]

    def _ended(self, kernel: Kernel, made: asyncio.Future[Any]) -> None:
        del self._compiling[kernel]
        if not made.cancelled():
            made.exception()  # nobody may wait for it any more

    def keep(self, kernels: Set[Kernel]) -> None:
        """Lets go of all others: tuning compiles hundreds."""
        self._pipelines = {kernel: made for kernel, made in self._pipelines.items() if kernel in kernels}

    def refuse(self, kernels: Set[Kernel]) -> None:
        """Has their plain variants, which are compiled, run in their place."""
        self._refused |= kernels

    def refuses(self, kernel: Kernel) -> bool:
        """Whether its plain variant runs in its place."""
        return kernel in self._refused

    def runs(self, dispatch: Dispatch) -> Dispatch:
        """The dispatch, or its plain variant where its kernel is refused."""
        return dispatch.plain if dispatch.plain and dispatch.kernel in self._refused else dispatch

    async def _made(self, kernel: Kernel, pipeline: Any, shader: Awaitable[Any]) -> Any:
        """The pipeline that a promise gives; `shader`: what is wrong with the kernel's text, if anything is."""
        try:
            return await pipeline
        except JsException as error:
            reason = error
        if getattr(reason, "reason", "") != "validation":
            await self._device.check_loss()  # a lost device compiles nothing
        constants = ", ".join(f"{name}={value}" for name, value in kernel.constants)
        why = one_line(getattr(await shader, "message", None) or reason)
        raise KernelError(f"The kernel {kernel.template} ({constants}) does not compile here: {why}{_ADVICE}")

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
