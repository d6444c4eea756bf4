"""Tiny models of every family, made from a seed: what tensors one has is read off its graph."""

from __future__ import annotations

import math
import tempfile
from binascii import crc32
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GGMLType

from llamaweb.architectures import architecture
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from tests.blocks import quantized
from tests.tiny import add_tokenizer, vocabulary

SIZES = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": 72,
    "feed_forward_length": 90,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


@dataclass(frozen=True)
class Spec:
    """metadata: without the family's prefix, over SIZES. type: of all matrices. optional: patterns of the
    tensors that it may have and does. tensors: those that no graph tells of, with their values."""

    family: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    type: str = "F32"
    optional: tuple[str, ...] = ()
    tensors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, Any]:
        return {**SIZES, **self.metadata}


RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
MEAN = {"attention.layer_norm_epsilon": 1e-5}
EVEN = {"embedding_length": 64, "feed_forward_length": 96}  # of whole blocks, for quantized formats
LARGE = {"embedding_length": 256, "feed_forward_length": 512, "block_count": 2}  # … for those in blocks of 256
WINDOW = {"attention.sliding_window": 9, "block_count": 5}
FACTORS = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]

ALL = ("*.bias", "output.weight")

MODELS = {
    "bitnet": Spec("bitnet", RMS, optional=("*.scale",)),
    "bitnet, ternary": Spec("bitnet", RMS | LARGE, "TQ2_0"),
    "cohere2": Spec("cohere2", MEAN | WINDOW | {"logit_scale": 0.25}),
    "cohere2, Q8_0": Spec("cohere2", MEAN | EVEN | WINDOW | {"logit_scale": 0.5}, "Q8_0"),
    "exaone4": Spec("exaone4", RMS, optional=ALL),
    "exaone4, Q4_K": Spec("exaone4", RMS | LARGE, "Q4_K"),
    "gemma": Spec("gemma", RMS | {"attention.key_length": 20, "attention.value_length": 20}),
    "gemma2": Spec("gemma2", RMS | WINDOW | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0}),
    "gemma2, Q4_0": Spec("gemma2", RMS | EVEN | {"attn_logit_softcapping": 2.0}, "Q4_0"),
    "glm4": Spec("glm4", RMS | {"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 8}),
    "glm4, Q4_K": Spec("glm4", RMS | LARGE, "Q4_K", optional=ALL),
    "gpt2": Spec("gpt2", MEAN, optional=ALL),
    "gpt2, Q8_0": Spec("gpt2", MEAN | EVEN | {"attention.head_count_kv": 4}, "Q8_0"),
    "granite": Spec(
        "granite",
        RMS | {"embedding_scale": 3.0, "residual_scale": 0.55, "attention.scale": 0.35, "logit_scale": 0.8},
        optional=ALL,
    ),
    "granite, without rotation": Spec("granite", RMS | EVEN | {"logit_scale": 2.0, "rope.scaling.finetuned": False}),
    "hunyuan-dense": Spec("hunyuan-dense", RMS | EVEN),
    "hunyuan-dense, Q4_0": Spec("hunyuan-dense", RMS | EVEN, "Q4_0", optional=ALL),
    "minicpm": Spec("minicpm", RMS),
    "mistral3": Spec(
        "mistral3",
        RMS
        | {"attention.key_length": 16, "attention.value_length": 16, "attention.temperature_scale": 0.4}
        | {"rope.scaling.type": "yarn", "rope.scaling.factor": 8.0, "rope.scaling.yarn_log_multiplier": 1.0}
        | {"rope.scaling.original_context_length": 16},
    ),
    "nemotron": Spec("nemotron", MEAN, optional=ALL),
    "nemotron, Q4_K": Spec("nemotron", MEAN | LARGE, "Q4_K"),
    "olmo2": Spec("olmo2", RMS),
    "olmo2, windows": Spec("olmo2", RMS | EVEN | WINDOW, "Q8_0", optional=ALL),
    "phi3": Spec("phi3", RMS | {"rope.scaling.attn_factor": 1.13}),
    "phi3, long": Spec(
        "phi3",
        RMS | EVEN | {"rope.scaling.original_context_length": 32},
        "Q8_0",
        tensors={"rope_factors_short.weight": [1.0] * 8, "rope_factors_long.weight": FACTORS},
    ),
    "stablelm": Spec(
        "stablelm",
        MEAN | {"rope.dimension_count": 8, "attention.key_length": 20, "attention.value_length": 20},
        optional=("*ffn_norm.*", "attn_?.bias", "*norm.bias", "output.weight"),
    ),
    "stablelm, side by side": Spec(
        "stablelm", MEAN | EVEN, "Q8_0", optional=("*norm.bias", "*attn_?_norm.weight", "output.weight")
    ),
    "starcoder2": Spec("starcoder2", MEAN, optional=ALL),
}


class _Recorder(Graph):
    """A graph of a file that has whatever it is asked for."""

    def __init__(self, spec: Spec, known: Mapping[str, TensorInfo]) -> None:
        super().__init__(known, 2, "all")
        self.asked: dict[str, tuple[int, ...]] = {}
        self._spec = spec

    def has(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self._spec.optional)

    def weight(self, name: str, *shape: int) -> Tensor:
        self.asked.setdefault(name, shape)
        return Tensor(name, "weight", shape)


def tensors(spec: Spec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in ggml's order."""
    n_vocab, n_embd = len(vocabulary()[0]), spec.sizes["embedding_length"]
    known = {"token_embd.weight": (n_embd, n_vocab)}
    known |= {f"blk.{i}.attn_norm.weight": (n_embd,) for i in range(spec.sizes["block_count"])}
    known |= {name: (len(values),) for name, values in spec.tensors.items()}
    infos = {name: TensorInfo(name, GGMLType.F32, shape, 0, 0) for name, shape in known.items()}
    metadata = {f"{spec.family}.{key}": _plain(value) for key, value in spec.sizes.items()}
    header = GGUFFile(3, {"general.architecture": spec.family, **metadata}, infos, 32, 0, 0)
    family = architecture(header)
    recorder = _Recorder(spec, infos)
    family.build(recorder, family.hyperparameters(header))
    yield from recorder.asked.items()
    for name in spec.tensors:
        yield name, known[name]


def values(spec: Spec, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32, shaped (…, row length): whole numbers of a generator by the tensor's name, scaled to what it is for."""
    if name in spec.tensors:
        return np.array(spec.tensors[name], np.float32)
    random = np.random.RandomState(crc32(name.encode()))
    numbers = random.randint(-100, 101, shape[::-1]).astype(np.float32) / 100
    if name.endswith("norm.weight"):
        return 1 + np.float32(0.2) * numbers
    if name.endswith(".scale"):
        return 1 + np.float32(0.5) * np.abs(numbers)
    if len(shape) == 1:
        return np.float32(0.3) * numbers
    spread = 5 if name in ("token_embd.weight", "output.weight") else 1.7
    return numbers * np.float32(spread / math.sqrt(shape[0]))


def model(spec: Spec) -> bytes:
    """The model's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        writer = gguf.GGUFWriter(path, spec.family)
        writer.add_name("tiny")
        for key, value in spec.sizes.items():
            _add(writer, f"{spec.family}.{key}", value)
        add_tokenizer(writer, *vocabulary())
        for name, shape in tensors(spec):
            vector = len(shape) == 1 or name.endswith("norm.weight") or name.startswith("position")
            type = GGMLType.F32 if vector else GGMLType[spec.type]
            writer.add_tensor(name, quantized(values(spec, name, shape), type), raw_dtype=type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def _plain(value: Any) -> Any:
    return np.array(value) if isinstance(value, list) else value


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
