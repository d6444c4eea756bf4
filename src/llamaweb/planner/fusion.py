"""Fusion: from the graph's operations to the fewest steps, each of which one kernel computes.

What is folded into a matrix product: the rms_norm before it (one token), the bias, the residual addition and SwiGLU
behind it, and its siblings: products of the same input in the same format are one product with stacked weights.
Attention takes in rope and the writing of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from llamaweb.errors import UnsupportedError
from llamaweb.graph import Graph, Tensor


@dataclass(frozen=True, eq=False)
class Value:
    """Something computed: float32, (row, n_tokens) in ggml's order. It lives in the arena."""

    name: str
    row: int
    n_tokens: int

    @property
    def bytes(self) -> int:
        return 4 * self.row * self.n_tokens


@dataclass(frozen=True)
class Step:
    """One dispatch to be: `values` by the kernel's slot names; `weights` are stacked tensors of the file by slot."""

    op: str
    name: str
    values: dict[str, Value]
    weights: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Steps:
    steps: list[Step]
    head: int  # the first step that belongs to the logits
    logits: Value


def fuse(graph: Graph, attention_splits: int = 1) -> Steps:
    """The steps of a graph, in order. With attention splits, one token's attention is shared out and put together."""
    return _Fuser(graph, attention_splits).run()


