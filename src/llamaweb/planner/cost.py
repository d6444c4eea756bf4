"""What each dispatch must move and compute, out of the plan alone: the least bytes and FLOPs, to set its time against.

Bytes are those of the bound ranges that a batch touches once: weights as they lie on the GPU, activations, and the
cache at the given position. What a kernel reads twice counts once, so that a rate far below the device's shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb.kernels.kernel import Kernel
from llamaweb.operations import BY_TEMPLATE
from llamaweb.operations.operation import Use
from llamaweb.planner.plan import Dispatch, ModelPlan


@dataclass(frozen=True)
class Cost:
    """Bytes that a dispatch reads and writes, its multiplications and additions in products (2 a weight), and how many
    of the bytes that it reads are weights."""

    read: int
    write: int
    flops: int
    weights: int = 0

    @property
    def bytes(self) -> int:
        return self.read + self.write


def costs(plan: ModelPlan, phase: str, n_tokens: int, n_past: int) -> list[Cost]:
    """The cost of each dispatch of a phase, for a batch of `n_tokens` tokens behind `n_past` cached ones."""
    batch = plan.phases[phase].n_tokens
    return [_cost(d, n_tokens, n_past, batch) for d in plan.phases[phase].dispatches]


def shape(kernel: Kernel) -> str:
    """A kernel's shape for a person: columns × rows of a product, heads of an attention, length of a row."""
    c = dict(kernel.constants)
    if "head_dim" in c:
        heads = "/".join(str(c[name]) for name in ("n_head", "n_head_kv") if name in c)
        return f"{heads} heads of {c['head_dim']}"
    if "n_head" in c and "size" in c:
        return f"{c['n_head']} heads of {c['size']}"
    epilogue = c.get("epilogue", "store")
    size = f"{c['k']}×{c['n']}" if "k" in c and "n" in c else str(c.get("k", c.get("n", c.get("channels", ""))))
    return f"{size} {epilogue}" if isinstance(epilogue, str) and epilogue != "store" else size


def _cost(d: Dispatch, n_tokens: int, n_past: int, batch: int) -> Cost:
    operation, constants = BY_TEMPLATE[d.kernel.template], dict(d.kernel.constants)
    # Without a tile, a dispatch serves the last token alone, or keeps a state, and goes through all.
    all_tokens = d.token_tile or any(slot.name == "state" for slot in d.kernel.slots)
    tokens = n_tokens if all_tokens or batch == 1 else 1
    sizes, values, of_weights = {}, set(), set()
    for slot, binding in zip(d.kernel.slots, d.bindings, strict=True):
        if binding.region == "arena":
            values.add(slot.name)
            sizes[slot.name] = binding.size * tokens // (batch if all_tokens else 1)
        elif binding.region != "io" and slot.name != "phases":  # which are a few words
            sizes[slot.name] = binding.size
            if binding.region.startswith("weights"):
                of_weights.add(slot.name)
    use = Use(d.kernel, constants, sizes, values, tokens, n_tokens, n_past)
    read = write = weights = 0
    for name in sizes:
        moved = operation.moved(name, use)
        weights += moved if name in of_weights else 0
        if operation.written(name):
            write += moved
            read += moved if name == "y" and constants.get("epilogue") == "add" else 0
        else:
            read += moved
    return Cost(read, write, operation.flops(use), weights)
