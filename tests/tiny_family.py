"""A tiny model of any family, made from a seed: what tensors one has is read off its graph."""

from __future__ import annotations

import math
import re
from binascii import crc32
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import gguf
import numpy as np

from llamaweb.architectures.needed import key_of, needed

SIZES = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": 72,
    "feed_forward_length": 90,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}
# What is in F32 in every file
IN_FLOATS = (
    *("*norm.weight", "*.bias", "*ffn_gate_inp*", "position_embd*", "token_types*"),
    *("*conv.weight", "*conv1d.weight", "*ssm_a", "*ssm_d", "*lerp_*"),
)


@dataclass(frozen=True)
class TinyFamily:
    """A spec as tests.tiny.Tiny says. metadata: without the family's prefix, over SIZES. optional: patterns of the
    tensors that it may have and does. more: tensors that no graph tells of, with their values. fused: q, k and v are
    one tensor."""

    family: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    type: str = "F32"
    optional: tuple[str, ...] = ()
    more: Mapping[str, list[float]] = field(default_factory=dict)
    fused: bool = False
    n_vocab: int | None = None
    types: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(IN_FLOATS, "F32"))
    vectors: str = "F32"
    add_bos: bool = True

    @property
    def sizes(self) -> dict[str, Any]:
        return {**SIZES, **self.metadata}

    def add_hyperparameters(self, writer: gguf.GGUFWriter) -> None:
        for key, value in self.sizes.items():
            _add(writer, key_of(self.family, key), value)

    def tensors(self, n_vocab: int) -> Iterator[tuple[str, np.ndarray]]:
        made = {name: self._values(name, shape) for name, shape in self._shapes(n_vocab).items()}
        for name, values in made.items():
            parts = [name.replace(".attn_q.", f".attn_{part}.") for part in "qkv"]
            if not self.fused or not re.search(r"\.attn_[qkv]\.", name):
                yield name, values
            elif ".attn_q." in name:
                yield name.replace(".attn_q.", ".attn_qkv."), np.concatenate([made[part] for part in parts])

    def _shapes(self, n_vocab: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes, in ggml's order."""
        more = {name: (len(values),) for name, values in self.more.items()}
        return needed(self.family, self.sizes, n_vocab, self._has, more)

    def _has(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.optional)

    def _values(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Whole numbers of a generator by the tensor's name, scaled to what it is for."""
        if name in self.more:
            return np.array(self.more[name], np.float32)
        random = np.random.RandomState(crc32(name.encode()))
        numbers = random.randint(-100, 101, shape[::-1]).astype(np.float32) / 100
        if name.endswith("ssm_a"):
            return -0.3 - np.float32(0.2) * np.abs(numbers)
        if "altup_router.w" in name:  # whose products are divided by the length of a row
            return numbers * np.float32(2 * math.sqrt(shape[0]))
        if name.endswith("_coef.weight"):
            return np.float32(0.1) * numbers
        if name.endswith(("norm.weight", "_norm")):
            return 1 + np.float32(0.2) * numbers
        if name.endswith((".scale", "_scale.weight")):
            return 1 + np.float32(0.5) * np.abs(numbers)
        if len(shape) == 1 or name.endswith("ssm_d"):
            return np.float32(0.3) * numbers
        spread = 5 if name in ("token_embd.weight", "output.weight") else 1.7
        return numbers * np.float32(spread / math.sqrt(shape[0]))


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
