"""Tiny models with single facts of them changed: files as people have them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType

from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from tests import tiny

ARRAY = GGUFValueType.ARRAY
PLAIN = tiny.TinyLlama()
Value = tuple[Any, GGUFValueType] | tuple[Any, GGUFValueType, GGUFValueType]


def crafted(
    changes: Mapping[str, Value] = {},
    *,
    spec: tiny.Tiny = PLAIN,
    without: Iterable[str] = (),
    more_tokens: Sequence[str] = (),
    rows: int | None = None,
    change: Callable[[str, np.ndarray], np.ndarray] = lambda name, data: data,
) -> bytes:
    """A GGUF file of the spec. changes: keys with value, type and, of an array, its items' type; `without` leaves keys
    out. rows: of the embedding, as many as tokens if None. change: what becomes of a tensor's data."""
    tokens, merges = tiny.vocabulary(spec.n_vocab)
    tokens += more_tokens
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crafted.gguf"
        writer = gguf.GGUFWriter(path, spec.family)
        spec.add_hyperparameters(writer)
        tiny._add_tokenizer(writer, spec, "smollm", tokens, merges)
        for key in {*without, *changes}:
            writer.kv_data[0].pop(key, None)
        for key, value in changes.items():
            writer.add_key_value(key, *value)
        for name, data in spec.tensors(rows or len(tokens)):
            writer.add_tensor(name, change(name, data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def header(data: bytes) -> GGUFFile:
    return asyncio.run(read_header(BytesSource(data, "crafted.gguf")))
