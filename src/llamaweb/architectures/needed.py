"""What tensors a file of a family has, read off the family's graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llamaweb.architectures import architecture
from llamaweb.architectures.embeddings import pooling_of
from llamaweb.ggml import GGMLType
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from llamaweb.pooling import Pooling


def needed(
    family: str,
    metadata: Mapping[str, Any],
    n_vocab: int,
    has: Callable[[str], bool] = lambda name: False,
    more: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes, in ggml's order, of a model with this metadata (by `key_of`). has: whether it
    has a tensor that it may have; more: tensors that it has besides, which no graph tells of."""
    n_embd = metadata["embedding_length"]
    known = {"token_embd.weight": (n_embd, n_vocab), **(more or {})}
    known |= {f"blk.{i}.attn_norm.weight": (n_embd,) for i in range(metadata["block_count"])}
    infos = {name: TensorInfo(name, GGMLType.F32, shape, 0, 0) for name, shape in known.items()}
    keys = {key_of(family, key): np.array(v) if isinstance(v, list) else v for key, v in metadata.items()}
    header = GGUFFile(3, {"general.architecture": family, **keys}, infos, 32, 0, 0)
    module = architecture(header)
    hparams = module.hyperparameters(header)
    graph = _Recorder(infos, has, pooling_of(header, hparams))
    module.build(graph, hparams)
    return {**graph.asked, **(more or {})}


def key_of(family: str, key: str) -> str:
    """A key with the family's prefix, if it is not the tokenizer's."""
    return key if key.startswith("tokenizer.") else f"{family}.{key}"


class _Recorder(Graph):
    """A graph of a file that has whatever it is asked for."""

    def __init__(self, known: Mapping[str, TensorInfo], has: Callable[[str], bool], pooling: Pooling | None) -> None:
        super().__init__(known, 2, "all", pooling)
        self.asked: dict[str, tuple[int, ...]] = {}
        self._has = has

    def has(self, name: str) -> bool:
        return self._has(name)

    def weight(self, name: str, *shape: int) -> Tensor:
        self.asked.setdefault(name, shape)
        return Tensor(name, "weight", shape)
