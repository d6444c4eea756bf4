"""Where numbers that are none, NaN or infinite, first appear: in the weights, or in what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import js
import numpy as np

from llamaweb.errors import NotANumberError, short
from llamaweb.gpu.executor import Executor
from llamaweb.javascript import js_file
from llamaweb.kernels import library
from llamaweb.kernels.formats import BLOCK
from llamaweb.kernels.io import IO, NO_TOKEN
from llamaweb.kernels.kernel import Kernel
from llamaweb.planner.plan import Binding, Dispatch, WeightPlan

_NONE = 0xFFFFFFFF
_FOUND = Binding("io", 0, 4)  # a batch's words are written anew for each


async def check_weights(executor: Executor) -> None:
    """Raises NotANumberError for weights that are no numbers, with the first tensor and its row."""
    weights = executor.plan.weights
    kernels = [_kernel(weight) for weight in weights]
    await executor.pipelines.compile(kernels)
    steps = [_step(executor, *each) for each in zip(kernels, weights, strict=True)]
    if await _found(executor, steps) is None:
        return
    for weight, step in zip(weights, steps, strict=True):
        block = await _found(executor, [step])
        if block is not None:
            name, row = weight.origin(block * BLOCK)
            raise NotANumberError(
                f"Row {row} of the model's tensor {short(name, 72)} has weights that are no numbers (NaN or infinite); "
                "fetch the file again, or use another one."
            )


def _kernel(weight: WeightPlan) -> Kernel:
    return library.find_nan(weight.format, weight.pitch * weight.rows // BLOCK).kernel


def _step(executor: Executor, kernel: Kernel, weight: WeightPlan) -> Any:
    bindings = list(weight.planes)
    if weight.format.codebook:
        bindings.append(executor.plan.codebooks[weight.format.codebook])
    bound = [(executor.buffers[b.region], b) for b in (*bindings, Binding("io", 0, 4 * IO.tokens))]
    launch = library.find_nan(weight.format, dict(kernel.constants)["blocks"])
    return executor.pipelines.step(kernel, bound, Dispatch(weight.names[0], kernel, (), launch.workgroups))


async def _found(executor: Executor, steps: Sequence[Any]) -> int | None:
    """The first block that one of the steps finds."""
    executor.write_io(0, np.array([_NONE], np.uint32))
    js_file("gpu/replay.js")(executor.device.handle).run(js.Array.of(*steps), 0, len(steps), 1)
    found = int(np.frombuffer(await executor.read(_FOUND), np.uint32)[0])
    return None if found == _NONE else found


async def first_appearance(executor: Executor, tokens: Sequence[int]) -> tuple[int, str]:
    """How many of the tokens, evaluated one after the other, it takes until a result has numbers that are none, and
    whose that is. The cache is overwritten."""
    await executor.prepare()
    for position, token in enumerate(tokens):
        phase = executor.plan.decode_phase(position)
        _write(executor, position, token)
        if (await executor.sample(phase, 1)).to_py()[0] == NO_TOKEN:
            _write(executor, position, token)
            return position + 1, await _operation(executor, phase)
    return len(tokens), "a kernel for batches that this device computes wrongly"


def _write(executor: Executor, position: int, token: int) -> None:
    executor.write_io(IO.n_past, np.array([position, 1], np.uint32))
    executor.write_io(IO.tokens, np.array([token], np.uint32))
    executor.write_rows([token])


async def _operation(executor: Executor, phase: str) -> str:
    """The first operation of a token whose result has numbers that are none, run by run."""
    replay, steps = js_file("gpu/replay.js")(executor.device.handle), executor.steps(phase)
    for i, dispatch in enumerate(executor.plan.phases[phase].dispatches):
        replay.run(steps, i, i + 1, 1)
        for slot, binding in zip(dispatch.kernel.slots, dispatch.bindings, strict=True):
            if slot.name == "y" and slot.type != "u32":
                values = np.frombuffer(await executor.read(binding), np.float32)
                if not np.isfinite(values).all():
                    return f"{dispatch.label} ({dispatch.kernel.template})"
    return "the logits"
