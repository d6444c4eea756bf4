"""Cases of the self-check on Mesa's software Vulkan, in CPython: what `gpu.selfcheck` does in the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import wgpu

from llamaweb.kernels.checks import cases, chains
from llamaweb.kernels.checks.case import Case
from llamaweb.kernels.checks.layout import lay_out
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.template import wgsl
from tests.naga import Naga

_USAGE = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC


def wrong(naga: Naga, kernels: Sequence[Kernel], text: Callable[[Kernel], str] = wgsl) -> list[Kernel]:
    """The last kernels of the chains that compute something else than they should; `text` gives a kernel's shader."""
    return [chain[-1] for chain in chains(kernels) if not all(holds(naga, case, text) for case in cases(chain))]


def holds(naga: Naga, case: Case, text: Callable[[Kernel], str] = wgsl) -> bool:
    """Whether the kernels of a case leave what they must."""
    device, laid = naga.device, lay_out(case)
    buffers = [device.create_buffer(size=max(size, 256), usage=_USAGE) for size in laid.bytes]
    for where, part in laid.writes:
        for at, row in zip(part.at, part.rows, strict=True):
            device.queue.write_buffer(buffers[where.buffer], where.at + int(at), np.ascontiguousarray(row).tobytes())
    encoder = device.create_command_encoder()
    group_pass = encoder.begin_compute_pass()
    for run, ranges in laid.runs:
        pipeline = naga.pipeline(run.kernel, text(run.kernel))
        entries: list[Any] = [
            {"binding": i, "resource": {"buffer": buffers[r.buffer], "offset": r.at, "size": r.size}}
            for i, r in enumerate(ranges)
        ]
        group = device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
        group_pass.set_pipeline(pipeline)
        group_pass.set_bind_group(0, group)
        group_pass.dispatch_workgroups(*run.workgroups)
    group_pass.end()
    device.queue.submit([encoder.finish()])
    found = [bytes(device.queue.read_buffer(buffer)) for buffer in buffers]
    right = []
    for (where, _), part in zip(laid.results, laid.case.expected, strict=True):
        rows = (found[where.buffer][where.at + int(at) :][: part.row_bytes] for at in part.at)
        right.append(part.holds(b"".join(rows)))
    for buffer in buffers:
        buffer.destroy()
    return all(right)
