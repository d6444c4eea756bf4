"""Weights onto the GPU: streamed from the source in JavaScript, repacked into planes by a kernel.

The arena, idle while a model loads, is the staging buffer, so loading takes no memory of its own on the GPU.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import js
import numpy as np
from pyodide.ffi import JsException

from llamaweb.errors import ModelFileError
from llamaweb.gpu.blob_source import read_error
from llamaweb.gpu.executor import Executor, Pipelines
from llamaweb.gpu.javascript import js_file
from llamaweb.gpu.sources import StreamingSource
from llamaweb.kernels import library
from llamaweb.kernels.formats import format_of
from llamaweb.kernels.kernel import Launch
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from llamaweb.planner.plan import Binding, Dispatch, WeightPlan
from llamaweb.rope import phases

CHUNK = 8 << 20  # bytes in one piece
_IN_FLIGHT = 32 << 20  # bytes that WebGPU may be behind
_BEGUN_S = 0.01


@dataclass(frozen=True)
class _Part:
    """A tensor of the file, or some of its rows, and where it goes: `first` is its first weight in the stacked one.
    Without a weight, its values are for Python."""

    tensor: TensorInfo
    weight: WeightPlan | None = None
    first: int = 0


class Repacking:
    """The kernels that bring weights into their planes. They compile from the time that the header is read, while
    Python has the vocabulary and the plan to make and the first bytes come."""

    def __init__(self, pipelines: Pipelines, file: GGUFFile) -> None:
        """Raises UnsupportedError for a tensor of an unknown format."""
        formats = dict.fromkeys(format_of(tensor.type, tensor.name) for tensor in file.tensors.values())
        launches = [library.lane_order(), *(library.repack(format, 1) for format in formats if format.repacked)]
        self.compiled = asyncio.ensure_future(pipelines.compile([launch.kernel for launch in launches]))

    async def begun(self) -> None:
        """Waits until the browser has what there is to compile."""
        await asyncio.wait([self.compiled], timeout=_BEGUN_S)

    def close(self) -> None:
        """Where a load breaks off before the kernels are awaited, what becomes of them does not matter."""
        self.compiled.cancel()
        self.compiled.add_done_callback(lambda task: task.cancelled() or task.exception())


async def upload(
    executor: Executor,
    file: GGUFFile,
    sources: Sequence[StreamingSource],
    repacking: Repacking,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fills the weights' regions from the model's files, each read once from its first tensor to its end.

    progress(bytes so far, all bytes); raises ModelFileError if a source breaks off.
    """
    for codebook, binding in executor.plan.codebooks.items():
        executor.write(binding, codebook.data())
    factors = {table.rope.factors for table in executor.plan.rope_tables if table.rope.factors}
    parts = _parts(executor.plan.weights, file) + [_Part(file.tensors[name]) for name in factors]
    uploader = _Uploader(executor, repacking)
    behind = 0
    for shard, source in enumerate(sources):
        own = sorted((p for p in parts if p.tensor.shard == shard), key=lambda part: part.tensor.offset)

        def report(at: int, behind: int = behind) -> None:
            if progress:
                progress(behind + at, file.size)

        await _read(uploader, source, own, report)
        behind += await source.size()
    await executor.idle()
    for table in executor.plan.rope_tables:
        values = np.frombuffer(uploader.values[table.rope.factors], "<f4") if table.rope.factors else None
        executor.write(table.binding, phases(table.rope, values))


async def _read(
    uploader: _Uploader, source: StreamingSource, parts: Sequence[_Part], report: Callable[[int], None]
) -> None:
    """Reads one file; to its end, so that a source which keeps it has all of it."""
    at, end = parts[0].tensor.offset if parts else 0, await source.size()
    reader = _Reader(js_file("stream.js")(await source.stream(at)), source.name)
    try:
        for part in parts:
            await reader.skip(part.tensor.offset - at)
            done = 0
            step = uploader.chunk(part)
            while done < part.tensor.nbytes:
                size = min(step, part.tensor.nbytes - done)
                await uploader.put(part, done, size, reader)
                done += size
                report(part.tensor.offset + done)
            at = part.tensor.offset + part.tensor.nbytes
        await reader.skip(end - at)
        report(end)
    finally:
        await reader.close()


