"""Operations: one file each, with all that graph, planner and cost know of it. Pure.

A graph is made of the functions, of which the common ones are here; what they become is told by the classes of all
files, found by the name of a node or a step (`OPERATIONS`) or of a kernel's template (`BY_TEMPLATE`).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

from llamaweb.graph import Graph
from llamaweb.kernels.checks import CASES
from llamaweb.operations.elementwise import (
    add,
    concat,
    elementwise,
    geglu,
    heads_of,
    mul,
    plane,
    scale,
    softcap,
    swiglu,
    swiglu_oai,
    unary,
    view,
)
from llamaweb.operations.experts import mul_mat_id, top_k, weighted_sum
from llamaweb.operations.flash_attn import flash_attn, rope
from llamaweb.operations.get_rows import get_rows
from llamaweb.operations.mul_mat import mul_mat
from llamaweb.operations.norm import l2_norm, layer_norm, rms_norm
from llamaweb.operations.operation import Lowering, Operation
from llamaweb.operations.output import output_rows, sample
from llamaweb.operations.pool import pool
from llamaweb.operations.step import Step

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def _named(kind: type[Operation]) -> Iterator[Operation]:
    for each in kind.__subclasses__():
        if "name" in vars(each):
            yield each()
        yield from _named(each)


OPERATIONS = {operation.name: operation for operation in _named(Operation)}
CASES.update({template: op.case for op in OPERATIONS.values() for template in op.templates if hasattr(op, "case")})
BY_TEMPLATE = {template: operation for operation in OPERATIONS.values() for template in operation.templates}


def lower(graph: Graph, splits: int = 1) -> list[Step]:
    """The plain steps of a graph, in order. splits: how many workgroups share the positions of a token's attention."""
    low = Lowering(graph, splits)
    for i, node in enumerate(graph.nodes):
        low.in_head = i >= graph.output_index
        OPERATIONS[node.op].lower(node, low)
    return low.steps


__all__ = [
    "BY_TEMPLATE",
    "OPERATIONS",
    "add",
    "concat",
    "elementwise",
    "flash_attn",
    "geglu",
    "get_rows",
    "heads_of",
    "l2_norm",
    "layer_norm",
    "lower",
    "mul",
    "mul_mat",
    "mul_mat_id",
    "output_rows",
    "plane",
    "pool",
    "rms_norm",
    "rope",
    "sample",
    "scale",
    "softcap",
    "swiglu",
    "swiglu_oai",
    "top_k",
    "unary",
    "view",
    "weighted_sum",
]
