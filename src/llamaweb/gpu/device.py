"""The WebGPU device: its profile, buffers that are counted, and its errors as Python exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any

import js
from pyodide.ffi import JsException, create_proxy

from llamaweb.errors import DeviceLostError, GPUError, NoWebGPUError, one_line
from llamaweb.gpu.advice import no_webgpu
from llamaweb.javascript import js_file, js_object, take
from llamaweb.profile import DeviceProfile, SubgroupMatrix

_LIMITS = (
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxStorageBuffersPerShaderStage",
    "maxComputeInvocationsPerWorkgroup",
    "maxComputeWorkgroupSizeX",
    "maxComputeWorkgroupStorageSize",
)

_WORD_COMES = 10  # tenths of a second that word of a device's loss may take

_FEATURES = ("subgroups", "timestamp-query", "shader-f16", "chromium-experimental-subgroup-matrix")  # where there are


class Device:
    """An open WebGPU device. `live_bytes` counts the buffers made and not yet destroyed, `peak_bytes` its most."""

    def __init__(self, handle: Any, profile: DeviceProfile) -> None:
        self.handle = handle
        self.profile = profile
        self.live_bytes = self.peak_bytes = 0
        self.told = ""  # what WebGPU tells of the adapter and its driver
        self.loss = ""  # why the device was lost
        self._error: GPUError | None = None
        self._closed = False
        self.watch = js_file("gpu/watch.js")(handle.queue)  # what is waited for
        self._on_error = create_proxy(self._uncaptured)
        self._on_lost = create_proxy(self._lost)
        handle.onuncapturederror = self._on_error
        handle.lost.then(self._on_lost)

    @classmethod
    async def open(cls) -> Device:
        """The browser's high-performance adapter, with its own limits; raises NoWebGPUError if there is none."""
        adapter = await find_adapter()
        limits = {name: int(getattr(adapter.limits, name)) for name in _LIMITS}
        features = [f for f in _FEATURES if adapter.features.has(f)]
        asked = js_object({"requiredFeatures": features, "requiredLimits": limits, "label": "llamaweb"})
        try:
            handle = await take(adapter.requestDevice(asked), lambda device: device.destroy())
        except JsException as error:
            raise GPUError(f"The browser did not open the GPU ({error}); reload the page and try again.") from None
        device = cls(handle, _profile(adapter, limits, features))
        device.told = f"adapter {device.profile.name}, driver: {_driver(adapter)}"
        return device

    def buffer(self, label: str, size: int, *usage: str) -> Any:
        """A buffer of `size` bytes; usages are GPUBufferUsage's names."""
        flags = sum(getattr(js.GPUBufferUsage, u) for u in usage)
        buffer = self.handle.createBuffer(js_object({"label": label, "size": size, "usage": flags}))
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        return buffer

    def destroy(self, buffer: Any) -> None:
        self.live_bytes -= int(buffer.size)
        buffer.destroy()

    @property
    def lost(self) -> bool:
        return isinstance(self._error, DeviceLostError)

    @property
    def closed(self) -> bool:
        return self._closed

    def check(self) -> None:
        """Raises what has gone wrong on the device since the last check."""
        if self._error is not None:
            error = self._error
            if not self.lost:
                self._error = None
            raise error
        if self._closed:
            raise GPUError("The model was closed, and its GPU memory given back; load it again.")

    def wait(self, promise: Any) -> Awaitable[Any]:
        """The value of a promise of the device, awaited now, later or never; if it is rejected, that is a GPUError."""
        return Reading(self, promise)

    async def check_loss(self) -> None:
        """As `check`, after the device did not do something: word of its loss comes a little later."""
        for _ in range(_WORD_COMES):
            if self._error is not None or self._closed:
                break
            await asyncio.sleep(0.1)
        self.check()

    @asynccontextmanager
    async def errors(self, what: str) -> AsyncIterator[None]:
        """Raises GPUError for what WebGPU refuses inside the block, or for lack of memory. The block does not wait for
        anything, or nothing else runs meanwhile."""
        scopes = ("validation", "out-of-memory", "internal")
        for scope in scopes:
            self.handle.pushErrorScope(scope)
        found = None
        try:
            yield
        finally:
            # All at once: scopes of a device are one stack, and another block may begin in a wait.
            popped = [(scope, self.wait(self.handle.popErrorScope())) for scope in reversed(scopes)]
            for scope, promise in popped:
                error = await promise
                if error and found is None:  # JavaScript null is falsy, and not None
                    found = (scope, error.message)
        if found:
            if found[0] != "out-of-memory":
                raise GPUError(f"WebGPU refused the work while {what}: {one_line(found[1])}; load the model again.")
            raise GPUError(
                f"The GPU is out of memory while {what}; load the model with a smaller n_ctx, or with a memory_budget "
                f"that its context is fitted to ({found[1].splitlines()[0]})."
            )
        self.check()

    def close(self) -> None:
        """Destroys the device and everything on it."""
        self._closed = True
        self.handle.onuncapturederror = None
        self.handle.destroy()

    def _uncaptured(self, event: Any) -> None:
        if self._error is None:
            self._error = GPUError(f"WebGPU refused the work: {one_line(event.error.message)}; load the model again.")

    def _lost(self, info: Any) -> None:
        if not self._closed:
            self.loss = str(info.message)
            self._error = DeviceLostError(f"The GPU device was lost ({self.loss}); begin again with recover().")


