"""Models of a real shape with random weights: speed and memory do not depend on the values, and nothing is fetched.

`synthetic:SHAPE:FORMAT` on the command line, for example synthetic:llama-3.2-1b:Q4_0. The tokenizer is the default
model's, padded with unused tokens. The file is written piece by piece, so that its size needs no memory.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Self

import gguf
import numpy as np
from gguf.gguf_writer import WriterState

from llamaweb.architectures.needed import needed
from llamaweb.errors import ModelFileError
from llamaweb.ggml import GGML_QUANT_SIZES
from llamaweb.ggml import GGMLType as T
from llamaweb.kernels.random_blocks import FLOATS, TYPES, random_blocks
from llamaweb.model.source import check_range
from llamaweb.strings import Strings

PREFIX = "synthetic:"
ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
RECIPE = 4  # raise when files of old should not be used any more
_PIECE = 1 << 16  # blocks of random weights, repeated
_SPREAD = 0.02  # about a real model's
_THROUGHOUT = (*FLOATS, T.Q1_0, T.Q2_0)  # formats that models have in their embeddings, too
_IN_FLOATS = {"*lerp_fused.*": T.F32, "*time_mix_w[12].*": T.F32, "*time_mix_[avg][12].*": T.F16}  # in every model


@dataclass(frozen=True)
class Shape:
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    head_dim: int
    rope_base: float
    tied: bool = True
    family: str = "llama"
    more: Mapping[str, Any] = field(default_factory=dict)  # metadata, without the family's prefix
    optional: tuple[str, ...] = ()  # patterns of tensors that it may have and does
    types: Mapping[str, T] = field(default_factory=dict)  # by patterns of tensors, whatever the model's format is
    factors: int = 0  # of its rotation's frequencies

    @property
    def metadata(self) -> dict[str, Any]:
        """Under the family's prefix."""
        return {
            "block_count": self.n_layer,
            "context_length": 8192,
            "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.layer_norm_epsilon": 1e-5,
            "rope.freq_base": self.rope_base,
            "rope.dimension_count": self.head_dim,
            "vocab_size": self.n_vocab,
            **self.more,
        }


