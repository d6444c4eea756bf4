"""Tiny random models as GGUF bytes, a spec a family: real files in every way but their size.

The same spec gives the same weights with any numpy (RandomState's streams are frozen), in every format the same values
before quantization, so that golden files need only hold the spec.
"""

from __future__ import annotations

import fnmatch
import tempfile
from binascii import crc32
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import gguf
import numpy as np
from gguf import RopeScalingType, TokenType

from llamaweb.ggml import GGMLType, dequantize
from tests.blocks import quantized

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_WORDS = ("the", "and", "ing", "er", "on", "re", "at", "in", "en", "or", "is", "it", "ed", "he", "ou", "an", "es", "to")


class Tiny(Protocol):
    """What a family's spec of a tiny model has.

    type: format of all matrices; `types` overrides it by patterns of names, e.g. {"*ffn_down*": "Q8_0"}. vectors: that
    of all norms, biases and factors of the rotation. n_vocab: padded with unused tokens if more.
    """

    family: str
    n_vocab: int | None
    type: str
    types: Mapping[str, str]
    vectors: str
    add_bos: bool

    def add_hyperparameters(self, writer: gguf.GGUFWriter) -> None: ...

    def tensors(self, n_vocab: int) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor's name and float32 values, shaped (rows, row length), before quantization."""
        ...


def tiny_model(spec: Tiny, *, pre: str = "smollm", dequantized: bool = False) -> bytes:
    """A GGUF file of the spec, with a byte-level BPE tokenizer of the given pre-tokenizer, whatever the family's.

    dequantized: the same weights, in F32: what a product without quantized activations gives.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        writer = gguf.GGUFWriter(path, spec.family)
        tokens, merges = vocabulary(spec.n_vocab)
        writer.add_name("tiny")
        spec.add_hyperparameters(writer)
        _add_tokenizer(writer, spec, pre, tokens, merges)
        for name, values in spec.tensors(len(tokens)):
            kind = tensor_type(spec, name, values)
            data = quantized(values, kind)
            if dequantized:
                data, kind = dequantize(data, kind), GGMLType.F32
            # As signed bytes: of others gguf looks up how they are blocks, and knows not every format.
            writer.add_tensor(name, data.view(np.int8), raw_shape=values.shape, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def tensor_type(spec: Tiny, name: str, values: np.ndarray) -> GGMLType:
    """A tensor's format: vectors have one of their own, matrices follow the last pattern that fits."""
    if values.ndim == 1:
        return GGMLType[spec.vectors]
    fitting = [kind for pattern, kind in spec.types.items() if fnmatch.fnmatch(name, pattern)]
    return GGMLType[fitting[-1] if fitting else spec.type]


