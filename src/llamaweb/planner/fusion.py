"""Fusion: from the graph's operations to the fewest steps, each of which one kernel computes.

What is folded into a matrix product: the rms_norm before it (one token), and before that the addition of a normed
branch to the residual stream; the bias, the residual addition and the gated linear unit behind it; and its siblings:
products of the same input in the same format are one product with stacked weights. Attention takes in the norms of
heads, rope and the writing of the cache. Each of these can be left out, to measure what it brings.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from llamaweb.errors import UnsupportedError
from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.cache import width
from llamaweb.kernels.formats import format_of, whole_blocks
from llamaweb.kernels.kernel import GLU
from llamaweb.kernels.mul_mat import quantized_bytes

FUSIONS = {
    "norm": "an rms_norm within the products that read it",
    "post_norm": "the addition of a normed branch within the product behind it",
    "residual": "the addition to the residual stream within the product before it",
    "glu": "a gated linear unit within the product of gate and up",
    "siblings": "products of one input as one product (and with them the gated linear unit)",
    "attention": "norms of heads, rope and the writing of the cache within a token's attention",
}


@dataclass(frozen=True, eq=False)
class Value:
    """Something computed: float32, or integers of 8 or 16 bits; (row, n_tokens) in ggml's order. It lives in the arena.

    in_blocks: what reads it takes whole blocks of 32, so that a row has room for them; behind its end there may be
    anything.
    """

    name: str
    row: int
    n_tokens: int
    bits: int = 32
    in_blocks: bool = True

    @property
    def pitch(self) -> int:
        """Numbers from the beginning of a row to that of the next."""
        return whole_blocks(self.row) if self.in_blocks else self.row

    @property
    def bytes(self) -> int:
        if self.bits == 32:
            return 4 * self.pitch * self.n_tokens
        return quantized_bytes(self.row, self.n_tokens, self.bits)


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


def fuse(graph: Graph, attention_splits: int = 1, max_bindings: int = 8, unfused: Set[str] = frozenset()) -> Steps:
    """The steps of a graph, in order. With attention splits, one token's attention is shared out and put together.
    max_bindings: of one kernel on the device (maxStorageBuffersPerShaderStage). unfused: names of FUSIONS that are
    left out."""
    return _Fuser(graph, attention_splits, max_bindings, unfused).run()


# What a product whose norm takes in an addition binds besides its weight
_NORMED_SUM = ("x", "post", "post_norm_weight", "norm_weight", "sum", "y")


class _Fuser:
    def __init__(self, graph: Graph, attention_splits: int, max_bindings: int, unfused: Set[str]) -> None:
        self.graph = graph
        self.unfused = unfused
        self.splits = attention_splits
        self.max_bindings = max_bindings
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
        params = {}
        value = self._value(node)
        if [c.op for c in self.consumers[node]] == ["scale"]:
            (scaled,) = self.consumers[node]
            params["scale"] = scaled.params["factor"]
            self.values[scaled] = value
            self.done.add(scaled)
        self._emit("get_rows", node.name, {"y": value}, {"w": (node.src[0],)}, **params)

    def _scale(self, node: Tensor) -> None:
        raise UnsupportedError(f"{node.name}: scaling anything but embeddings is not supported.")

    def _last_row(self, node: Tensor) -> None:
        self.values[node] = self.values[node.src[0]]

    def _rms_norm(self, node: Tensor) -> None:
        x, weight = node.src
        consumers = self.consumers[node]
        if [c.op for c in consumers] == ["flash_attn"]:  # which norms its heads itself
            self.values[node], self.offsets[node] = self.values[x], self.offsets[x]
            return
        if weight.row != x.row:
            raise UnsupportedError(f"{node.name}: a norm of heads outside attention is not supported.")
        apart = "norm" in self.unfused and x.op != "last_row"  # which only a product can read
        fused = node.rows == 1 and self._all_products(node) and not apart
        if fused or [c.op for c in consumers] == ["add"]:
            return  # the addition, or each product, norms its input itself
        self._norm(node, self._value(node))

    def _norm(self, node: Tensor, y: Value, **params: Any) -> None:
        x, weight = node.src
        values = {"x": self.values[x], "y": y}
        self._emit("rms_norm", node.name, values, {"norm_weight": (weight,)}, eps=node.params["eps"], **params)

    def _all_products(self, node: Tensor) -> bool:
        return all(c.op == "mul_mat" for c in self.consumers[node])

    def _add(self, node: Tensor) -> None:
        """A residual that takes in a branch, normed or not: x + rms_norm(branch), x + branch."""
        x, branch = node.src if node.src[0] in self.values else node.src[::-1]
        if x not in self.values or self.values[x].row != node.row or self._last_use(x) is not node:
            raise UnsupportedError(f"{node.name}: an addition that is not a residual is not supported.")
        if branch.op != "rms_norm":
            self.values[node] = self.values[x]  # in place
            self._emit("add", node.name, {"x": self.values[branch], "y": self.values[x]})
        elif not self._norm_takes_in(node):
            self.values[node] = self.values[x]
            self._norm(branch, self.values[node], epilogue="add")

    def _norm_takes_in(self, add: Tensor) -> bool:
        """Whether the first use of an addition is one token's product with a norm, which has room for its bindings."""
        first = min(self.consumers[add], key=lambda n: self.order[n])
        if add.rows > 1 or first.op != "rms_norm" or not self._all_products(first):
            return False
        if self.unfused & {"norm", "post_norm"}:
            return False
        product = self.consumers[first][0]
        format = format_of(product.src[0].type, product.src[0].name)
        bindings = len(format.planes) + bool(format.codebook) + len(product.src[2:]) + len(_NORMED_SUM)
        return bindings <= self.max_bindings

    def _mul_mat(self, node: Tensor) -> None:
        x = node.src[1]
        siblings = [n for n in self.consumers[x] if n.op == "mul_mat" and n.src[1] is x]
        self.done.update(siblings)
        glu = self.consumers[node][0] if self.consumers[node][0].op in GLU else None
        if self.unfused & {"glu", "siblings"}:
            glu = None
        alone = glu and list(glu.src) == siblings and all(self.consumers[n] == [glu] for n in siblings)
        if glu and alone and len(_stacks(siblings)) == 1:
            self.done.add(glu)
            self._product(siblings, self._value(glu), epilogue=glu.op)
            return
        if len(siblings) == 1 and (add := self._residual(node)):
            self.done.add(add)
            other = add.src[1] if add.src[0] is node else add.src[0]
            self.values[add] = self.values[other]  # in place
            self._product(siblings, self.values[add], epilogue="add")
            return
        # Attention, a gated linear unit and the sampler take single numbers.
        in_blocks = len(siblings) == 1 and self.consumers[node][0].op in ("rms_norm", "add")
        name, row = "+".join(n.name for n in siblings), sum(n.row for n in siblings)
        joint = Value(name, row, node.rows, in_blocks=in_blocks)
        offset = 0
        apart = "siblings" in self.unfused
        for nodes in [[n] for n in siblings] if apart else _stacks(siblings):
            self._product(nodes, joint, offset=offset)
            for n in nodes:
                self.values[n], self.offsets[n] = joint, offset
                offset += n.row

    def _residual(self, node: Tensor) -> Tensor | None:
        """The addition that the product `node` alone feeds, if it is the last use of its other operand."""
        consumers = self.consumers[node]
        if len(consumers) != 1 or consumers[0].op != "add" or "residual" in self.unfused:
            return None
        add = consumers[0]
        other = add.src[1] if add.src[0] is node else add.src[0]
        last = self._last_use(other)
        return add if last is add and other in self.values and self.values[other].row == add.row else None

    def _last_use(self, node: Tensor) -> Tensor:
        return max(self.consumers[node], key=lambda n: self.order[n])

    def _product(self, nodes: Sequence[Tensor], y: Value, **params: Any) -> None:
        """One product with the weights of `nodes` stacked."""
        x = nodes[0].src[1]
        weights: dict[str, tuple[Tensor, ...]] = {"w": tuple(n.src[0] for n in nodes)}
        if len(nodes[0].src) > 2:  # then all of them have a bias
            weights["bias"] = tuple(n.src[2] for n in nodes)
        name = "+".join(n.name for n in nodes)
        source = x
        if x not in self.values:  # an rms_norm that was left to its products
            source, norm = x.src
            weights["norm_weight"] = (norm,)
            params["eps"] = x.params["eps"]
        values = {}
        if source not in self.values:  # an addition that was left to the first of them
            other, branch = source.src if source.src[0] in self.values else source.src[::-1]
            values = {"post": self.values[branch.src[0]]}
            weights["post_norm_weight"] = (branch.src[1],)
            params["post_eps"] = branch.params["eps"]
            if len(self.consumers[source]) > 1 or len(self.consumers[x]) > len(nodes):
                values["sum"] = self._value(source)
            source = other
        params["last_row"] = source.op == "last_row"
        op = "mul_mat_vec" if x.rows == 1 else "mul_mat"
        self._emit(op, name, {"x": self.values[source], **values, "y": y}, weights, **params)

    def _glu(self, node: Tensor) -> None:
        gate, up = node.src
        if self.values[gate] is not self.values[up]:
            raise UnsupportedError(f"{node.name}: gate and up have different inputs, which is not supported.")
        self._emit("glu", node.name, {"x": self.values[gate], "y": self._value(node)}, kind=node.op)

    _swiglu = _geglu = _glu

    def _flash_attn(self, node: Tensor) -> None:
        q, k, v = node.src
        qkv = self.values[q]
        if (self.values[k], self.values[v]) != (qkv, qkv) or not self.offsets[q] < self.offsets[k] < self.offsets[v]:
            raise UnsupportedError(f"{node.name}: q, k and v are not products of one input, which is not supported.")
        head_dim = node.params["head_dim"]
        norms, weights = self._head_norms(q, k), {}
        if norms:
            weights = {"head_norm": tuple(norm.src[1] for norm in norms)}
        params = {**node.params, "n_head": q.row // head_dim, "n_head_kv": k.row // head_dim}
        params["head_eps"] = norms[0].params["eps"] if norms else None
        if node.rows == 1 and "attention" in self.unfused:
            self._emit("rope_kv", node.name.replace("attn", "rope"), {"qkv": qkv}, weights, **params)
            weights, params = {}, {**params, "rotated": True}
        if node.rows == 1 and self.splits > 1:
            size = params["n_head"] * self.splits * (width(head_dim) + 4)
            parts = Value(node.name + ".parts", size, 1, in_blocks=False)
            self._emit("flash_attn_vec", node.name, {"qkv": qkv, "y": parts}, weights, splits=self.splits, **params)
            shape = {"head_dim": head_dim, "n_head": params["n_head"], "splits": self.splits}
            self._emit("flash_attn_reduce", node.name + ".sum", {"x": parts, "y": self._value(node)}, **shape)
        elif node.rows == 1:
            self._emit("flash_attn_vec", node.name, {"qkv": qkv, "y": self._value(node)}, weights, **params)
        else:
            self._emit("rope_kv", node.name.replace("attn", "rope"), {"qkv": qkv}, weights, **params)
            self._emit("flash_attn", node.name, {"qkv": qkv, "y": self._value(node)}, **params)

    def _head_norms(self, q: Tensor, k: Tensor) -> list[Tensor]:
        """The norms of q's and k's heads, if they have them."""
        norms = [n for n in (q, k) if n.op == "rms_norm"]
        if len(norms) == 1 or (norms and norms[0].params["eps"] != norms[1].params["eps"]):
            raise UnsupportedError(f"{q.name} and {k.name} are normed differently, which is not supported.")
        return norms

    def _sample(self, node: Tensor) -> None:
        self._emit(node.op, node.name, {"logits": self.values[node.src[0]]})

    _cross_entropy = _sample


def _stacks(products: Sequence[Tensor]) -> list[list[Tensor]]:
    """Neighbours whose weights can be stacked: of one format, all but the last of whole units of its blocks, and all
    with a bias or none."""
    found: list[list[Tensor]] = []
    for node in products:
        weight = node.src[0]
        format = format_of(weight.type, weight.name)
        last = found[-1][-1] if found else None
        before = last.src[0] if last and len(last.src) == len(node.src) else None
        if before and before.type == weight.type and format.in_units(before.row, before.rows):
            found[-1].append(node)
        else:
            found.append([node])
    return found


# Where kernels can read and write one token's activations in lane order (wgsl/common/lanes.wgsl).
_LANE_ORDER = {
    "get_rows": {"y"},
    "mul_mat_vec": {"x", "post", "sum", "y"},
    "flash_attn_vec": {"y"},
    "flash_attn_reduce": {"y"},
}


def _in_lane_order(steps: list[Step]) -> list[Step]:
    """Marks in params["lane_order"] the slots of values that products of one token read, where all kernels can."""
    inputs = [v for s in steps if s.op == "mul_mat_vec" for slot, v in s.values.items() if slot in ("x", "post")]
    read = {value for value in inputs if value.n_tokens == 1}
    uses = [(s, slot, value) for s in steps for slot, value in s.values.items()]
    plain = {value for s, slot, value in uses if slot not in _LANE_ORDER.get(s.op, ())}
    chosen = {value for value in read - plain if value.row % 32 == 0}
    return [
        replace(s, params={**s.params, "lane_order": frozenset(slot for slot, v in s.values.items() if v in chosen)})
        for s in steps
    ]
