"""The computation of a model as data: tensors and operations, named as in ggml, for one batch shape.

A graph is built by an architecture from a GGUF header alone and read by the planner. It says what is computed, never
how: nothing here knows of kernels, buffers or devices. Shapes are in ggml's order, the row length first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamaweb.errors import ModelFileError
from llamaweb.ggml import GGMLType
from llamaweb.model.gguf_file import TensorInfo, plain_shape
from llamaweb.rope import Rope

VECTORS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)  # what norms, biases and factors of a rotation may be in


@dataclass(frozen=True, eq=False)
class Tensor:
    """One value of the graph. `op` is "weight" for a tensor of the file, "input" for what the caller provides."""

    name: str
    op: str
    shape: tuple[int, ...]
    src: tuple[Tensor, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    type: GGMLType = GGMLType.F32

    @property
    def row(self) -> int:
        return self.shape[0]

    @property
    def rows(self) -> int:
        return self.shape[1] if len(self.shape) > 1 else 1


class Graph:
    """Builds a graph for `n_tokens` tokens of one sequence, `outputs` being "last" or "all" of their logits."""

    def __init__(self, tensors: Mapping[str, TensorInfo], n_tokens: int, outputs: str = "last") -> None:
        self.n_tokens = n_tokens
        self.outputs = outputs
        self.nodes: list[Tensor] = []
        self.output_index = 0  # of the first node that serves the logits alone
        self._tensors = tensors
        self._weights: dict[str, Tensor] = {}
        self.tokens = Tensor("tokens", "input", (n_tokens,))

    def has(self, name: str) -> bool:
        return name in self._tensors

    def weight(self, name: str, *shape: int) -> Tensor:
        """A tensor of the file; raises ModelFileError if it is missing or has another shape."""
        if name not in self._weights:
            info = self._tensors.get(name)
            if info is None:
                raise ModelFileError(f"The file has no tensor {name}, which its architecture needs; fetch it again.")
            if info.shape != plain_shape(shape):
                raise ModelFileError(
                    f"Tensor {name} has shape {list(info.shape)}, but the file's metadata asks for {list(shape)}; "
                    "the file contradicts itself."
                )
            self._weights[name] = Tensor(name, "weight", shape, type=info.type)
        return self._weights[name]

    def optional_weight(self, name: str, *shape: int) -> Tensor | None:
        return self.weight(name, *shape) if self.has(name) else None

    @property
    def unread(self) -> list[str]:
        """Tensors of the file that nothing of the graph reads."""
        ropes = {node.params["rope"].factors for node in self.nodes if "rope" in node.params}
        return [name for name in self._tensors if name not in self._weights and name not in ropes]

    def get_rows(self, table: Tensor, name: str) -> Tensor:
        """Rows of `table` at the input tokens: (row, n_tokens)."""
        return self._add(name, "get_rows", (table.row, self.n_tokens), table, self.tokens)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, name: str) -> Tensor:
        """x / rms(x) * weight, along each row, or along each head of it, where the weight is as long as a head."""
        return self._add(name, "rms_norm", x.shape, x, weight, eps=eps)

    def mul_mat(self, weight: Tensor, x: Tensor, name: str, bias: Tensor | None = None) -> Tensor:
        """Rows of `weight` (K, N) times rows of `x` (K, T), plus `bias` (N): (N, T)."""
        src = (weight, x) if bias is None else (weight, x, bias)
        return self._add(name, "mul_mat", (weight.rows, x.rows), *src)

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return self._add(name, "add", x.shape, x, y)

    def scale(self, x: Tensor, factor: float, name: str) -> Tensor:
        return self._add(name, "scale", x.shape, x, factor=factor)

    def swiglu(self, gate: Tensor, up: Tensor, name: str) -> Tensor:
        """silu(gate) * up"""
        return self._add(name, "swiglu", gate.shape, gate, up)

    def geglu(self, gate: Tensor, up: Tensor, name: str) -> Tensor:
        """gelu(gate) * up, with gelu's tanh approximation (arXiv:1606.08415)"""
        return self._add(name, "geglu", gate.shape, gate, up)

    def flash_attn(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        layer: int,
        head_dim: int,
        rope: Rope,
        scale: float,
        name: str,
        window: int = 0,
    ) -> Tensor:
        """Rotates q and k, appends k and v to the layer's cache, and attends causally to it: (q.row, T).

        window: how many of the last tokens, itself included, a token sees; 0: all.
        """
        params = {"layer": layer, "head_dim": head_dim, "rope": rope, "scale": scale, "window": window}
        return self._add(name, "flash_attn", q.shape, q, k, v, **params)

    def output_rows(self, x: Tensor) -> Tensor:
        """The rows whose logits are wanted: all, or the last token's alone."""
        self.output_index = len(self.nodes)
        if self.outputs == "all" or self.n_tokens == 1:
            return x
        return self._add("output_rows", "last_row", (x.row, 1), x)

    def sample(self, logits: Tensor) -> Tensor:
        """The next token out of the logits, or (outputs "all") each row's log-probability of its target."""
        op = "cross_entropy" if self.outputs == "all" else "sample"
        return self._add(op, op, (logits.rows,), logits)

    def _add(self, name: str, op: str, shape: tuple[int, ...], *src: Tensor, **params: Any) -> Tensor:
        node = Tensor(name, op, shape, src, params)
        self.nodes.append(node)
        return node
