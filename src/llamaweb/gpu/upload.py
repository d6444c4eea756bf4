"""Weights onto the GPU: streamed from the source in JavaScript, repacked into planes by a kernel.

The arena, idle while a model loads, is the staging buffer, so loading takes no memory of its own on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import js
import numpy as np
from pyodide.ffi import JsException

from llamaweb.errors import ModelFileError
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.javascript import js_file
from llamaweb.gpu.sources import StreamingSource
from llamaweb.kernels import library
from llamaweb.kernels.kernel import Launch
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from llamaweb.planner.plan import Binding, Dispatch, WeightPlan
from llamaweb.rope import phases

CHUNK = 8 << 20  # bytes in one piece
_IN_FLIGHT = 64 << 20  # bytes handed to WebGPU before waiting for it


@dataclass(frozen=True)
class _Part:
    """A tensor of the file, or some of its rows, and where it goes: `first` is its first weight in the stacked one."""

    tensor: TensorInfo
    weight: WeightPlan
    first: int


async def upload(
    executor: Executor, file: GGUFFile, source: StreamingSource, progress: Callable[[int, int], None] | None = None
) -> None:
    """Fills the weights' regions. progress(bytes so far, all bytes); raises ModelFileError if the source breaks off."""
    for table in executor.plan.rope_tables:
        factors = None
        if table.rope.factors:
            info = file.tensors[table.rope.factors]
            factors = np.frombuffer(await source.read(info.offset, info.nbytes), "<f4")
        executor.write(table.binding, phases(table.rope, factors))
    for codebook, binding in executor.plan.codebooks.items():
        executor.write(binding, codebook.data())
    parts = sorted(_parts(executor.plan.weights, file), key=lambda part: part.tensor.offset)
    begin = parts[0].tensor.offset
    end = max(part.tensor.offset + part.tensor.nbytes for part in parts)
    uploader = _Uploader(executor)
    await uploader.prepare()
    reader = js_file("stream.js")(await source.stream(begin, end - begin), CHUNK)
    at, unfinished = begin, 0
    try:
        for part in parts:
            await _expect(reader.skip, part.tensor.offset - at, source.name)
            done = 0
            step = uploader.chunk(part)
            while done < part.tensor.nbytes:
                size = min(step, part.tensor.nbytes - done)
                await _expect(reader.fill, size, source.name)
                uploader.put(part, done, size, reader.buffer)
                done += size
                unfinished += size
                if unfinished >= _IN_FLIGHT:
                    await executor.idle()
                    unfinished = 0
                if progress:
                    progress(part.tensor.offset + done - begin, end - begin)
            at = part.tensor.offset + part.tensor.nbytes
        await executor.idle()
    finally:
        await reader.cancel()


async def _expect(take: Any, n: int, name: str) -> None:
    try:
        found = await take(n)
    except JsException as error:
        raise ModelFileError(f"Reading {name} broke off ({error}); try again.") from None
    if found != n:
        raise ModelFileError(f"{name} ended {n - found} bytes early; fetch it again.")


def _parts(weights: tuple[WeightPlan, ...], file: GGUFFile) -> list[_Part]:
    parts = []
    for weight in weights:
        first = 0
        block, block_bytes = weight.format.block_size, weight.format.block_bytes
        for part in weight.slices:
            whole = file.tensors[part.name]
            at = whole.offset + part.first // block * block_bytes
            parts.append(_Part(replace(whole, offset=at, nbytes=part.count // block * block_bytes), weight, first))
            first += part.count
    return parts


def _launch(weight: WeightPlan) -> Launch | None:
    """The kernel that puts a weight in its place; None where the file's bytes are its plane."""
    if weight.lane_order:
        return library.lane_order()
    return library.repack(weight.format, 1) if weight.format.repacked else None


class _Uploader:
    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._handle = executor.device.handle
        self._staging = executor.plan.regions["arena"]
        self._launches = {w: launch for w in executor.plan.weights if (launch := _launch(w))}
        self._steps: dict[WeightPlan, Any] = {}
        self._run = js_file("replay.js")(self._handle).run

    async def prepare(self) -> None:
        await self._executor.pipelines.compile([launch.kernel for launch in self._launches.values()])

    def chunk(self, part: _Part) -> int:
        """Bytes a piece: whole units of blocks, that fit the staging buffer where they are to be repacked."""
        format = part.weight.format
        if part.weight not in self._launches or part.weight.lane_order:
            return CHUNK
        unit = format.unit * format.block_bytes
        return min(CHUNK, self._staging) // unit * unit

    def put(self, part: _Part, done: int, size: int, data: Any) -> None:
        """Puts the first `size` bytes of `data`, bytes `done` and on of the tensor, in their place."""
        queue, buffers, format = self._handle.queue, self._executor.buffers, part.weight.format
        padded = -(-size // 4) * 4
        if part.weight not in self._launches:
            plane = part.weight.planes[0]
            at = plane.offset + part.first * format.block_bytes // format.block_size + done
            queue.writeBuffer(buffers[plane.region], at, data, 0, padded)
            return
        queue.writeBuffer(buffers["arena"], 0, data, 0, padded)
        if part.weight.lane_order:
            self._executor.write_io(0, np.array([size // 16], np.uint32))
            self._dispatch(part.weight, (-(-size // 16 // 64), 1, 1))
            return
        blocks = size // format.block_bytes
        first = part.first // format.block_size + done // format.block_bytes
        units = -(-blocks // format.unit)
        self._executor.write_io(0, np.array([units, first], np.uint32))
        self._dispatch(part.weight, library.repack(format, units).workgroups)

    def _dispatch(self, weight: WeightPlan, workgroups: tuple[int, int, int]) -> None:
        step = self._step(weight)
        step[0].x, step[0].y, _ = workgroups
        self._run(step, 0, 1, 1)

    def _step(self, weight: WeightPlan) -> Any:
        if weight not in self._steps:
            launch = self._launches[weight]
            staging = Binding("arena", 0, min(CHUNK, self._staging) // 4 * 4)
            bindings = (staging, Binding("io", 0, 256), *weight.planes)
            dispatch = Dispatch("+".join(weight.names), launch.kernel, bindings, launch.workgroups)
            ranges = [(self._executor.buffers[b.region], b) for b in bindings]
            self._steps[weight] = js.Array.of(self._executor.pipelines.step(launch.kernel, ranges, dispatch))
        return self._steps[weight]
