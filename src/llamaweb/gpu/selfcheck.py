"""The self-check: each kernel run once on small made data, on its first load on a device, and compared with numpy."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
from pyodide.ffi import to_js

from llamaweb.errors import KernelError, KernelWarning, megabytes
from llamaweb.files.storage import load_json, save_json
from llamaweb.gpu.device import Device, Reading
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.javascript import js_file, user_agent
from llamaweb.kernels.checks import FOUND, cases, chains
from llamaweb.kernels.checks.case import Data, Run
from llamaweb.kernels.checks.layout import Laid, Range, lay_out
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.template import edition
from llamaweb.planner.plan import Binding, Dispatch

FILE = "llamaweb-checks.json"

Chain = tuple[Kernel, ...]


async def checked(
    device: Device,
    pipelines: Pipelines,
    kernels: Collection[Kernel],
    plain: Mapping[Kernel, Kernel],
    rooms: Sequence[Any] = (None, None),
) -> set[Kernel]:
    """Those of the kernels that compute something else here than they should, whose plain variants do not; a
    KernelWarning tells of them. What was found on this device before is not run again. Kernels are compiled where they
    are not. rooms: buffers of the plan that nothing is in yet, for what is only read and for what is written, where
    they are large enough; they are cleared afterwards. Raises KernelError where the plain variant is wrong too, or
    there is none."""
    kept = await _Kept.load(device)
    wrong = {k for k in kernels if _key(k) in kept.wrong and k in plain}
    taken = dict.fromkeys(plain[k] if k in wrong else k for k in kernels)
    todo = [chain for chain in chains(taken) if not all(_key(k) in kept.right for k in chain)]
    if todo:
        of = partial(right, device, pipelines, rooms=rooms)
        for chain, is_right in zip(todo, await of(todo), strict=True):
            if not is_right:
                wrong |= await _gives_way(device, pipelines, chain, plain, of)
        await kept.add({plain[k] if k in wrong else k for chain in todo for k in chain}, wrong)
    await pipelines.compile([plain[k] for k in wrong])
    told: set[str] = set()
    for kernel in (k for k in kernels if k in wrong and k.template not in told):
        told.add(kernel.template)
        warnings.warn(f"{_wrong(kernel)}; its plain variant is used instead.", KernelWarning, stacklevel=1)
    return wrong


async def _gives_way(
    device: Device,
    pipelines: Pipelines,
    chain: Chain,
    plain: Mapping[Kernel, Kernel],
    right: Callable[[Sequence[Chain]], Awaitable[list[bool]]],
) -> set[Kernel]:
    """Which kernels of a wrong chain are to be replaced by their plain variants; as few as there can be."""
    ways = sorted(
        product(*((k, plain[k]) if k in plain else (k,) for k in chain)), key=lambda way: _plain_of(way, chain)
    )
    for way in ways[1:]:
        try:
            await pipelines.compile(way)
        except KernelError:
            continue
        if (await right([way]))[0]:
            return {kernel for kernel, taken in zip(chain, way, strict=True) if taken is not kernel}
    also = ", and so does its plain variant" if len(ways) > 1 else ""
    raise KernelError(
        f"{_wrong(chain[-1])}{also}, so that answers would be gibberish ({device.told}); update the graphics driver "
        "and the browser, or try another browser or GPU."
    )


def _plain_of(way: Chain, chain: Chain) -> list[int]:
    """How many are plain, and which: the last one first."""
    plain = [int(taken is not kernel) for kernel, taken in zip(chain, way, strict=True)]
    return [sum(plain), *plain]


def _wrong(kernel: Kernel) -> str:
    constants = ", ".join(f"{name}={value}" for name, value in kernel.constants)
    return f"The kernel {kernel.template} ({constants}) computes wrong numbers here"


async def right(
    device: Device, pipelines: Pipelines, todo: Sequence[Chain], rooms: Sequence[Any] = (None, None)
) -> list[bool]:
    """Of each chain, whether it computes what numpy does; rooms as of `checked`."""
    scratch = _Scratch(device, pipelines, rooms)
    try:
        for i, chain in enumerate(todo):
            for case in cases(chain):
                await scratch.run(i, lay_out(case))
            await asyncio.sleep(0)  # a load goes on meanwhile
        await scratch.take()
    finally:
        scratch.close()
    return [i not in scratch.wrong for i in range(len(todo))]


class _Scratch:
    """The buffers in which cases run one after the other, as large as the largest of them asks for. wrong: numbers of
    those whose results were not right."""

    def __init__(self, device: Device, pipelines: Pipelines, rooms: Sequence[Any]) -> None:
        self.wrong: set[int] = set()
        self._rooms = rooms
        self._device = device
        self._pipelines = pipelines
        self._sizes = [*(room.size if room else 0 for room in rooms), 0]
        self._own: list[Any] = []
        self._buffers: list[Any] = []  # of what is read, of what is written, of results; these are own, or rooms
        self._runner: Any = None
        self._waiting: list[tuple[int, Laid]] = []
        self._taken = 0  # bytes of results that are waited for

    async def run(self, number: int, laid: Laid) -> None:
        await self._pipelines.compile([run.kernel for run, _ in laid.runs])
        sizes = (*laid.bytes, max(laid.found, FOUND))
        if self._taken + laid.found > self._sizes[-1] or any(n > m for n, m in zip(sizes, self._sizes, strict=True)):
            await self.take()
            await self._enlarge(sizes)
        writes, data = _moves(laid.writes)
        results, _ = _moves(laid.results, self._taken)
        steps = to_js([self._step(run, ranges) for run, ranges in laid.runs])
        self._runner.run(to_js(data), to_js(writes), steps, to_js(results))
        self._waiting.append((number, laid))
        self._taken += laid.found

    async def take(self) -> None:
        """Looks at what has been run."""
        if not self._waiting:
            return
        found = (await Reading(self._device, self._runner.take(self._taken))).to_bytes()
        self._device.check()
        at = 0
        for number, laid in self._waiting:
            for part in laid.case.expected:
                size = len(part.at) * part.row_bytes
                if not part.holds(found[at : at + size]):
                    self.wrong.add(number)
                at += size
        self._waiting, self._taken = [], 0

    async def _enlarge(self, sizes: Sequence[int]) -> None:
        self.close()
        self._sizes = [max(pair) for pair in zip(sizes, self._sizes, strict=True)]
        *sizes, found = self._sizes
        usage = ("STORAGE", "COPY_DST", "COPY_SRC")
        async with self._device.errors(f"making {megabytes(sum(self._sizes))} of buffers to check kernels in"):
            for room, size in zip(self._rooms, sizes, strict=True):
                self._buffers.append(room if room and room.size >= size else self._made("check", size, *usage))
            self._buffers.append(self._made("checked", found, "MAP_READ", "COPY_DST"))
        self._runner = js_file("gpu/selfcheck.js")(self._device.handle, *self._buffers)

    def _made(self, label: str, size: int, *usage: str) -> Any:
        self._own.append(self._device.buffer(label, size, *usage))
        return self._own[-1]

    def _step(self, run: Run, ranges: Sequence[Range]) -> Any:
        bound = [(self._buffers[r.buffer], Binding("", r.at, r.size)) for r in ranges]
        return self._pipelines.step(run.kernel, bound, Dispatch("check", run.kernel, (), run.workgroups))

    def close(self) -> None:
        for buffer in self._own:
            self._device.destroy(buffer)
        if rooms := [buffer for buffer in self._buffers if buffer not in self._own]:
            encoder = self._device.handle.createCommandEncoder()
            for room in rooms:
                encoder.clearBuffer(room)
            self._device.handle.queue.submit(to_js([encoder.finish()]))
        self._own, self._buffers = [], []


def _moves(parts: Sequence[tuple[Range, Data]], at: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """For selfcheck.js: buffer, byte in it, byte in one array of them all from `at` on, and bytes, of each row of the
    parts; and this array."""
    moves, data = [], []
    for where, part in parts:
        size = part.row_bytes
        rows = np.empty((len(part.at), 4))
        rows[:, 0], rows[:, 1], rows[:, 3] = where.buffer, where.at + part.at, size
        rows[:, 2] = at + size * np.arange(len(part.at))
        moves.append(rows)
        data.append(np.ascontiguousarray(part.rows).reshape(-1).view(np.uint8))
        at += size * len(part.at)
    return np.concatenate(moves).reshape(-1), np.concatenate(data)


class _Kept:
    """What was found on a device of these kernels, in the browser's storage: each kernel is right or wrong."""

    def __init__(self, device: str, devices: dict[str, Any]) -> None:
        self._device = device
        self._devices = devices
        mine = devices.get(device)
        self.right, self.wrong = (_names(mine, name) for name in ("right", "wrong"))

    @classmethod
    async def load(cls, device: Device) -> _Kept:
        """A device is known by its adapter, limits and features, and by the browser, whose compiler its kernels had."""
        stored = await load_json(FILE)
        same = isinstance(stored, dict) and stored.get("kernels") == edition()
        devices = stored.get("devices") if same else {}
        key = f"{device.profile.key} {crc32(user_agent().encode()):08x}"
        return cls(key, devices if isinstance(devices, dict) else {})

    async def add(self, right: Iterable[Kernel], wrong: Iterable[Kernel]) -> None:
        self.right |= {_key(kernel) for kernel in right}
        self.wrong |= {_key(kernel) for kernel in wrong}
        found = {"right": sorted(self.right), "wrong": sorted(self.wrong)}
        await save_json(FILE, {"kernels": edition(), "devices": {**self._devices, self._device: found}})


def _names(stored: Any, name: str) -> set[str]:
    """What is damaged is as if it were not there."""
    found = stored.get(name) if isinstance(stored, dict) else None
    return {n for n in found if isinstance(n, str)} if isinstance(found, list) else set()


def _key(kernel: Kernel) -> str:
    return f"{kernel.template} {crc32(repr((kernel.constants, kernel.slots)).encode()):08x}"
