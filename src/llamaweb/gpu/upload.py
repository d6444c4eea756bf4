"""Weights onto the GPU: streamed from the source in JavaScript, repacked into planes by a kernel.

The arena, idle while a model loads, is the staging buffer, so loading takes no memory of its own on the GPU.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from pyodide.ffi import JsException

from llamaweb.errors import ModelFileError
from llamaweb.files.blob_source import read_error
from llamaweb.files.sources import StreamingSource
from llamaweb.ggml import GGMLType, dequantize
from llamaweb.gpu.executor import Executor
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.tables import HostTable
from llamaweb.javascript import js_file, js_object
from llamaweb.kernels import library
from llamaweb.kernels.formats import BLOCK, Format, format_of
from llamaweb.kernels.kernel import Launch
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from llamaweb.planner.plan import Binding, Dispatch, WeightPlan
from llamaweb.rope import phases
from llamaweb.turns import begin

CHUNK = 8 << 20  # bytes in one piece
_IN_FLIGHT = 32 << 20  # bytes that WebGPU may be behind
_TOLD_S = 0.25  # between two words of progress, where bytes come slowly


@dataclass
class _Target:
    """A weight, the format in which the file has it, or some of it, and the kernel that puts that in its place, None
    where the file's bytes are its plane; and this kernel's step, once there is one."""

    weight: WeightPlan
    source: Format
    launch: Launch | None
    step: Any = None

    @property
    def unit(self) -> int:
        """Bytes of the file of which the kernel takes a multiple at once."""
        if self.launch and self.launch.kernel.template == "pad_rows":
            return self.weight.row * self.source.block_bytes
        return self.source.unit * self.source.block_bytes


@dataclass(frozen=True)
class _Part:
    """A tensor of the file, or some of its rows, and where it goes: `first` is its first weight in the stacked one; or
    the table of the host that it is. Without either, its values are for Python."""

    tensor: TensorInfo
    target: _Target | None = None
    first: int = 0
    table: HostTable | None = None


@dataclass(frozen=True)
class _Piece:
    """What is written at once: some bytes of a part, `done` bytes of it being written before."""

    part: _Part
    done: int
    size: int

    @property
    def begin(self) -> int:
        return self.part.tensor.offset + self.done

    @property
    def end(self) -> int:
        return self.begin + self.size


class Repacking:
    """The kernels that bring weights into their planes. They compile from the time that the header is read, while
    Python has the vocabulary and the plan to make and the first bytes come."""

    def __init__(self, pipelines: Pipelines, file: GGUFFile) -> None:
        """Raises UnsupportedError for a tensor of an unknown format."""
        kernels = {library.vector(GGMLType.F32, 1, lane_order=True).kernel: None}
        for tensor in file.tensors.values():
            format = format_of(tensor.type, tensor.name)
            if format.repacked:
                kernels[library.repack(format, 1).kernel] = None
            elif tensor.shape[0] == prod(tensor.shape):
                vectors = [library.vector(format.type, 1, lane_order=lanes) for lanes in (False, True)]
                kernels |= {launch.kernel: None for launch in vectors if format.type != GGMLType.F32}
            elif tensor.shape[0] % BLOCK:
                kernels[library.pad_rows(format, 1).kernel] = None
        self.compiled = begin(pipelines.compile(list(kernels)))

    def close(self) -> None:
        """Where a load breaks off before the kernels are awaited, what becomes of them does not matter."""
        self.compiled.cancel()


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
    parts += [_Part(file.tensors[name], table=table) for name, table in executor.tables(file).items()]
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
        executor.write(table.binding, phases(table.rope, uploader.factors(file, table.rope.factors)))


async def _read(
    uploader: _Uploader, source: StreamingSource, parts: Sequence[_Part], report: Callable[[int], None]
) -> None:
    """Reads one file; to its end, so that a source which keeps it has all of it."""
    at, end = parts[0].tensor.offset if parts else 0, await source.size()
    reader = _Reader(js_file("gpu/stream.js")(await source.stream(at)), source.name)
    try:
        for pieces in _together(piece for part in parts for piece in uploader.pieces(part)):
            await uploader.put(pieces, at, reader, report)
            at = pieces[-1].end
            report(at)
        await reader.skip(end - at)
        report(end)
    finally:
        await reader.close()


def _together(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces for the GPU that follow each other, as many as make up a CHUNK: Python is asked once for all of them."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and (None in (group[0].part.target, piece.part.target) or piece.end - group[0].begin > CHUNK):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


class _Reader:
    """stream.js over one file; raises ModelFileError where that breaks off."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream = stream
        self._name = name

    async def skip(self, n: int) -> None:
        await self._expect(self._stream.skip(n), n)

    async def place(self, queue: Any, run: Any, placements: Any, n: int, report: Callable[[int], None]) -> None:
        """The next n bytes, as stream.js has them placed; report(how many of them) now and then."""
        before = self._stream.passed()
        placing = asyncio.ensure_future(self._expect(self._stream.place(queue, run, placements), n))
        try:
            while not (await asyncio.wait([placing], timeout=_TOLD_S))[0]:
                report(self._stream.passed() - before)
            await placing
        finally:
            placing.cancel()

    async def read(self, n: int) -> bytes:
        return bytes((await self.take(n)).to_bytes())

    async def take(self, n: int) -> Any:
        """The next n bytes, a Uint8Array."""
        try:
            found = await self._stream.read(n)
        except JsException as error:
            raise read_error(error, self._name) from None
        self._check(int(found.length), n)
        return found

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
        targets: dict[Format, _Target] = {}
        first = 0
        for part in weight.slices:
            whole = file.tensors[part.name]
            source = format_of(whole.type, whole.name)
            target = targets.setdefault(source, _Target(weight, source, _launch(weight, source)))
            at = whole.offset + part.first // source.block_size * source.block_bytes
            nbytes = part.count // source.block_size * source.block_bytes
            parts.append(_Part(replace(whole, offset=at, nbytes=nbytes), target, first))
            first += part.count
    return parts


