"""Whole plans on Mesa's software Vulkan, in CPython: their kernels through naga, as the executor runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import wgpu

from llamaweb.ggml import dequantize
from llamaweb.kernels import library
from llamaweb.kernels.formats import format_of
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.template import wgsl
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from llamaweb.planner.plan import Binding, WeightPlan
from llamaweb.profile import DeviceProfile
from llamaweb.rope import phases
from tests.naga import Naga
from tests.reference import now

_USAGE = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC
_POISON = 0x7FC00000  # a NaN, …
_ZEROS = (
    "weights",
    "state",
)  # … in all regions but these, which begin as zeros in the page, too, and are for nothing else


class Runner:
    """A device, and the pipelines of all plans on it."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self._naga = Naga(profile)
        self._pipelines: dict[Kernel, Any] = {}
        self.device = self._naga.device

    def pipeline(self, kernel: Kernel) -> Any:
        if kernel not in self._pipelines:
            self._pipelines[kernel] = self._naga.pipeline(kernel, wgsl(kernel))
        return self._pipelines[kernel]


class PlanRun:
    """A model's plan with its weights in place. What nobody has written is NaNs."""

    def __init__(self, runner: Runner, data: bytes, **options: Any) -> None:
        """options: of plan_model."""
        self.file = unfused(now(read_header(BytesSource(data))))
        self.plan = plan_model(self.file, runner.profile, **options)
        self._runner, self._device = runner, runner.device
        self._buffers = {name: self._buffer(size) for name, size in self.plan.regions.items()}
        for name, size in self.plan.regions.items():
            words = np.full(-(-size // 4), 0 if name.startswith(_ZEROS) else _POISON, np.uint32)
            self._device.queue.write_buffer(self._buffers[name], 0, words.tobytes())
        for codebook, binding in self.plan.codebooks.items():
            self._write(binding, codebook.data())
        for weight in self.plan.weights:
            self._upload(weight, data)
        for table in self.plan.rope_tables:
            factors = None
            if table.rope.factors:
                info = self.file.tensors[table.rope.factors]
                held = np.frombuffer(data, np.uint8)[info.offset : info.offset + info.nbytes]
                factors = dequantize(held, info.type).reshape(-1)
            self._write(table.binding, phases(table.rope, factors))

    def logits(self, tokens: Sequence[int], n_prompt: int) -> np.ndarray:
        """After the last token of a prompt, and after each that is read behind it one by one (n, n_vocab)."""
        found = []
        step = self.plan.phases["prefill"].n_tokens
        for first in range(0, n_prompt, step):
            batch = tokens[first : min(first + step, n_prompt)]
            phase = "prefill" if len(batch) > 1 else "decode"
            self._run(phase, batch, first)
        found.append(self._read(self.plan.logits[phase]))
        for at in range(n_prompt, len(tokens)):
            phase = self.plan.decode_phase(at)
            self._run(phase, tokens[at : at + 1], at)
            found.append(self._read(self.plan.logits[phase]))
        return np.stack(found)

    def _run(self, phase: str, tokens: Sequence[int], n_past: int) -> None:
        words = np.zeros(IO.tokens + len(tokens), np.uint32)
        words[IO.n_past], words[IO.n_tokens] = n_past, len(tokens)
        words[IO.tokens :] = tokens
        self._device.queue.write_buffer(self._buffers["io"], 0, words.tobytes())
        encoder = self._device.create_command_encoder()
        for d in self.plan.phases[phase].dispatches:
            self._encode(encoder, d.kernel, d.bindings, d.workgroups_for(len(tokens)))
        self._device.queue.submit([encoder.finish()])

    def _encode(
        self, encoder: Any, kernel: Kernel, bindings: Sequence[Binding], workgroups: tuple[int, int, int]
    ) -> None:
        pipeline = self._runner.pipeline(kernel)
        entries: list[Any] = [
            {"binding": i, "resource": {"buffer": self._buffers[b.region], "offset": b.offset, "size": b.size}}
            for i, b in enumerate(bindings)
        ]
        group = self._device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(pipeline)
        compute.set_bind_group(0, group)
        compute.dispatch_workgroups(*workgroups)
        compute.end()

    def _upload(self, weight: WeightPlan, data: bytes) -> None:
        first = 0
        for part in weight.slices:
            info = self.file.tensors[part.name]
            format = format_of(info.type, info.name)
            at, size = (n // format.block_size * format.block_bytes for n in (part.first, part.count))
            held = data[info.offset + at : info.offset + at + size]
            self._put(weight, held, first, part.count)
            first += part.count

    def _put(self, weight: WeightPlan, held: bytes, first: int, count: int) -> None:
        """Brings what the file has of a weight from its number `first` on into place, by the kernel that does so."""
        format = weight.format
        info = self.file.tensors[weight.slices[0].name]
        source = format_of(info.type, info.name)
        if weight.lane_order or source != format:
            launch, words = (
                library.vector(source.type, count, lane_order=weight.lane_order),
                [count, first, weight.pitch],
            )
        elif source.repacked:
            units = -(-count // source.block_size // source.unit)
            launch, words = library.repack(source, units), [units, first // source.block_size]
        elif weight.rows > 1 and weight.pitch > weight.row:
            a_row = weight.pitch * source.block_bytes // 4
            rows = count // weight.row
            launch = library.pad_rows(source, rows * a_row)
            words = [rows * a_row, first // weight.row * a_row, weight.row, weight.pitch]
        else:
            plane = weight.planes[0]
            at = plane.offset + first * source.block_bytes // source.block_size
            self._device.queue.write_buffer(self._buffers[plane.region], at, held + bytes(-len(held) % 4))
            return
        self._buffers["staging"] = staging = self._buffer(len(held))
        self._device.queue.write_buffer(staging, 0, held + bytes(-len(held) % 4))
        self._device.queue.write_buffer(self._buffers["io"], 0, np.array(words, np.uint32).tobytes())
        encoder = self._device.create_command_encoder()
        bindings = (Binding("staging", 0, -(-len(held) // 4) * 4), Binding("io", 0, 256), *weight.planes)
        self._encode(encoder, launch.kernel, bindings, launch.workgroups)
        self._device.queue.submit([encoder.finish()])

    def _buffer(self, size: int) -> Any:
        return self._device.create_buffer(size=max(-(-size // 4) * 4, 256), usage=_USAGE)

    def _write(self, binding: Binding, data: np.ndarray) -> None:
        held = np.ascontiguousarray(data).tobytes()
        self._device.queue.write_buffer(self._buffers[binding.region], binding.offset, held + bytes(-len(held) % 4))

    def _read(self, binding: Binding) -> np.ndarray:
        data = self._device.queue.read_buffer(self._buffers[binding.region], binding.offset, binding.size)
        return np.frombuffer(bytes(data), np.float32)
