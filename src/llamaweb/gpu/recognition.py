"""What an adapter is, seen in what it does: browsers tell neither how many cores it has nor, all of them, if it is one.

Whether a CPU plays the GPU: the same arithmetic is timed without and with barriers. A GPU computes for other workgroups
while the invocations of one meet; a CPU has to lay each of them aside to go on with the next. So barriers cost a GPU
next to nothing, and a CPU many times the arithmetic, however fast and however many its cores are: a step with them
takes 1.5 times as long on an H200, 5 to 7 times on lavapipe, 14 times on SwiftShader.

How many cores: more and more workgroups, each enough to keep a core busy, are timed. They take as long as one until
every core has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import js

from llamaweb.errors import KernelError
from llamaweb.files.storage import load_json, save_json
from llamaweb.gpu.device import Device
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.timer import Timer
from llamaweb.javascript import js_file
from llamaweb.kernels import peaks
from llamaweb.kernels.kernel import Launch
from llamaweb.planner.plan import Binding, Dispatch
from llamaweb.profile import MOST_CORES, DeviceProfile, about_cores

FILE = "llamaweb-adapters.json"
_ON_CPU = 3.0  # times the arithmetic, from which on it is a CPU
_CLEARLY = 1.5  # times more or less than that
_REPETITIONS = (4, 2)  # without barriers and with, of which the least counts: a busy machine may blur each, …
_ROUNDS = 5  # … and as often at most while that leaves open what it is
_LANES = 16  # of a subgroup, that no CPU has
_WORKGROUPS = (1, 4, 16, 64, 2 * MOST_CORES)  # to count cores with
_ALL_BUSY = 2.0  # times what one workgroup takes, from which on more of them tell nothing new


def doubtful(profile: DeviceProfile) -> bool:
    """Whether what a browser tells of an adapter leaves open what it is."""
    return not profile.software and profile.subgroup_size < _LANES


async def recognize(device: Device, pipelines: Pipelines) -> None:
    """Has the device's profile say whether it is a software one, and of a GPU how many cores it has; what was seen
    clearly is kept, by adapter."""
    profile = device.profile
    if profile.software:
        return
    stored = await load_json(FILE)
    every = stored if isinstance(stored, dict) else {}
    kept = every.get(profile.key)
    found: dict[str, Any] = dict(kept) if isinstance(kept, dict) else {}
    try:
        device.profile = await _recognized(device, pipelines, found)
    except KernelError:  # what does not compile tells nothing, and is not needed
        return
    if found and found != kept:
        await save_json(FILE, {**every, profile.key: found})


async def _recognized(device: Device, pipelines: Pipelines, found: dict[str, Any]) -> DeviceProfile:
    """The profile, with what was found earlier or is added to that now."""
    profile = device.profile
    if doubtful(profile):
        software = found.get("software")
        if not isinstance(software, bool):
            cost = await barriers_cost(device, pipelines)
            software = cost > _ON_CPU
            if _clear(cost):
                found["software"] = software
        if software:
            return replace(profile, software=True)
    cores = found.get("cores")
    if type(cores) is not int or about_cores(cores) != cores:
        counts = [about_cores(seen) for seen in await cores_seen(device, pipelines)]
        cores = max(counts)
        if min(counts) == cores:
            found["cores"] = cores
    return replace(profile, cores=cores)


async def barriers_cost(device: Device, pipelines: Pipelines) -> float:
    """How many times longer arithmetic takes where invocations wait for each other."""
    launches = [peaks.steps(barriers) for barriers in (False, True)]
    async with _Stopwatch(device, pipelines, launches) as stopwatch:
        least = [math.inf, math.inf]
        for _ in range(_ROUNDS):
            for i, n in enumerate(_REPETITIONS):
                least[i] = min(least[i], await stopwatch.time(i, repetitions=n))
            if _clear(least[1] / least[0]):
                break
    return least[1] / least[0]


def _clear(cost: float) -> bool:
    """Whether what barriers cost leaves no doubt."""
    return not _ON_CPU / _CLEARLY < cost < _ON_CPU * _CLEARLY


async def cores_seen(device: Device, pipelines: Pipelines) -> tuple[float, float]:
    """How many times the work of one workgroup the device gets done in the same time, at most; found twice."""
    launches = [peaks.busy(n) for n in _WORKGROUPS]
    async with _Stopwatch(device, pipelines, launches) as stopwatch:
        return await _cores(stopwatch), await _cores(stopwatch)


async def _cores(stopwatch: _Stopwatch) -> float:
    begin = await stopwatch.time(0)
    times = [begin]
    for i in range(1, len(_WORKGROUPS)):
        times.append(await stopwatch.time(i, about=begin))
        if times[-1] > _ALL_BUSY * begin:
            break
    # Clocks rise while a GPU works: one workgroup is timed again when they have.
    one = min(begin, await stopwatch.time(0, about=begin))
    return max(n * one / us for n, us in zip(_WORKGROUPS, times, strict=False))


class _Stopwatch:
    """Times launches whose only slot is y, after a first run of each, in which drivers compile."""

    def __init__(self, device: Device, pipelines: Pipelines, launches: Sequence[Launch]) -> None:
        self._device, self._pipelines, self._launches = device, pipelines, launches

    async def __aenter__(self) -> _Stopwatch:
        await self._pipelines.compile([launch.kernel for launch in self._launches])
        self._timer = Timer(self._device, quick=True)
        self._y = self._device.buffer("measured", 256, "STORAGE")
        dispatches = [Dispatch("measured", launch.kernel, (), launch.workgroups) for launch in self._launches]
        bound = [(self._y, Binding("", 0, 256))]
        self._steps = [js.Array.of(self._pipelines.step(d.kernel, bound, d)) for d in dispatches]
        replay = js_file("gpu/replay.js")(self._device.handle)
        for each in self._steps[: len({launch.kernel for launch in self._launches})]:
            replay.run(each, 0, 1, 1)
        return self

    async def time(self, i: int, *, repetitions: int = 2, about: float = 0.0) -> float:
        """Microseconds of launch i, the least of the repetitions."""
        return await self._timer.time(self._steps[i], repetitions=repetitions, about=about, reset=lambda: None)

    async def __aexit__(self, *_: object) -> None:
        self._timer.close()
        self._device.destroy(self._y)
