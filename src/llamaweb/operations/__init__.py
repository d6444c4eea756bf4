"""Operations: one file each, with all that graph, planner and cost know of it. Pure.

A graph is made of the functions; what they become is told by the classes, found by the name of a node or a step
(`OPERATIONS`) or of a kernel's template (`BY_TEMPLATE`).
"""

from __future__ import annotations

from llamaweb.graph import Graph
from llamaweb.operations import elementwise as _elementwise
from llamaweb.operations import flash_attn as _flash_attn
from llamaweb.operations import get_rows as _get_rows
from llamaweb.operations import mul_mat as _mul_mat
from llamaweb.operations import norm as _norm
from llamaweb.operations import output as _output
from llamaweb.operations.elementwise import add, geglu, mul, scale, softcap, swiglu, unary, view
from llamaweb.operations.flash_attn import flash_attn, rope
from llamaweb.operations.get_rows import get_rows
from llamaweb.operations.mul_mat import mul_mat
from llamaweb.operations.norm import l2_norm, layer_norm, rms_norm
from llamaweb.operations.operation import Lowering, Operation
from llamaweb.operations.output import output_rows, sample
from llamaweb.operations.step import Step

_ALL: tuple[Operation, ...] = (
    _get_rows.GetRows(),
    _elementwise.Elementwise(),
    _elementwise.PartOfRows(),
    _norm.Norm(),
    _norm.RmsNorm(),
    _mul_mat.MulMatVec(),
    _mul_mat.MulMatOfBatch(),
    _mul_mat.Quantize(),
    _flash_attn.RopeOfHeads(),
    _flash_attn.RopeKV(),
    _flash_attn.FlashAttn(),
    _flash_attn.FlashAttnVec(),
    _flash_attn.FlashAttnReduce(),
    _output.LastRow(),
    _output.Sample(),
    _output.CrossEntropy(),
)
OPERATIONS = {operation.name: operation for operation in _ALL}
BY_TEMPLATE = {template: operation for operation in _ALL for template in operation.templates}


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
    "flash_attn",
    "geglu",
    "get_rows",
    "l2_norm",
    "layer_norm",
    "lower",
    "mul",
    "mul_mat",
    "output_rows",
    "rms_norm",
    "rope",
    "sample",
    "scale",
    "softcap",
    "swiglu",
    "unary",
    "view",
]
