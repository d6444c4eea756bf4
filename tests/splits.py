"""A GGUF file cut into several, as llama-gguf-split does it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFValueType


def split(model: bytes, n: int, name: str, take: Callable[[int, int], int] | None = None) -> dict[str, bytes]:
    """The files by name. take: which file (from 0) the tensor of an index, of so many, goes to."""
    take = take or (lambda index, count: index * n // count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.gguf"
        path.write_bytes(model)
        reader = gguf.GGUFReader(path)
        count = len(reader.tensors)
        files = {}
        for no in range(n):
            part = Path(folder) / f"{name}-{no + 1:05}-of-{n:05}.gguf"
            writer = gguf.GGUFWriter(part, "llama")
            if no:
                writer.kv_data[0].clear()  # the metadata is in the first file alone
            else:
                _copy_metadata(reader, writer)
            writer.add_uint16("split.no", no)
            writer.add_uint16("split.count", n)
            writer.add_int32("split.tensors.count", count)
            for index, tensor in enumerate(reader.tensors):
                if take(index, count) == no:
                    writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            files[part.name] = part.read_bytes()
        del reader
        return files


def _copy_metadata(reader: gguf.GGUFReader, writer: gguf.GGUFWriter) -> None:
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
