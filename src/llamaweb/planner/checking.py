"""How much memory the self-check of a model's kernels takes, at most (kernels/checks, gpu/selfcheck.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llamaweb.graph import Tensor
from llamaweb.kernels.cache import Cache
from llamaweb.kernels.checks import FOUND
from llamaweb.kernels.checks.layout import slack
from llamaweb.kernels.checks.products import FEW, MOST_BYTES
from llamaweb.kernels.formats import whole_blocks
from llamaweb.kernels.kernel import GLU
from llamaweb.operations import OPERATIONS
from llamaweb.operations.mul_mat_vecs import MOST_ROWS
from llamaweb.operations.step import Step
from llamaweb.planner.weights import Weights

_ROWS = 132  # of a product that are computed, at most
_POSITIONS = 740  # of a cache, where it is no ring


class Checked(NamedTuple):
    """Bytes that are only read, those that are written, and results that are looked at at once."""

    read: int
    written: int
    found: int


def of_kernels(steps: Iterable[Step], weights: Weights) -> Checked:
    """All but caches and quantized activations. A gated linear unit reads rows that lie half a weight apart."""
    read = written = found = 0
    for step in steps:
        one = all(value.n_tokens == 1 for value in step.values.values())
        tokens = 1 if one else OPERATIONS[step.op].case_tokens
        rows = [value.row * value.planes for value in {view.value for view in step.values.values()}]
        state = sum(state.bytes for state in step.states.values())
        whole = [value.row for slot, value in step.values.items() if slot not in ("logits", "y")]
        whole += [step.values["y"].row] if OPERATIONS[step.op].case_rows else []
        found = max(found, *(4 * min(tokens, FEW) * row for row in whole), 0)
        if state:  # which is looked at, too
            found = max(found, state + 4 * tokens * max(rows))
        for weight, _ in weights.place(step):
            if weight is None:
                vectors = sum(_bytes(tensor) for stack in step.weights.values() for tensor in stack)
                read, written = max(read, 8 * max(rows), vectors), max(written, 4 * tokens * sum(rows) + state)
                continue
            halves = 2 if step.params.get("epilogue") in GLU else 1
            row = weight.row // weight.format.block_size * weight.format.block_bytes
            made = row * halves * min(weight.rows // halves, _ROWS)
            codes = weight.format.codebook.data().nbytes if weight.format.codebook else 0
            apart = row * weight.rows * (halves - 1) // 2
            if "n_expert" in step.params:  # two of which are read
                of_one = step.weights["w"][0].shape[1]
                # Of a piece that begins within an expert, whose rest comes before these two.
                apart += row * of_one * (2 if weight.first % of_one else 1)
                made *= 2
            read = max(read, made + apart + 8 * weight.row + 4 * weight.rows + codes)
            x, y = 4 * max(weight.row, step.values["x"].row if "x" in step.values else 0), 4 * step.values["y"].row
            if step.op != "mul_mat_vec":
                y = min(tokens * y, max(MOST_BYTES, FEW * y))
            x = min(tokens * x, max(MOST_BYTES, FEW * x))
            written = max(written, made + x + y)
    return Checked(read + slack(12), written + slack(12), max(found, FOUND))


def _bytes(tensor: Tensor) -> int:
    """Of those rows that are there of vectors and of one of several matrices."""
    return 4 * min(tensor.rows, MOST_ROWS) * whole_blocks(tensor.row)


def of_cache(cache: Cache) -> int:
    """Of the keys and values of a layer; one head's, but in a format with scales, which lie behind all quants."""
    blocks = cache.k.block or (cache.v.block if cache.v else 0)
    seen = cache.rows if cache.ring or blocks else min(cache.rows, _POSITIONS)
    return -(-sum(cache.bytes) * seen // cache.rows // (1 if blocks else cache.n_head_kv))