def _launch(weight: WeightPlan, source: Format) -> Launch | None:
    """The kernel that puts what is in the file's format in its place; None where the file's bytes are its plane."""
    if weight.lane_order or source != weight.format:
        return library.vector(source.type, 1, lane_order=weight.lane_order)
    if source.repacked:
        return library.repack(source, 1)
    return library.pad_rows(source, 1) if weight.rows > 1 and weight.pitch > weight.row else None


class _Uploader:
    def __init__(self, executor: Executor, repacking: Repacking) -> None:
        self._executor = executor
        self._repacking = repacking
        self._handle = executor.device.handle
        self._staging = executor.plan.regions["arena"]
        self._sent: deque[tuple[int, Awaitable[Any]]] = deque()  # bytes, and word that the GPU has them
        self.values: dict[str, bytes] = {}  # of tensors without a weight, by name
        self._run = js_file("gpu/replay.js")(self._handle).run

    def factors(self, file: GGUFFile, name: str | None) -> np.ndarray | None:
        """The factors of a rotation that were read."""
        if name is None:
            return None
        return dequantize(np.frombuffer(self.values[name], np.uint8), file.tensors[name].type).reshape(-1)

    def pieces(self, part: _Part) -> Iterator[_Piece]:
        """Whole units, that fit the staging buffer where a kernel moves them from there."""
        step, target = part.table.chunk_bytes if part.table else CHUNK, part.target
        if target and target.launch:
            step = max(min(CHUNK, self._staging) // target.unit, 1) * target.unit
        for done in range(0, part.tensor.nbytes, step):
            yield _Piece(part, done, min(step, part.tensor.nbytes - done))

    async def put(self, pieces: Sequence[_Piece], at: int, reader: _Reader, report: Callable[[int], None]) -> None:
        """Puts pieces, which the reader comes to from byte `at` of the file on, in their place; waits where the GPU is
        behind. report(byte of the file) now and then."""
        first, end = pieces[0], pieces[-1].end
        if first.part.target is None:
            await reader.skip(first.begin - at)
            if first.part.table:
                first.part.table.keep(await reader.take(first.size))
                return
            self.values[first.part.tensor.name] = self.values.get(first.part.tensor.name, b"") + await reader.read(
                first.size
            )
            return
        await self._repacking.compiled
        placements = []
        before = at
        for piece in pieces:
            placements.append({"skip": piece.begin - before, "size": piece.size, **self._placement(piece)})
            before = piece.end
        queue, placed = self._handle.queue, js_object(placements)
        await reader.place(queue, self._run, placed, end - at, lambda n: report(at + n))
        there = self._executor.device.wait(self._handle.queue.onSubmittedWorkDone())
        self._sent.append((end - first.begin, there))
        while sum(size for size, _ in self._sent) > _IN_FLIGHT:
            await self._sent.popleft()[1]
            self._executor.device.check()

    def _placement(self, piece: _Piece) -> dict[str, Any]:
        """Where stream.js writes a piece, and what it runs then."""
        target, first, done, size = piece.part.target, piece.part.first, piece.done, piece.size
        assert target
        weight, source, buffers = target.weight, target.source, self._executor.buffers
        if not target.launch:
            plane = weight.planes[0]
            at = plane.offset + first * source.block_bytes // source.block_size + done
            return {"buffer": buffers[plane.region], "at": at}
        begin = first + done // source.block_bytes * source.block_size  # which of the weight's numbers comes first
        template = target.launch.kernel.template
        if template == "vector":
            count = size // source.block_bytes
            words, workgroups = [count, begin, weight.pitch], library.vector(source.type, count).workgroups
        elif template == "pad_rows":
            a_row = weight.pitch * source.block_bytes // 4
            count = size // target.unit * a_row
            words = [count, begin // weight.row * a_row, weight.row, weight.pitch]
            workgroups = library.pad_rows(source, count).workgroups
        else:
            units = -(-size // source.block_bytes // source.unit)
            words, workgroups = [units, begin // source.block_size], library.repack(source, units).workgroups
        target.step = target.step or self._step(weight, target.launch)
        step = {"step": target.step, "io": buffers["io"], "words": words, "workgroups": workgroups}
        return {"buffer": buffers["arena"], "at": 0, **step}

    def _step(self, weight: WeightPlan, launch: Launch) -> Any:
        staging = Binding("arena", 0, min(CHUNK, self._staging) // 4 * 4)
        bindings = (staging, Binding("io", 0, 256), *weight.planes)
        dispatch = Dispatch("+".join(weight.names), launch.kernel, bindings, launch.workgroups)
        ranges = [(self._executor.buffers[b.region], b) for b in bindings]
        return self._executor.pipelines.step(launch.kernel, ranges, dispatch)