class _Reader:
    """stream.js over one file; raises ModelFileError where that breaks off."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name

    async def skip(self, n: int) -> None:
        await self._expect(self._stream.skip(n), n)

    async def write(self, queue: Any, buffer: Any, at: int, n: int) -> None:
        """Into a GPU buffer, in whole words."""
        await self._expect(self._stream.write(queue, buffer, at, n), n)

    async def read(self, n: int) -> bytes:
        try:
            found = (await self._stream.read(n)).to_bytes()
        except JsException as error:
            raise read_error(error, self._name) from None
        self._check(len(found), n)
        return bytes(found)

    async def close(self) -> None:
        with suppress(JsException):  # of a stream that failed, which was told
            await self._stream.cancel()

    async def _expect(self, promise: Any, n: int) -> None:
        try:
            found = await promise
        except JsException as error:
            raise read_error(error, self._name) from None
        self._check(found, n)

    def _check(self, found: int, n: int) -> None:
        if found != n:
            raise ModelFileError(f"{self._name} ended {n - found} bytes early; fetch it again.")


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
    def __init__(self, executor: Executor, repacking: Repacking) -> None:
        self._executor = executor
        self._repacking = repacking
        self._handle = executor.device.handle
        self._staging = executor.plan.regions["arena"]
        self._launches = {w: launch for w in executor.plan.weights if (launch := _launch(w))}
        self._steps: dict[WeightPlan, Any] = {}
        self._sent: deque[tuple[int, Awaitable[Any]]] = deque()  # bytes, and word that the GPU has them
        self._unsent = 0
        self.values: dict[str, bytes] = {}  # of tensors without a weight, by name
        self._run = js_file("replay.js")(self._handle).run

    def chunk(self, part: _Part) -> int:
        """Bytes a piece: whole units of blocks, that fit the staging buffer where they are to be repacked."""
        if part.weight is None:
            return CHUNK
        format = part.weight.format
        if part.weight not in self._launches or part.weight.lane_order:
            return CHUNK
        unit = format.unit * format.block_bytes
        return min(CHUNK, self._staging) // unit * unit

    async def put(self, part: _Part, done: int, size: int, reader: _Reader) -> None:
        """Puts the next `size` bytes, bytes `done` and on of the tensor, in their place; waits where the GPU is
        behind."""
        if part.weight is None:
            self.values[part.tensor.name] = self.values.get(part.tensor.name, b"") + await reader.read(size)
            return
        await self._repacking.compiled
        await self._write(part, part.weight, done, size, reader)
        self._unsent += size
        if self._unsent >= CHUNK:
            there = self._executor.device.wait(self._handle.queue.onSubmittedWorkDone())
            self._sent.append((self._unsent, there))
            self._unsent = 0
        while sum(size for size, _ in self._sent) > _IN_FLIGHT:
            await self._sent.popleft()[1]
            self._executor.device.check()

    async def _write(self, part: _Part, weight: WeightPlan, done: int, size: int, reader: _Reader) -> None:
        queue, buffers, format = self._handle.queue, self._executor.buffers, weight.format
        if weight not in self._launches:
            plane = weight.planes[0]
            at = plane.offset + part.first * format.block_bytes // format.block_size + done
            await reader.write(queue, buffers[plane.region], at, size)
            return
        await reader.write(queue, buffers["arena"], 0, size)
        if weight.lane_order:
            self._executor.write_io(0, np.array([size // 16], np.uint32))
            self._dispatch(weight, (-(-size // 16 // 64), 1, 1))
            return
        blocks = size // format.block_bytes
        first = part.first // format.block_size + done // format.block_bytes
        units = -(-blocks // format.unit)
        self._executor.write_io(0, np.array([units, first], np.uint32))
        self._dispatch(weight, library.repack(format, units).workgroups)

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