class Random:
    """Named random tensors of a seed: the same values whatever else the model has."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def values(self, name: str, *shape: int, spread: float, mean: float = 0.0) -> tuple[str, np.ndarray]:
        rng = np.random.RandomState([self._seed, crc32(name.encode())])
        return name, (mean + spread * rng.standard_normal(shape)).astype(np.float32)

    def matrix(self, name: str, rows: int, length: int) -> tuple[str, np.ndarray]:
        return self.values(name, rows, length, spread=length**-0.5)

    def norm(self, name: str, length: int, mean: float = 1.0) -> tuple[str, np.ndarray]:
        return self.values(name, length, spread=0.1, mean=mean)


def add_sizes(writer: gguf.GGUFWriter, spec: Any) -> None:
    writer.add_context_length(spec.n_ctx)
    writer.add_embedding_length(spec.n_embd)
    writer.add_block_count(spec.n_layer)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    if spec.head_dim is not None:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_eps)


@dataclass(frozen=True)
class TinyLlama:
    """What a tiny model is like. Quantized rows need multiples of 32: n_embd, n_ff and n_head * head_dim.

    head_dim: n_embd // n_head if None. rope_dims: head_dim if None (llama.cpp loads nothing else for llama).
    family: general.architecture of what has a llama's shape. head_norms: of queries and keys.
    scaling: None, "linear" or "yarn", by `factor` over `n_ctx_orig` tokens. sections: of the rotation, for pictures.
    bias: of q, k and v; ffn_bias: of gate, up and down; but for names that fit a pattern of `without`. fused: q, k and
    v, of one format, are one tensor, as llama.cpp's converter has them with `--fuse-qkv`.
    """

    family: str = "llama"
    n_layer: int = 2
    n_embd: int = 64
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 96
    head_dim: int | None = None
    n_vocab: int | None = None
    n_ctx: int = 512
    type: str = "F32"
    types: Mapping[str, str] = field(default_factory=dict)
    vectors: str = "F32"
    tied: bool = True
    bias: bool = False
    ffn_bias: bool = False
    without: Sequence[str] = ()
    fused: bool = False
    rms_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_dims: int | None = None
    rope_freqs: bool = False
    sections: Sequence[int] = ()
    head_norms: bool = False
    scaling: str | None = None
    factor: float = 1.0
    n_ctx_orig: int | None = None
    add_bos: bool = True
    seed: int = 0

    def add_hyperparameters(self, writer: gguf.GGUFWriter) -> None:
        add_sizes(writer, self)
        writer.add_rope_dimension_count(self.rope_dims or self.head_dim or self.n_embd // self.n_head)
        writer.add_rope_freq_base(self.rope_base)
        if self.scaling is not None:
            writer.add_rope_scaling_type(RopeScalingType(self.scaling))
            writer.add_rope_scaling_factor(self.factor)
        if self.n_ctx_orig is not None:
            writer.add_rope_scaling_orig_ctx_len(self.n_ctx_orig)
        if self.sections:
            writer.add_rope_dimension_sections(list(self.sections))

    def tensors(self, n_vocab: int) -> Iterator[tuple[str, np.ndarray]]:
        stacked: dict[str, list[np.ndarray]] = {}
        for name, values in self._unfused(n_vocab):
            layer, found, part = name.rpartition(".attn_")
            if any(fnmatch.fnmatch(name, pattern) for pattern in self.without):
                continue
            which, _, kind = part.partition(".")
            if not (self.fused and found and which in "qkv"):
                yield name, values
                continue
            stacked.setdefault(kind, []).append(values)
            if which == "v":
                yield f"{layer}.attn_qkv.{kind}", np.concatenate(stacked.pop(kind))

    def _unfused(self, n_vocab: int) -> Iterator[tuple[str, np.ndarray]]:
        head_dim = self.head_dim or self.n_embd // self.n_head
        q_dim, kv_dim = self.n_head * head_dim, self.n_head_kv * head_dim
        random = Random(self.seed)
        logit_spread = 3 * self.n_embd**-0.5  # so that the most likely token stands out
        yield random.values("token_embd.weight", n_vocab, self.n_embd, spread=logit_spread if self.tied else 1.0)
        if self.rope_freqs:
            n_rot = self.rope_dims or head_dim
            yield "rope_freqs.weight", np.geomspace(1.0, 8.0, n_rot // 2).astype(np.float32)
        for layer in range(self.n_layer):
            prefix = f"blk.{layer}."
            yield random.norm(prefix + "attn_norm.weight", self.n_embd)
            for part, rows in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)):
                yield random.matrix(f"{prefix}attn_{part}.weight", rows, self.n_embd)
                if self.bias:
                    yield random.values(f"{prefix}attn_{part}.bias", rows, spread=0.5)
            if self.head_norms:
                for part in "qk":  # large enough that attention picks out tokens
                    yield random.norm(f"{prefix}attn_{part}_norm.weight", head_dim, mean=1.5)
            yield random.matrix(prefix + "attn_output.weight", self.n_embd, q_dim)
            ffn_norm = "post_attention_norm" if self.family == "seed_oss" else "ffn_norm"
            yield random.norm(f"{prefix}{ffn_norm}.weight", self.n_embd)
            for part, rows, row in (("gate", self.n_ff, self.n_embd), ("up", self.n_ff, self.n_embd)):
                yield random.matrix(f"{prefix}ffn_{part}.weight", rows, row)
                if self.ffn_bias:
                    yield random.values(f"{prefix}ffn_{part}.bias", rows, spread=0.5)
            yield random.matrix(prefix + "ffn_down.weight", self.n_embd, self.n_ff)
            if self.ffn_bias:
                yield random.values(prefix + "ffn_down.bias", self.n_embd, spread=0.5)
        yield random.norm("output_norm.weight", self.n_embd)
        if not self.tied:
            yield random.values("output.weight", n_vocab, self.n_embd, spread=logit_spread)


@dataclass(frozen=True)
class TinyGemma3:
    """What a tiny gemma3 model is like; what TinyLlama has too means the same here.

    window: tokens that a local layer sees, its own included; None leaves the key out, which makes every layer global.
    pattern: the metadata's sliding_window_pattern, a number or a bool (local?) a layer; None leaves it out, which is 6:
    layers 5, 11, … are global. rope_base_swa: of local layers, left out if None (10000 then). factor: linear scaling
    of the global layers' positions, left out if None. softcap: final_logit_softcapping, left out if None. bias: of
    every product of a layer, the gated ones included.
    """

    family: ClassVar[str] = "gemma3"

    n_layer: int = 7
    n_embd: int = 64
    n_head: int = 4
    n_head_kv: int = 1
    n_ff: int = 96
    head_dim: int = 32
    n_vocab: int | None = None
    n_ctx: int = 512
    type: str = "F32"
    types: Mapping[str, str] = field(default_factory=dict)
    vectors: str = "F32"
    tied: bool = True
    rms_eps: float = 1e-6
    rope_base: float = 1e6
    rope_base_swa: float | None = None
    factor: float | None = None
    window: int | None = 8
    pattern: int | Sequence[bool] | None = None
    softcap: float | None = None
    bias: bool = False
    add_bos: bool = True
    seed: int = 0

    def add_hyperparameters(self, writer: gguf.GGUFWriter) -> None:
        add_sizes(writer, self)
        writer.add_rope_freq_base(self.rope_base)
        if self.window is not None:
            writer.add_sliding_window(self.window)
        if self.pattern is not None:
            pattern = self.pattern if isinstance(self.pattern, int) else list(self.pattern)
            writer.add_sliding_window_pattern(pattern)
        if self.rope_base_swa is not None:
            writer.add_float32("gemma3.rope.freq_base_swa", self.rope_base_swa)
        if self.factor is not None:
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(self.factor)
        if self.softcap is not None:
            writer.add_final_logit_softcapping(self.softcap)

    def tensors(self, n_vocab: int) -> Iterator[tuple[str, np.ndarray]]:
        q_dim, kv_dim = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        random = Random(self.seed)

        def product(name: str, rows: int, row: int) -> Iterator[tuple[str, np.ndarray]]:
            yield random.matrix(name + ".weight", rows, row)
            if self.bias:
                yield random.values(name + ".bias", rows, spread=0.5)

        logit_spread = 3 * self.n_embd**-0.5
        yield random.values("token_embd.weight", n_vocab, self.n_embd, spread=logit_spread)
        for layer in range(self.n_layer):
            prefix = f"blk.{layer}."
            yield random.norm(prefix + "attn_norm.weight", self.n_embd)
            for part, rows in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)):
                yield from product(f"{prefix}attn_{part}", rows, self.n_embd)
            for part in "qk":  # large enough that attention picks out tokens
                yield random.norm(f"{prefix}attn_{part}_norm.weight", self.head_dim, mean=1.5)
            yield from product(prefix + "attn_output", self.n_embd, q_dim)
            yield random.norm(prefix + "post_attention_norm.weight", self.n_embd)
            yield random.norm(prefix + "ffn_norm.weight", self.n_embd)
            yield from product(prefix + "ffn_gate", self.n_ff, self.n_embd)
            yield from product(prefix + "ffn_up", self.n_ff, self.n_embd)
            yield from product(prefix + "ffn_down", self.n_embd, self.n_ff)
            yield random.norm(prefix + "post_ffw_norm.weight", self.n_embd)
        yield random.norm("output_norm.weight", self.n_embd)
        if not self.tied:
            yield random.values("output.weight", n_vocab, self.n_embd, spread=logit_spread)


def tiny_llama(spec: TinyLlama = TinyLlama(), *, pre: str = "smollm", dequantized: bool = False) -> bytes:
    """As `tiny_model`."""
    return tiny_model(spec, pre=pre, dequantized=dequantized)


def tiny_gemma3(spec: TinyGemma3 = TinyGemma3(), *, dequantized: bool = False) -> bytes:
    """As `tiny_model`."""
    return tiny_model(spec, dequantized=dequantized)


def vocabulary(n_vocab: int | None = None) -> tuple[list[str], list[str]]:
    """Tokens and merges: special tokens, the 256 bytes in GPT-2's letters, words built by merges, unused ones."""
    letters = _byte_letters()
    merges: list[str] = []
    words: dict[str, None] = {}
    for word in [space + word for word in _WORDS for space in ("", " ")]:
        left = letters[word.encode()[0]]
        for byte in word.encode()[1:]:
            merge = f"{left} {letters[byte]}"
            left += letters[byte]
            if left not in words:
                words[left] = None
                merges.append(merge)
    tokens = [*SPECIAL, *letters, *words]
    tokens += [f"<|unused_{index}|>" for index in range(len(tokens), n_vocab or 0)]
    return tokens, merges


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printable, else the next free one from U+0100 on."""
    free = iter(range(256, 512))
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return [chr(byte if byte in printable else next(free)) for byte in range(256)]


def without_chat(model: bytes) -> bytes:
    """The file as a base model's: with no chat template and no tokens of ChatML."""
    return model.replace(b"tokenizer.chat_template", b"tokenizer.cast_template").replace(b"<|im_end|>", b"<|im_off|>")


def _add_tokenizer(writer: gguf.GGUFWriter, spec: Tiny, pre: str, tokens: list[str], merges: list[str]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            TokenType.CONTROL if token in SPECIAL else TokenType.UNUSED if token[:3] == "<|u" else TokenType.NORMAL
            for token in tokens
        ]
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(spec.add_bos)
    writer.add_chat_template(CHAT_TEMPLATE)
