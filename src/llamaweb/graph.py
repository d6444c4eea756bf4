"""The computation of a model as data: tensors and operations, named as in ggml, for one batch shape.

A graph is built by an architecture from a GGUF header alone and read by the planner. It says what is computed, never
how: nothing here knows of kernels, buffers or devices. Shapes are in ggml's order, the row length first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llamaweb.errors import LlamaWebError, ModelFileError
from llamaweb.ggml import GGMLType
from llamaweb.model.gguf_file import TensorInfo, plain_shape
from llamaweb.pooling import Pooling

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
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        return math.prod(self.shape[1:])


class Graph:
    """Builds a graph for `n_tokens` tokens of one sequence, `outputs` being "last" or "all" of their logits; or, with a
    pooling, of several whole texts, whose embeddings are wanted."""

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        n_tokens: int,
        outputs: str = "last",
        pooling: Pooling | None = None,
    ) -> None:
        self.n_tokens = n_tokens
        self.outputs = outputs
        self.pooling = pooling
        self.nodes: list[Tensor] = []
        self.output_index = 0  # of the first node that serves the logits, or pooled rows, alone
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
                raise ModelFileError(
                    f"The file has no tensor {name} of shape {list(plain_shape(shape))}, which its architecture needs; "
                    "fetch it again."
                )
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
        ropes = {name for node in self.nodes if "rope" in node.params for name in node.params["rope"].tensors}
        return [name for name in self._tensors if name not in self._weights and name not in ropes]

    def node(self, op: str, name: str, shape: tuple[int, ...], src: tuple[Tensor, ...], **params: Any) -> Tensor:
        """Adds an operation; llamaweb.operations has a function for each."""
        node = Tensor(name, op, shape, src, params)
        self.nodes.append(node)
        return node


def misfit(name: str, what: str) -> LlamaWebError:
    """What is said of operands that a family put together wrongly; name: of the operation's result."""
    return LlamaWebError(f"The graph's {name} cannot be computed: {what}; correct the family that builds it.")


def rows_of(weight: Tensor, first: int, rows: int) -> Tensor:
    """Of a weight's matrices (K, N, …), each one's rows `first` to `first + rows - 1`: (K, rows, …)."""
    row, _, *more = weight.shape
    params = {"of": weight, "first": first}
    return Tensor(
        f"{weight.name}[{first}:{first + rows}]", "weight", (row, rows, *more), params=params, type=weight.type
    )
