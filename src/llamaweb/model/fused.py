"""Tensors that a converter has stacked along their rows (`--fuse-qkv` of llama.cpp's), as the single ones they were.

A quantized row is a run of bytes of its own, so that a part of the rows is a tensor as any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llamaweb.ggml import GGML_QUANT_SIZES
from llamaweb.model.gguf_file import GGUFFile, TensorInfo, plain_shape

_FUSED, _PARTS = "attn_qkv", ("attn_q", "attn_k", "attn_v")


def unfused(file: GGUFFile) -> GGUFFile:
    """The file with `blk.N.attn_qkv` as `attn_q`, `attn_k` and `attn_v`, their weights and their biases.

    As many rows are of q as `attn_output` takes values, and half of the others of k and of v each. What does not come
    out so is left as it is, for the family to refuse.
    """
    tensors: dict[str, TensorInfo] = {}
    for name, info in file.tensors.items():
        layer, found, kind = name.rpartition(f".{_FUSED}.")
        output = file.tensors.get(f"{layer}.attn_output.weight")
        parts = list(_parts(info, output.shape[0])) if found and output else []
        names = [f"{layer}.{part}.{kind}" for part in _PARTS]
        if parts and not any(each in file.tensors for each in names):
            tensors |= {each: replace(part, name=each) for each, part in zip(names, parts, strict=True)}
        else:
            tensors[name] = info
    return replace(file, tensors=tensors)


def _parts(info: TensorInfo, q_rows: int) -> Iterator[TensorInfo]:
    """The rows of q, k and v; of a bias, which has a value for each, its values. Nothing if that does not come out."""
    *row, rows = info.shape
    others = rows - q_rows
    block, block_bytes = GGML_QUANT_SIZES[info.type]
    if len(row) > 1 or others <= 0 or others % 2 or (not row and block > 1):
        return
    row_bytes = (row[0] if row else 1) // block * block_bytes
    first = 0
    for count in (q_rows, others // 2, others // 2):
        shape = plain_shape((*row, count))
        yield replace(info, shape=shape, offset=info.offset + first * row_bytes, nbytes=count * row_bytes)
        first += count