class Reading:
    """Something on its way from the GPU, to be awaited: a JavaScript promise whose failure is a GPUError."""

    def __init__(self, device: Device, promise: Any) -> None:
        self._device = device
        self._promise = promise
        self.done = False  # somebody has waited to its end, good or bad
        device.watch(promise)

    async def ended(self) -> None:
        """Waits for its end, good or bad; as often as one likes, and though an earlier wait was cancelled, if the
        promise comes out of an object (see replay.js)."""
        if not self.done:
            await js_file("gpu/end_of.js")(self._promise).ended
            self.done = True

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            value = yield from self._promise.__await__()
            self.done = True
            return value
        except JsException as error:
            reason = error
        self.done = True
        yield from self._device.check_loss().__await__()
        raise GPUError(f"The GPU gave nothing back ({reason}); load the model again.")


async def find_adapter() -> Any:
    """The browser's high-performance adapter; NoWebGPUError says why there is none, and what to do. It is asked for
    once more then: a browser whose GPU process has just ended gives none at first."""
    gpu: Any = getattr(js.navigator, "gpu", None)
    for pause in (0, 0.5) if gpu else ():
        await asyncio.sleep(pause)
        with suppress(JsException):
            if adapter := await gpu.requestAdapter(js_object({"powerPreference": "high-performance"})):
                return adapter
    agent, origin = (str(getattr(at, name, "")) for at, name in ((js.navigator, "userAgent"), (js, "origin")))
    secure = bool(getattr(js, "isSecureContext", True))
    raise NoWebGPUError(no_webgpu(agent, secure=secure, origin=origin, gpu=bool(gpu)))


def _profile(adapter: Any, limits: dict[str, int], features: list[str]) -> DeviceProfile:
    info = getattr(adapter, "info", None)  # browsers of 2024 have none
    sizes = (getattr(info, "subgroupMinSize", 0) or 0, getattr(info, "subgroupMaxSize", 0) or 0)
    fixed = "subgroups" in features and sizes[0] == sizes[1]
    wgsl = getattr(js.navigator.gpu, "wgslLanguageFeatures", None)
    parts = (getattr(info, part, "") for part in ("vendor", "architecture", "description"))
    name = " ".join(str(part) for part in parts if part)
    # Firefox names no adapter, but says which are none of a GPU; Chromium has moved that word from here to there.
    software = bool(getattr(info, "isFallbackAdapter", False) or getattr(adapter, "isFallbackAdapter", False))
    return DeviceProfile(
        name=name or ("unnamed software adapter" if software else "unnamed adapter"),
        max_buffer_size=limits["maxBufferSize"],
        max_storage_buffer_binding_size=limits["maxStorageBufferBindingSize"],
        max_storage_buffers_per_shader_stage=limits["maxStorageBuffersPerShaderStage"],
        max_compute_invocations_per_workgroup=limits["maxComputeInvocationsPerWorkgroup"],
        max_compute_workgroup_storage_size=limits["maxComputeWorkgroupStorageSize"],
        subgroup_size=int(sizes[0]) if fixed else 0,
        packed_dot=bool(wgsl.has("packed_4x8_integer_dot_product")) if wgsl else False,
        timestamp_query="timestamp-query" in features,
        f16="shader-f16" in features,
        subgroup_matrices=_subgroup_matrices(info)
        if fixed and "chromium-experimental-subgroup-matrix" in features
        else (),
        software=software,
    )


def _driver(adapter: Any) -> str:
    info = getattr(adapter, "info", None)
    found = ((name, getattr(info, name, "")) for name in ("vendor", "architecture", "device", "description"))
    return ", ".join(f"{name} {value}" for name, value in found if value) or "of which WebGPU tells nothing"


def _subgroup_matrices(info: Any) -> tuple[SubgroupMatrix, ...]:
    found = [
        SubgroupMatrix(str(c.componentType), str(c.resultComponentType), int(c.M), int(c.N), int(c.K))
        for c in getattr(info, "subgroupMatrixConfigs", None) or ()
    ]
    return tuple(found)