_LFM2 = {"attention.head_count_kv": [8 if i in (2, 5, 8, 10, 12, 14) else 0 for i in range(16)], "shortconv.l_cache": 3}
_GRANITE_H = {
    "attention.head_count_kv": [4 if i % 10 == 5 else 0 for i in range(40)],
    "embedding_scale": 12.0,
    "residual_scale": 0.22,
    "attention.scale": 1 / 128,
    "logit_scale": 6.0,
    "rope.scaling.finetuned": False,
    "ssm.inner_size": 3072,
    "ssm.state_size": 128,
    "ssm.conv_kernel": 4,
    "ssm.time_step_rank": 48,
    "ssm.group_count": 1,
}
_QWEN35 = {
    "rope.dimension_count": 64,
    "rope.dimension_sections": [11, 11, 10, 0],
    "ssm.inner_size": 2048,
    "ssm.state_size": 128,
    "ssm.conv_kernel": 4,
    "ssm.time_step_rank": 16,
    "ssm.group_count": 16,
}
_RWKV7 = {
    "attention.head_count": 0,
    "wkv.head_size": 64,
    "attention.decay_lora_rank": 96,
    "attention.iclr_lora_rank": 96,
    "attention.value_residual_mix_lora_rank": 64,
    "attention.gate_lora_rank": 256,
}
_YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 16.0, "rope.scaling.yarn_log_multiplier": 1.0}
_MINISTRAL = {**_YARN, "rope.scaling.original_context_length": 16384, "attention.temperature_scale": 0.1}
_GEMMA4 = {
    "feed_forward_length": [6144] * 15 + [12288] * 20,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.key_length_swa": 256,
    "attention.value_length_swa": 256,
    "attention.sliding_window": 512,
    "attention.sliding_window_pattern": [(i + 1) % 5 != 0 for i in range(35)],
    "attention.shared_kv_layers": 20,
    "embedding_length_per_layer_input": 256,
    "final_logit_softcapping": 30.0,
    "rope.freq_base_swa": 1e4,
    "rope.dimension_count_swa": 256,
}
_GEMMA4_TENSORS = ("*.attn_v.weight", "*.layer_output_scale.weight")
_QWEN3_MOE = {"expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768}
_GPT_OSS = {
    "expert_count": 32,
    "expert_used_count": 4,
    "expert_feed_forward_length": 2880,
    "attention.sliding_window": 128,
    **_YARN,
    "rope.scaling.factor": 32.0,
    "rope.scaling.original_context_length": 4096,
}
_DEEPSEEK_V2_LITE = {
    "attention.kv_lora_rank": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "attention.value_length": 512,
    "rope.dimension_count": 64,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 40.0,
    "rope.scaling.original_context_length": 4096,
    "rope.scaling.yarn_log_multiplier": 0.0707,
    "expert_count": 64,
    "expert_used_count": 6,
    "expert_feed_forward_length": 1408,
    "expert_shared_count": 2,
    "leading_dense_block_count": 1,
}
SHAPES = {
    "tiny": Shape(2, 192, 512, 3, 1, 49152, 64, 1e4),
    "smollm2-135m": Shape(30, 576, 1536, 9, 3, 49152, 64, 1e5),
    "qwen2.5-0.5b-like": Shape(24, 896, 4864, 14, 2, 151936, 64, 1e6),
    "llama-3.2-1b": Shape(16, 2048, 8192, 32, 8, 128256, 64, 5e5),
    "llama-3.2-3b": Shape(28, 3072, 8192, 24, 8, 128256, 128, 5e5),
    "llama-3.1-8b": Shape(32, 4096, 14336, 32, 8, 128256, 128, 5e5, tied=False),
    "qwen3-0.6b": Shape(28, 1024, 3072, 16, 8, 151936, 128, 1e6, family="qwen3"),
    "bonsai-1.7b": Shape(28, 2048, 6144, 16, 8, 151936, 128, 1e6, family="qwen3"),
    "smollm3-3b": Shape(36, 2048, 11008, 16, 4, 128256, 128, 5e6, family="smollm3"),
    "lfm2.5-350m": Shape(16, 1024, 4608, 16, 8, 65536, 64, 1e6, family="lfm2", more=_LFM2),
    "granite-4.0-h-1b": Shape(40, 1536, 4096, 12, 4, 100352, 128, 1e4, family="granitehybrid", more=_GRANITE_H),
    "qwen3.5-2b": Shape(24, 2048, 6144, 8, 2, 248320, 256, 1e7, family="qwen35", more=_QWEN35),
    "rwkv7-1.5b": Shape(24, 2048, 8192, 32, 32, 65536, 64, 1e4, tied=False, family="rwkv7", more=_RWKV7),
    "gemma-4-e2b": Shape(
        35, 1536, 6144, 8, 1, 262144, 512, 1e6, family="gemma4", more=_GEMMA4, optional=_GEMMA4_TENSORS, factors=256
    ),
    "qwen3-30b-a3b": Shape(48, 2048, 6144, 32, 4, 151936, 128, 1e6, tied=False, family="qwen3moe", more=_QWEN3_MOE),
    "deepseek-v2-lite": Shape(
        27,
        2048,
        10944,
        16,
        1,
        102400,
        576,
        1e4,
        tied=False,
        family="deepseek2",
        more=_DEEPSEEK_V2_LITE,
        types={"*.attn_k_b.weight": T.Q8_0},
    ),
    "gpt-oss-20b": Shape(
        24,
        2880,
        2880,
        64,
        8,
        201088,
        64,
        1.5e5,
        tied=False,
        family="gpt-oss",
        more=_GPT_OSS,
        optional=("*.bias",),
        types={"*.attn_*.weight": T.Q8_0},
    ),
    "ministral-3b": Shape(26, 3072, 9216, 32, 8, 131072, 128, 1e6, family="mistral3", more=_MINISTRAL),
}


def parse(model: str) -> tuple[Shape, T, str]:
    """Shape, format and file name of `synthetic:SHAPE:FORMAT`; raises ModelFileError that lists what there is."""
    shape, _, format = model.removeprefix(PREFIX).partition(":")
    format = format or "Q4_0"
    if shape not in SHAPES:
        raise ModelFileError(f"There is no synthetic model {shape!r}; there are {', '.join(SHAPES)}.")
    formats = {type.name: type for type in TYPES}
    if format not in formats:
        raise ModelFileError(f"There are no synthetic weights in {format!r}; there are {', '.join(formats)}.")
    return SHAPES[shape], formats[format], f"synthetic-{shape}-{format}.gguf"


def header(shape: Shape, format: T, tokenizer: Mapping[str, Any]) -> tuple[bytes, int]:
    """What stands before the weights in the file that `write` writes, and the length of that file."""
    writer: Any = gguf.GGUFWriter(None, shape.family)
    _metadata(writer, shape, tokenizer)
    tensors = list(_tensors(shape, format))
    for name, size, type in tensors:
        writer.add_tensor_info(name, size[::-1], np.dtype(np.float32), _bytes(size, type), raw_dtype=type)
    out: Any = io.BytesIO()
    writer.fout, writer.state = [out], WriterState.EMPTY  # in place of a file that it would open
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    data = out.getvalue()
    data += bytes(-len(data) % ALIGNMENT)
    return data, len(data) + weights_bytes(shape, format)


def weights_bytes(shape: Shape, format: T) -> int:
    """The length of the file without its header, which is small beside it."""
    return sum(-(-_bytes(size, type) // ALIGNMENT) * ALIGNMENT for _, size, type in _tensors(shape, format))


def write(
    path: Path,
    shape: Shape,
    format: T,
    tokenizer: Mapping[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """A GGUF file of `shape`, its layers in `format` (Q4_0 where the rows are too short for it), its embeddings in
    Q6_K or Q8_0, or in it where models have it there, too. `tokenizer`: metadata of a model, whose tokenizer is taken.
    `progress` is told the bytes that are written."""
    data, _ = header(shape, format, tokenizer)
    random = np.random.default_rng(0)
    with open(path, "wb") as out:
        at = out.write(data)  # counted from here on: under Pyodide a file does not know a position beyond 2 GB
        for name, size, type in _tensors(shape, format):
            if len(size) > 1 and not name.endswith("ssm_a"):
                at += _weights(out, math.prod(size), type, random)
            else:  # what fades by itself does so by a negative number
                one = np.float32(-1 if name.endswith("ssm_a") else 1)
                at += out.write(np.full(math.prod(size), one).tobytes())
            at += out.write(bytes(-at % ALIGNMENT))
            progress(at)


class HeaderSource:
    """The file that `write` would write, as far as the end of its header: `Source` of what needs no weights."""

    sound = True

    def __init__(self, name: str, shape: Shape, format: T, tokenizer: Mapping[str, Any]) -> None:
        self.name = name
        self._data, self._size = header(shape, format, tokenizer)

    async def size(self) -> int:
        return self._size

    async def read(self, offset: int, length: int) -> bytes:
        check_range(self.name, offset, length, self._size)
        return self._data[offset : offset + length].ljust(length, b"\0")

    def sibling(self, name: str) -> Self:
        raise ModelFileError(f"{self.name} is a single file; there is no {name} beside it.")


def add_tokenizer(writer: Any, metadata: Mapping[str, Any], n_vocab: int | None = None) -> None:
    """The tokenizer of a model's metadata into a GGUF writer, cut off or padded to `n_vocab` tokens."""
    for name, value in metadata.items():
        if not name.startswith("tokenizer."):
            continue
        value = value.tolist() if isinstance(value, np.ndarray | Strings) else value
        if n_vocab and name == "tokenizer.ggml.tokens":
            value = [*value[:n_vocab], *(f"<|unused{i}|>".encode() for i in range(len(value), n_vocab))]
        elif n_vocab and name in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            fill = int(gguf.TokenType.UNUSED) if name.endswith("token_type") else 0.0
            value = [*value[:n_vocab], *[fill] * (n_vocab - len(value))]
        _add(writer, name, value)


def _metadata(writer: Any, shape: Shape, tokenizer: Mapping[str, Any]) -> None:
    add_tokenizer(writer, tokenizer, shape.n_vocab)
    for key, value in shape.metadata.items():
        _add(writer, f"{shape.family}.{key}", value)


def _add(writer: Any, name: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(name, value)


def _tensors(shape: Shape, format: T) -> Iterator[tuple[str, tuple[int, ...], T]]:
    """Name, shape in ggml's order and format of every tensor."""
    matrix = format if shape.n_embd % GGML_QUANT_SIZES[format][0] == 0 else T.Q4_0
    table = matrix if matrix in _THROUGHOUT else T.Q6_K if shape.n_embd % 256 == 0 else T.Q8_0
    optional, types = (*shape.optional, *(() if shape.tied else ("output.weight",))), {**_IN_FLOATS, **shape.types}

    def has(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in optional)

    more = {"rope_freqs.weight": (shape.factors,)} if shape.factors else {}
    for name, size in needed(shape.family, shape.metadata, shape.n_vocab, has, more).items():
        vector = len(size) == 1 or size[0] < 32 or math.prod(size[1:]) == 1 or name.endswith(".bias")
        usual = table if name in ("token_embd.weight", "output.weight", "per_layer_token_embd.weight") else matrix
        of_name = next((type for pattern, type in types.items() if fnmatch(name, pattern)), usual)
        yield name, size, T.F32 if vector else of_name


def _bytes(size: tuple[int, ...], type: T) -> int:
    block, of_block = GGML_QUANT_SIZES[type]
    return math.prod(size) // block * of_block


def _weights(out: Any, count: int, type: T, random: np.random.Generator) -> int:
    """Writes `count` weights, a random piece over and over; gives the bytes written."""
    block, size = GGML_QUANT_SIZES[type]
    blocks = count // block
    piece = random_blocks(type, min(blocks, _PIECE) * block, _SPREAD, random).tobytes()
    return sum(out.write(piece[: min(_PIECE, blocks - first) * size]) for first in range(0, blocks, _PIECE))
