"""How long prepared dispatches take on the GPU: many in a row, by its timestamps, or from outside where it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llamaweb.gpu.device import Device
from llamaweb.javascript import js_file, now_ms
from llamaweb.kernels.io import TIMER_BYTES

_WARM_MS = 1000.0  # of work before anything is timed: an H100 needs most of a second from 345 MHz to 1980
_LONG_ENOUGH_MS = 5.0  # of one measurement
_QUICK_MS = 2.0  # … which may be off by 5 %: browsers round timestamps to 0.1 ms
_MOST_GROWTH = 8  # from one measurement to the next: clocks that tick coarsely make what is short look like nothing
_MOST_DISPATCHES = 4096  # of one measurement
_LEAST_US = 1e-3  # what a clock gives that does not tick in between


class Timer:
    """Times dispatches on one device; `source` says how: "timestamps", or "batches" where it has none of any use."""

    def __init__(self, device: Device, quick: bool = False) -> None:
        """quick: what is timed need not be exact, where the device has a clock of its own."""
        self._device = device
        self._buffers = []
        self._long_enough_ms = _QUICK_MS if quick and device.profile.timestamp_query else _LONG_ENOUGH_MS
        self.source = "batches"
        if device.profile.timestamp_query:
            self.source = "timestamps"
            half = TIMER_BYTES // 2
            self._buffers.append(device.buffer("timestamps", half, "QUERY_RESOLVE", "COPY_SRC"))
            self._buffers.append(device.buffer("timestamps read", half, "COPY_DST", "MAP_READ"))
        self._timer = js_file("gpu/timer.js")(device.handle, *self._buffers)
        self._replay = js_file("gpu/replay.js")(device.handle)

    async def time(
        self, steps: Any, n_tokens: int = 1, *, repetitions: int = 3, about: float = 0.0, reset: Callable[[], None]
    ) -> float:
        """Microseconds of one run of `steps` (a JavaScript array of prepared dispatches) behind another one: the least
        of the repetitions, never zero. `reset` is called before each, and sets the batch that the dispatches read.
        about: the microseconds that a run is known to take; otherwise they are found out first."""
        most = max(_MOST_DISPATCHES // max(int(steps.length), 1), 1)
        known = about > 0
        repeats = min(int(1.2e3 * self._long_enough_ms / about) + 1, most) if known else 1
        least = 0.0
        while repetitions:
            reset()
            ms = await self._pass(steps, n_tokens, repeats)
            if not known and ms < self._long_enough_ms and 2 * repeats <= most:
                growth = min(max(1.2 * self._long_enough_ms / max(ms, 0.01), 2), _MOST_GROWTH)
                repeats = min(int(repeats * growth), most)
                continue
            if ms <= 0 and self.source == "timestamps":  # WebGPU lets a device set its clock back, or leave it at zero
                self.source = "batches"
                continue
            each = max(1e3 * ms / repeats, _LEAST_US)
            least = min(least, each) if least else each
            repetitions -= 1
        self._device.check()
        return least

    async def warm(self, steps: Any, reset: Callable[[], None]) -> None:
        """Keeps the GPU busy for a while, so that its clocks rise."""
        begin, about = now_ms(), 0.0
        while now_ms() - begin < _WARM_MS:
            about = await self.time(steps, repetitions=1, about=about, reset=reset)

    def close(self) -> None:
        self._timer.close()
        for buffer in self._buffers:
            self._device.destroy(buffer)
        self._buffers = []

    async def _pass(self, steps: Any, n_tokens: int, repeats: int) -> float:
        """Milliseconds of `repeats` runs of the steps."""
        if self.source == "timestamps":
            return float(await self._device.wait(self._timer.run(steps, n_tokens, repeats))) / 1e6
        _, empty, whole = [await self._from_outside(steps, n_tokens, n) for n in (0, 0, repeats)]  # behind the reset
        return max(whole - empty, 0.1 * whole)  # without what waiting for the GPU takes by itself

    async def _from_outside(self, steps: Any, n_tokens: int, repeats: int) -> float:
        begin = now_ms()
        for _ in range(repeats):
            self._replay.run(steps, 0, steps.length, n_tokens)
        await self._device.wait(self._device.handle.queue.onSubmittedWorkDone())
        return now_ms() - begin
