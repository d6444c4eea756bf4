"""What each dispatch must move and compute, out of the plan alone: the least bytes and FLOPs, to set its time against.

Bytes are those of the bound ranges that a batch touches once: weights as they lie on the GPU, activations, and the
cache at the given position. What a kernel reads twice counts once, so that a rate far below the device's shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb.kernels.kernel import Kernel, Slot
from llamaweb.planner.plan import Binding, Dispatch, ModelPlan


@dataclass(frozen=True)
class Cost:
    """Bytes that a dispatch reads and writes, and its multiplications and additions in products (2 a weight)."""

    read: int
    write: int
    flops: int

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
    epilogue = c.get("epilogue", "store")
    size = f"{c['k']}×{c['n']}" if "k" in c and "n" in c else str(c.get("k", c.get("n", "")))
    return size if epilogue == "store" else f"{size} {epilogue}"


def _cost(d: Dispatch, n_tokens: int, n_past: int, batch: int) -> Cost:
    c = dict(d.kernel.constants)
    tokens = n_tokens if d.token_tile or batch == 1 else 1  # without a tile, a dispatch serves the last token alone
    read = write = 0
    for slot, binding in zip(d.kernel.slots, d.bindings, strict=True):
        if binding.region == "arena":
            size = _activation(slot, binding, c, tokens, batch if d.token_tile else 1)
        elif binding.region.startswith("kv."):
            size = binding.size * _cached_rows(d.kernel, n_tokens, n_past) // c["n_ctx"]
        elif binding.region == "io" or slot.name == "phases":
            size = 0  # a few words
        elif d.kernel.template == "get_rows":
            size = binding.size * tokens // c["rows"]
        else:
            size = binding.size
        written = slot.name in ("y", "sum") or (d.kernel.template == "rope_kv" and binding.region.startswith("kv."))
        read += 0 if written else size
        write += size if written else 0
        if slot.name == "y" and (c.get("epilogue") == "add" or d.kernel.template == "add"):
            read += size
    return Cost(read, write, _flops(d.kernel, c, tokens, n_past))


def _activation(slot: Slot, binding: Binding, c: dict, tokens: int, batch: int) -> int:
    if c.get("last_row") and slot.name == "x":
        return 4 * int(c["k"])
    return binding.size * tokens // batch


def _cached_rows(kernel: Kernel, n_tokens: int, n_past: int) -> int:
    if kernel.template == "rope_kv":
        return n_tokens
    window = dict(kernel.constants).get("window") or n_past + n_tokens
    return min(n_past + n_tokens, n_tokens + window - 1)


def _flops(kernel: Kernel, c: dict, tokens: int, n_past: int) -> int:
    if kernel.template.startswith("mul_mat"):
        return 2 * int(c["columns"]) * int(c["n"]) * tokens
    if kernel.template.startswith("flash_attn") and any(slot.name == "k_cache" for slot in kernel.slots):
        window = c.get("window") or n_past + tokens
        seen = sum(min(n_past + i + 1, window) for i in range(tokens))
        heads = int(c["kv_heads"]) * int(c["n_head"]) // int(c["n_head_kv"])  # of the part of the cache that is bound
        return 4 * int(c["head_dim"]) * heads * seen  # a product with K and one with V
    return 0
