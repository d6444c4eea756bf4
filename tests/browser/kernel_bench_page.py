"""Runs single kernels in the page: what the kernel tests send there. One device and its pipelines for the session."""

from __future__ import annotations

from functools import cache
from typing import Any

import js
import numpy as np
from pyodide.ffi import to_js

from llamaweb.gpu.device import Device
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.timer import Timer
from llamaweb.javascript import js_file
from llamaweb.kernels.kernel import Launch
from llamaweb.planner.plan import Binding, Dispatch
from llamaweb.profile import DeviceProfile

_device: Device | None = None


async def profile() -> DeviceProfile:
    return (await _open()).profile


async def run_cases(cases: list[tuple[Launch, dict[str, np.ndarray], int]]) -> list[dict[str, np.ndarray]]:
    """Of each case, the slots that its kernel changes; a case is a launch, its slots' contents and n_tokens."""
    device = await _open()
    await _pipelines(device).compile([launch.kernel for launch, _, _ in cases])
    async with device.errors("running kernels"):
        return [await _run(device, *case) for case in cases]


async def draw(launch: Launch, slots: dict[str, np.ndarray], word: int, count: int) -> np.ndarray:
    """Runs a kernel `count` times over the same slots; `word` of the slot "batch" after each run, uint32 (count,)."""
    device = await _open()
    await _pipelines(device).compile([launch.kernel])
    async with device.errors("drawing"):
        buffers = _buffers(device, slots)
        ring = device.buffer("draws", 4 * count, "MAP_READ", "COPY_DST")
        step = _step(device, launch, buffers)
        tokens = await _replay(device).sample(js.Array.of(step), 1, count, buffers["batch"], 4 * word, ring).there
        for buffer in (*buffers.values(), ring):
            device.destroy(buffer)
        return np.asarray(tokens.to_py(), np.uint32)


async def time_groups(
    groups: list[list[tuple[Launch, dict[str, np.ndarray]]]], n_tokens: int, turns: int
) -> list[float]:
    """Microseconds of each group of kernels, one behind the other, at best. Groups take turns, so that what else the
    machine does falls on all of them."""
    device = await _open()
    await _pipelines(device).compile([launch.kernel for group in groups for launch, _ in group])
    buffers = [[_buffers(device, slots) for _, slots in group] for group in groups]
    steps = [
        js.Array.of(*(_step(device, launch, each) for (launch, _), each in zip(group, made, strict=True)))
        for group, made in zip(groups, buffers, strict=True)
    ]
    timer = Timer(device)
    times: list[list[float]] = [[] for _ in groups]
    async with device.errors("timing kernels"):
        for _ in range(turns):
            for found, group in zip(times, steps, strict=True):
                found.append(await timer.time(group, n_tokens, repetitions=1, reset=lambda: None))
    timer.close()
    for buffer in [b for made in buffers for each in made for b in each.values()]:
        device.destroy(buffer)
    return [min(found) for found in times]


async def _open() -> Device:
    global _device
    if _device is None:
        _device = await Device.open()
    return _device


@cache
def _pipelines(device: Device) -> Pipelines:
    return Pipelines(device)


@cache
def _replay(device: Device) -> Any:
    return js_file("gpu/replay.js")(device.handle)


async def _run(device: Device, launch: Launch, slots: dict[str, np.ndarray], n_tokens: int) -> dict[str, np.ndarray]:
    buffers = _buffers(device, slots)
    _replay(device).run(js.Array.of(_step(device, launch, buffers)), 0, 1, n_tokens)
    found = {}
    for slot in launch.kernel.slots:
        if slot.access == "read_write":
            array, size = slots[slot.name], buffers[slot.name].size
            copy = device.buffer("copy", size, "MAP_READ", "COPY_DST")
            data = _taken(await _replay(device).readBytes(buffers[slot.name], 0, size, copy).there)
            device.destroy(copy)
            if data[: array.nbytes] != array.tobytes():
                found[slot.name] = np.frombuffer(data[: array.nbytes], array.dtype).reshape(array.shape)
    for buffer in buffers.values():
        device.destroy(buffer)
    return found


def _buffers(device: Device, slots: dict[str, np.ndarray]) -> dict[str, Any]:
    buffers = {}
    for name, array in slots.items():
        data = np.ascontiguousarray(array).tobytes()
        buffers[name] = device.buffer(name, -(-len(data) // 16) * 16, "STORAGE", "COPY_DST", "COPY_SRC")
        data = to_js(data + bytes(-len(data) % 4))
        device.handle.queue.writeBuffer(buffers[name], 0, data)
        _free(data)
    return buffers


def _taken(data: Any) -> bytes:
    """What a Uint8Array holds, which is freed."""
    found = data.to_bytes()
    _free(data)
    return found


def _free(data: Any) -> None:
    """At once: left to the garbage collector, arrays of hundreds of cases together are more than a tab may take."""
    data.buffer.transfer(0)


def _step(device: Device, launch: Launch, buffers: dict[str, Any]) -> Any:
    bindings = [(buffers[slot.name], Binding("", 0, buffers[slot.name].size)) for slot in launch.kernel.slots]
    dispatch = Dispatch("test", launch.kernel, (), launch.workgroups, launch.token_tile)
    return _pipelines(device).step(launch.kernel, bindings, dispatch)
