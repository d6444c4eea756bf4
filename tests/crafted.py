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
    llama = isinstance(spec, tiny.TinyLlama)
    tokens, merges = tiny.vocabulary(spec.n_vocab)
    tokens += more_tokens
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crafted.gguf"
        writer = gguf.GGUFWriter(path, "llama" if llama else "gemma3")
        (tiny._add_llama if llama else tiny._add_gemma3)(writer, spec)  # type: ignore[operator]
        tiny._add_tokenizer(writer, spec, "smollm", tokens, merges)
        for key in {*without, *changes}:
            writer.kv_data[0].pop(key, None)
        for key, value in changes.items():
            writer.add_key_value(key, *value)
        made = tiny.tensors if llama else tiny.gemma3_tensors
        for name, data in made(spec, rows or len(tokens)):  # type: ignore[operator]
            writer.add_tensor(name, change(name, data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def header(data: bytes) -> GGUFFile:
    return asyncio.run(read_header(BytesSource(data, "crafted.gguf")))