class _Fuser:
    def __init__(self, graph: Graph, attention_splits: int) -> None:
        self.graph = graph
        self.splits = attention_splits
        self.consumers: dict[Tensor, list[Tensor]] = {}
        for node in graph.nodes:
            for src in node.src:
                self.consumers.setdefault(src, []).append(node)
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.values: dict[Tensor, Value] = {}
        self.offsets: dict[Tensor, int] = {}  # of a product within the value it shares with its siblings
        self.done: set[Tensor] = set()
        self.steps: list[Step] = []

    def run(self) -> Steps:
        head = 0
        for i, node in enumerate(self.graph.nodes):
            if i == self.graph.output_index:
                head = len(self.steps)
            if node not in self.done:
                getattr(self, "_" + node.op)(node)
        logits = next(node for node in self.graph.nodes if node.op in ("sample", "cross_entropy")).src[0]
        return Steps(_in_lane_order(self.steps), head, self.values[logits])

    def _emit(self, op: str, name: str, values: dict[str, Value], weights: Any = None, **params: Any) -> None:
        self.steps.append(Step(op, name, values, weights or {}, params))

    def _value(self, node: Tensor) -> Value:
        self.values[node] = Value(node.name, node.row, node.rows)
        return self.values[node]

    def _get_rows(self, node: Tensor) -> None:
        self._emit("get_rows", node.name, {"y": self._value(node)}, {"w": (node.src[0],)})

    def _last_row(self, node: Tensor) -> None:
        self.values[node] = self.values[node.src[0]]

    def _rms_norm(self, node: Tensor) -> None:
        x, weight = node.src
        if node.rows == 1 and all(c.op == "mul_mat" for c in self.consumers[node]):
            return  # each product norms its input itself
        values = {"x": self.values[x], "y": self._value(node)}
        self._emit("rms_norm", node.name, values, {"norm_weight": (weight,)}, eps=node.params["eps"])

    def _mul_mat(self, node: Tensor) -> None:
        x = node.src[1]
        siblings = [n for n in self.consumers[x] if n.op == "mul_mat" and n.src[1] is x]
        self.done.update(siblings)
        glu = self.consumers[node][0] if self.consumers[node][0].op == "swiglu" else None
        alone = glu and list(glu.src) == siblings and all(self.consumers[n] == [glu] for n in siblings)
        if glu and alone and siblings[0].src[0].type == siblings[1].src[0].type:
            self.done.add(glu)
            self._product(siblings, self._value(glu), epilogue="swiglu")
            return
        if len(siblings) == 1 and (add := self._residual(node)):
            self.done.add(add)
            other = add.src[1] if add.src[0] is node else add.src[0]
            self.values[add] = self.values[other]  # in place
            self._product(siblings, self.values[add], epilogue="add")
            return
        joint = Value("+".join(n.name for n in siblings), sum(n.row for n in siblings), node.rows)
        offset = 0
        for _, run in groupby(siblings, key=lambda n: n.src[0].type):
            nodes = list(run)
            self._product(nodes, joint, offset=offset)
            for n in nodes:
                self.values[n], self.offsets[n] = joint, offset
                offset += n.row

    def _residual(self, node: Tensor) -> Tensor | None:
        """The addition that the product `node` alone feeds, if it is the last use of its other operand."""
        consumers = self.consumers[node]
        if len(consumers) != 1 or consumers[0].op != "add":
            return None
        add = consumers[0]
        other = add.src[1] if add.src[0] is node else add.src[0]
        last = max(self.consumers[other], key=lambda n: self.order[n])
        return add if last is add and other in self.values and self.values[other].row == add.row else None

    def _product(self, nodes: Sequence[Tensor], y: Value, **params: Any) -> None:
        """One product with the weights of `nodes` stacked."""
        x = nodes[0].src[1]
        weights: dict[str, tuple[Tensor, ...]] = {"w": tuple(n.src[0] for n in nodes)}
        biases = [n.src[2] for n in nodes if len(n.src) > 2]
        if biases:
            if len(biases) != len(nodes):
                raise UnsupportedError(
                    f"Only some of {nodes[0].name} and its siblings have a bias, which is not supported."
                )
            weights["bias"] = tuple(biases)
        name = "+".join(n.name for n in nodes)
        source = x
        if x not in self.values:  # an rms_norm that was left to its products
            source, norm = x.src
            weights["norm_weight"] = (norm,)
            params["eps"] = x.params["eps"]
        params["last_row"] = source.op == "last_row"
        op = "mul_mat_vec" if x.rows == 1 else "mul_mat"
        self._emit(op, name, {"x": self.values[source], "y": y}, weights, **params)

    def _swiglu(self, node: Tensor) -> None:
        gate, up = node.src
        if self.values[gate] is not self.values[up]:
            raise UnsupportedError(f"{node.name}: gate and up of SwiGLU have different inputs, which is not supported.")
        self._emit("swiglu", node.name, {"x": self.values[gate], "y": self._value(node)})

    def _flash_attn(self, node: Tensor) -> None:
        q, k, v = node.src
        qkv = self.values[q]
        if (self.values[k], self.values[v]) != (qkv, qkv) or not self.offsets[q] < self.offsets[k] < self.offsets[v]:
            raise UnsupportedError(f"{node.name}: q, k and v are not products of one input, which is not supported.")
        head_dim = node.params["head_dim"]
        params = {**node.params, "n_head": q.row // head_dim, "n_head_kv": k.row // head_dim}
        if node.rows == 1 and self.splits > 1:
            parts = Value(node.name + ".parts", params["n_head"] * self.splits * (head_dim + 4), 1)
            self._emit("flash_attn_vec", node.name, {"qkv": qkv, "y": parts}, splits=self.splits, **params)
            shape = {"head_dim": head_dim, "n_head": params["n_head"], "splits": self.splits}
            self._emit("flash_attn_reduce", node.name + ".sum", {"x": parts, "y": self._value(node)}, **shape)
        elif node.rows == 1:
            self._emit("flash_attn_vec", node.name, {"qkv": qkv, "y": self._value(node)}, **params)
        else:
            self._emit("rope_kv", node.name.replace("attn", "rope"), {"qkv": qkv}, **params)
            self._emit("flash_attn", node.name, {"qkv": qkv, "y": self._value(node)}, **params)

    def _add(self, node: Tensor) -> None:
        raise UnsupportedError(f"{node.name}: an addition that is not a product's residual is not supported.")

    def _sample(self, node: Tensor) -> None:
        self._emit(node.op, node.name, {"logits": self.values[node.src[0]]})

    _cross_entropy = _sample


# Where kernels can read and write one token's activations in lane order (wgsl/common/lanes.wgsl).
_LANE_ORDER = {"get_rows": {"y"}, "mul_mat_vec": {"x", "y"}, "flash_attn_vec": {"y"}, "flash_attn_reduce": {"y"}}


def _in_lane_order(steps: list[Step]) -> list[Step]:
    """Marks in params["lane_order"] the slots of values that products of one token read, where all kernels can."""
    read = {s.values["x"] for s in steps if s.op == "mul_mat_vec" and s.values["x"].n_tokens == 1}
    uses = [(s, slot, value) for s in steps for slot, value in s.values.items()]
    plain = {value for s, slot, value in uses if slot not in _LANE_ORDER.get(s.op, ())}
    chosen = {value for value in read - plain if value.row % 32 == 0}
    return [
        replace(s, params={**s.params, "lane_order": frozenset(slot for slot, v in s.values.items() if v in chosen)})
        for s in steps
    ]
