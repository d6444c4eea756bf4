"""The executor: a plan made real as buffers, pipelines and bind groups, and replayed. It knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import js
import numpy as np
from pyodide.ffi import to_js

from llamaweb.errors import megabytes
from llamaweb.ggml import GGMLType
from llamaweb.gpu.device import Device, Reading
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.selfcheck import checked
from llamaweb.gpu.tables import HostTable
from llamaweb.javascript import js_file
from llamaweb.kernels import library
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED
from llamaweb.kernels.kernel import Kernel
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner.plan import Binding, ModelPlan, Phase
from llamaweb.planner.states import COPIES, REGION


class Executor:
    """Buffers and prepared dispatches of one plan."""

    def __init__(
        self, device: Device, plan: ModelPlan, pipelines: Pipelines | None = None, checks: bool = False
    ) -> None:
        """pipelines: of the device, where some are compiled already. checks: runs each kernel once on made data before
        it is used (gpu/selfcheck.py)."""
        self.device = device
        self.plan = plan
        self.pipelines = pipelines or Pipelines(device)
        self._checks = checks
        self.buffers: dict[str, Any] = {}
        self._replay = js_file("gpu/replay.js")(device.handle)
        self._steps: dict[str, Any] = {}
        self._tables: dict[str, HostTable] = {}
        self._token_slots: list[Any] = []
        self._result_slot: Any = None
        self._next_slot = 0
        self._under_way: list[Reading] = []  # into these slots, which are mapped until it is there

    async def allocate(self) -> None:
        """Makes every buffer of the plan; nothing is allocated afterwards."""
        async with self.device.errors(f"allocating {megabytes(self.plan.memory['total'])}"):
            self._token_slots = [
                self.device.buffer("token", 4 * SUBMITTED, "MAP_READ", "COPY_DST") for _ in range(IN_FLIGHT)
            ]
            self._result_slot = self.device.buffer("results", self.plan.results_bytes, "MAP_READ", "COPY_DST")
            for region, size in self.plan.regions.items():
                size -= self.plan.readback_bytes if region == "io" else 0
                self.buffers[region] = self.device.buffer(region, size, "STORAGE", "COPY_DST", "COPY_SRC")

    async def prepare(
        self, phases: Iterable[str] | None = None, done: Callable[[int, int], None] | None = None
    ) -> None:
        """Compiles the kernels of some of the plan's phases side by side, by default of all, and makes their bind
        groups; those of a phase that is prepared stay. Raises KernelError."""
        found = self.plan.phases
        chosen = {name: found[name] for name in phases or found if name in found and name not in self._steps}
        if not chosen:
            return
        self.device.check()
        await self.compile(chosen, done)
        if self._checks:
            await self._check(chosen.values())
        async with self.device.errors("preparing the plan"):
            self._steps |= {name: self._made(phase) for name, phase in chosen.items()}

    async def compile(
        self, phases: Iterable[str], done: Callable[[int, int], None] | None = None, plan: ModelPlan | None = None
    ) -> None:
        """Compiles the kernels of some of the phases that there are, of another plan for `swap`."""
        found = (plan or self.plan).phases
        dispatches = [d for name in phases if name in found for d in found[name].dispatches]
        plain = {d.kernel: d.plain.kernel for d in dispatches if d.plain}
        await self.pipelines.compile([d.kernel for d in dispatches], done, plain)

    @property
    def prepared(self) -> list[str]:
        """Names of the phases that are."""
        return list(self._steps)

    async def _check(self, phases: Iterable[Phase]) -> None:
        dispatches = [d for phase in phases for d in phase.dispatches]
        plain = {d.kernel: d.plain.kernel for d in dispatches if d.plain}
        kernels = dict.fromkeys(self.pipelines.runs(d).kernel for d in dispatches)
        rooms = (None, None)
        if not self._steps:  # nothing is cached or computed yet
            rooms = (self.buffers.get("kv.0"), self.buffers["arena"])
            kernels[library.vector(GGMLType.F32, 1, lane_order=True).kernel] = None
        self.pipelines.refuse(await checked(self.device, self.pipelines, kernels, plain, rooms))

    def swap(self, plan: ModelPlan) -> None:
        """Takes the same plan with other kernels, which are compiled; nothing may be under way."""
        before, self.plan = self.plan, plan
        for name in self._steps:
            if plan.phases[name].dispatches != before.phases[name].dispatches:
                self._steps[name] = self._made(plan.phases[name])
        self.pipelines.keep({kernel for phase in plan.phases.values() for kernel in self._kernels(phase)})

    def _kernels(self, phase: Phase) -> Iterator[Kernel]:
        return (self.pipelines.runs(d).kernel for d in phase.dispatches)

    def _made(self, phase: Phase) -> Any:
        """A phase's steps for replay.js."""
        steps = js.Array.new()
        for dispatch in phase.dispatches:
            d = self.pipelines.runs(dispatch)
            steps.push(self.pipelines.step(d.kernel, [(self.buffers[b.region], b) for b in d.bindings], d))
        return steps

    def steps(self, phase: str) -> Any:
        """A phase's prepared dispatches, in order: a JavaScript array for replay.js."""
        return self._steps[phase]

    def write(self, binding: Binding, data: np.ndarray | bytes) -> None:
        """Writes small data from Python; large data belongs in `upload`, past the WebAssembly heap."""
        self.device.check()
        view = data.view(np.uint8) if isinstance(data, np.ndarray) else data
        self.device.handle.queue.writeBuffer(self.buffers[binding.region], binding.offset, to_js(view))

    def clear(self, binding: Binding) -> None:
        """Sets a range to zero."""
        self.device.check()
        encoder = self.device.handle.createCommandEncoder()
        encoder.clearBuffer(self.buffers[binding.region], binding.offset, binding.size)
        self.device.handle.queue.submit(to_js([encoder.finish()]))

    def tables(self, file: GGUFFile) -> dict[str, HostTable]:
        """The plan's tables of the host, by their names in the file, to be filled at load."""
        self._tables = {table.name: HostTable(file.tensors[table.name]) for table in self.plan.tables}
        return self._tables

    def write_rows(self, tokens: Sequence[int]) -> None:
        """Writes what the tables of the host have of a batch's tokens."""
        for table in self.plan.tables:
            self.write(table.binding, self._tables[table.name].rows(tokens).reshape(-1))

    def write_io(self, word: int, data: np.ndarray) -> None:
        """Writes 32-bit words of the I/O region."""
        self.write(Binding("io", 4 * word, data.nbytes), data)

    def run(self, phase: str, n_tokens: int, *, head: bool) -> None:
        """Submits a batch; without `head`, its logits are left out."""
        plan = self.plan.phases[phase]
        self.run_first(phase, n_tokens, len(plan.dispatches) if head else plan.head)

    def run_first(self, phase: str, n_tokens: int, count: int) -> None:
        """Submits the first `count` dispatches of a batch."""
        self.device.check()
        self._replay.run(self._steps[phase], 0, count, n_tokens)

    def sample(self, phase: str, n_tokens: int, repeat: int = 1) -> Reading:
        """Submits a batch with its sampler, `repeat` times over (at most SUBMITTED) in one submit.

        Gives the tokens it leaves, a JavaScript Uint32Array, to be awaited while the GPU works on. At most IN_FLIGHT of
        these may be waited for at once.
        """
        self.device.check()
        slot = self._token_slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % IN_FLIGHT
        io, at = self.buffers["io"], 4 * IO.tokens
        return self._reading(self._replay.sample(self._steps[phase], n_tokens, repeat, io, at, slot))

    async def embed(self, n_tokens: int, rows: int) -> bytes:
        """Submits a batch of texts whose words are written; gives the first `rows` embeddings. One at a time."""
        plan, steps, at = self.plan, self._steps["embed"], self.plan.logits["embed"]
        assert plan.embeddings
        phase, size = plan.phases["embed"], rows * plan.embeddings.row_bytes
        self.run("embed", n_tokens, head=False)
        self.write_io(IO.n_tokens, np.array([rows], np.uint32))  # from here on, tokens are what was pooled of them
        self._replay.run(steps, phase.head, len(phase.dispatches), rows)
        data = await self._reading(self._replay.readBytes(self.buffers[at.region], at.offset, size, self._result_slot))
        self.device.check()
        return data.to_bytes()

    def keep_state(self, copy: int) -> None:
        """Copies the recurrent states as they will be behind what was submitted; copy: where, of the plan's."""
        size = self.plan.regions[REGION]
        self.device.check()
        self._replay.copy(self.buffers[REGION], 0, self.buffers[COPIES], copy * size, size)

    def restore_state(self, copy: int) -> None:
        """Sets the recurrent states back to a copy."""
        size = self.plan.regions[REGION]
        self.device.check()
        self._replay.copy(self.buffers[COPIES], copy * size, self.buffers[REGION], 0, size)

    async def read_results(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """After the phase "evaluate": each token's target's log-probability, float32, and most likely token, uint32."""
        at = 4 * IO.results(self.plan.n_ubatch)
        data = await self._reading(self._replay.readBytes(self.buffers["io"], at, 8 * n_tokens, self._result_slot))
        self.device.check()
        words = np.frombuffer(data.to_bytes(), np.uint32).reshape(n_tokens, 2)
        return words[:, 0].copy().view(np.float32), words[:, 1].copy()

    def _reading(self, read: Any) -> Reading:
        """read: as replay.js gives it."""
        self._under_way = [reading for reading in self._under_way if not reading.done]
        self._under_way.append(Reading(self.device, read.there))
        return self._under_way[-1]

    async def settle(self) -> None:
        """Waits for what was submitted and nobody has waited for to its end; its slots are free then."""
        for reading in list(self._under_way):
            await reading.ended()

    async def read(self, binding: Binding) -> bytes:
        """A copy of any range."""
        return (await self.copy(binding)).to_bytes()

    async def copy(self, binding: Binding) -> Any:
        """A copy of any range, outside of Python's memory: a Uint8Array, read through a buffer made for it."""
        slot = self.device.buffer("read", binding.size, "MAP_READ", "COPY_DST")
        try:
            buffer = self.buffers[binding.region]
            return await Reading(self.device, self._replay.readBytes(buffer, binding.offset, binding.size, slot).there)
        finally:
            self.device.destroy(slot)

    async def idle(self) -> None:
        """Waits until the GPU has done what was submitted; raises what went wrong."""
        await self.device.wait(self.device.handle.queue.onSubmittedWorkDone())
        self.device.check()

    def close(self) -> None:
        """Gives all buffers back."""
        for buffer in (*self.buffers.values(), *self._token_slots, *filter(None, [self._result_slot])):
            self.device.destroy(buffer)
        self.buffers, self._token_slots, self._result_slot, self._steps = {}, [], None, {}
