"""Whether a CPU plays the GPU: not every browser says so, and few name their adapters, so it is seen in what one does.

The same arithmetic is timed without and with barriers. A GPU computes for other workgroups while the invocations of one
meet; a CPU has to lay each of them aside to go on with the next. So barriers cost a GPU next to nothing, and a CPU many
times the arithmetic, however fast and however many its cores are: a step with them takes 1.5 times as long on an H200,
5 to 7 times on lavapipe, 14 times on SwiftShader.
"""

from __future__ import annotations

from dataclasses import replace

import js

from llamaweb.errors import KernelError
from llamaweb.files.storage import load_json, save_json
from llamaweb.gpu.device import Device
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.timer import Timer
from llamaweb.javascript import js_file
from llamaweb.kernels import peaks
from llamaweb.planner.plan import Binding, Dispatch
from llamaweb.profile import DeviceProfile

FILE = "llamaweb-adapters.json"
_ON_CPU = 3.0  # times the arithmetic, from which on it is a CPU
_CLEARLY = 1.5  # times more or less than that
_REPETITIONS = (4, 2)  # without barriers and with, of which the least counts: a busy machine may blur each
_LANES = 16  # of a subgroup, that no CPU has


def doubtful(profile: DeviceProfile) -> bool:
    """Whether what a browser tells of an adapter leaves open what it is."""
    return not profile.software and profile.subgroup_size < _LANES


async def recognize(device: Device, pipelines: Pipelines) -> None:
    """Has the device's profile say whether it is a software one; what was seen clearly is kept, by adapter."""
    profile = device.profile
    if not doubtful(profile):
        return
    stored = await load_json(FILE)
    kept = stored if isinstance(stored, dict) else {}
    software = kept.get(profile.key)
    if not isinstance(software, bool):
        try:
            cost = await barriers_cost(device, pipelines)
        except KernelError:  # what does not compile tells nothing, and is not needed
            return
        software = cost > _ON_CPU
        if not _ON_CPU / _CLEARLY < cost < _ON_CPU * _CLEARLY:
            await save_json(FILE, {**kept, profile.key: software})
    device.profile = replace(profile, software=software)


async def barriers_cost(device: Device, pipelines: Pipelines) -> float:
    """How many times longer arithmetic takes where invocations wait for each other."""
    launches = [peaks.steps(barriers) for barriers in (False, True)]
    await pipelines.compile([launch.kernel for launch in launches])
    timer, replay = Timer(device, quick=True), js_file("gpu/replay.js")(device.handle)
    y = device.buffer("measured", 256, "STORAGE")
    try:
        dispatches = [Dispatch("measured", launch.kernel, (), launch.workgroups) for launch in launches]
        steps = [js.Array.of(pipelines.step(d.kernel, [(y, Binding("", 0, 256))], d)) for d in dispatches]
        for each in steps:  # what a driver compiles at a kernel's first run
            replay.run(each, 0, 1, 1)
        timed = zip(steps, _REPETITIONS, strict=True)
        plain, barriers = [await timer.time(each, repetitions=n, reset=lambda: None) for each, n in timed]
        return barriers / plain
    finally:
        timer.close()
        device.destroy(y)
