"""Tiny random llama models as GGUF bytes: real files in every way but their size.

The same spec gives the same weights with any numpy (RandomState's streams are frozen), in every format the same values
before quantization, so that golden files need only hold the spec.
"""

from __future__ import annotations

import fnmatch
import tempfile
from binascii import crc32
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, RopeScalingType, TokenType

from tests.blocks import quantized

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_WORDS = ("the", "and", "ing", "er", "on", "re", "at", "in", "en", "or", "is", "it", "ed", "he", "ou", "an", "es", "to")


@dataclass(frozen=True)
class TinyLlama:
    """What a tiny model is like. Quantized rows need multiples of 32: n_embd, n_ff and n_head * head_dim.

    type: format of all matrices; `types` overrides it by patterns of names, e.g. {"*ffn_down*": "Q8_0"}.
    head_dim: n_embd // n_head if None. rope_dims: head_dim if None (llama.cpp loads nothing else for llama).
    scaling: None, "linear" or "yarn", by `factor` over `n_ctx_orig` tokens. n_vocab: padded with unused tokens if more.
    """

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
    tied: bool = True
    bias: bool = False
    rms_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_dims: int | None = None
    rope_freqs: bool = False
    scaling: str | None = None
    factor: float = 1.0
    n_ctx_orig: int | None = None
    add_bos: bool = True
    seed: int = 0


def tiny_llama(spec: TinyLlama = TinyLlama(), *, pre: str = "smollm", dequantized: bool = False) -> bytes:
    """A GGUF file of the spec, with a byte-level BPE tokenizer of the given pre-tokenizer.

    dequantized: the same weights, in F32: what a product without quantized activations gives.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        tokens, merges = vocabulary(spec.n_vocab)
        _add_hyperparameters(writer, spec)
        _add_tokenizer(writer, spec, pre, tokens, merges)
        for name, values in tensors(spec, len(tokens)):
            kind = tensor_type(spec, name, values)
            data = quantized(values, kind)
            if dequantized:
                data, kind = gguf.quants.dequantize(data, kind), GGMLQuantizationType.F32
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def tensors(spec: TinyLlama, n_vocab: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor's name and float32 values, shaped (rows, row length), before quantization."""
    head_dim = spec.head_dim or spec.n_embd // spec.n_head
    q_dim, kv_dim = spec.n_head * head_dim, spec.n_head_kv * head_dim

    def values(name: str, *shape: int, spread: float, mean: float = 0.0) -> tuple[str, np.ndarray]:
        rng = np.random.RandomState([spec.seed, crc32(name.encode())])
        return name, (mean + spread * rng.standard_normal(shape)).astype(np.float32)

    def matrix(name: str, rows: int, length: int) -> tuple[str, np.ndarray]:
        return values(name, rows, length, spread=length**-0.5)

    logit_spread = 3 * spec.n_embd**-0.5  # so that the most likely token stands out
    yield values("token_embd.weight", n_vocab, spec.n_embd, spread=logit_spread if spec.tied else 1.0)
    if spec.rope_freqs:
        n_rot = spec.rope_dims or head_dim
        yield "rope_freqs.weight", np.geomspace(1.0, 8.0, n_rot // 2).astype(np.float32)
    for layer in range(spec.n_layer):
        prefix = f"blk.{layer}."
        yield values(prefix + "attn_norm.weight", spec.n_embd, spread=0.1, mean=1.0)
        for part, rows in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)):
            yield matrix(f"{prefix}attn_{part}.weight", rows, spec.n_embd)
            if spec.bias:
                yield values(f"{prefix}attn_{part}.bias", rows, spread=0.5)
        yield matrix(prefix + "attn_output.weight", spec.n_embd, q_dim)
        yield values(prefix + "ffn_norm.weight", spec.n_embd, spread=0.1, mean=1.0)
        yield matrix(prefix + "ffn_gate.weight", spec.n_ff, spec.n_embd)
        yield matrix(prefix + "ffn_up.weight", spec.n_ff, spec.n_embd)
        yield matrix(prefix + "ffn_down.weight", spec.n_embd, spec.n_ff)
    yield values("output_norm.weight", spec.n_embd, spread=0.1, mean=1.0)
    if not spec.tied:
        yield values("output.weight", n_vocab, spec.n_embd, spread=logit_spread)


def tensor_type(spec: TinyLlama, name: str, values: np.ndarray) -> GGMLQuantizationType:
    """A tensor's format: vectors stay F32, matrices follow the last pattern that fits."""
    if values.ndim == 1:
        return GGMLQuantizationType.F32
    fitting = [kind for pattern, kind in spec.types.items() if fnmatch.fnmatch(name, pattern)]
    return GGMLQuantizationType[fitting[-1] if fitting else spec.type]


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


def _add_hyperparameters(writer: gguf.GGUFWriter, spec: TinyLlama) -> None:
    head_dim = spec.head_dim or spec.n_embd // spec.n_head
    writer.add_name("tiny")
    writer.add_context_length(spec.n_ctx)
    writer.add_embedding_length(spec.n_embd)
    writer.add_block_count(spec.n_layer)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    if spec.head_dim is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_eps)
    writer.add_rope_dimension_count(spec.rope_dims or head_dim)
    writer.add_rope_freq_base(spec.rope_base)
    if spec.scaling is not None:
        writer.add_rope_scaling_type(RopeScalingType(spec.scaling))
        writer.add_rope_scaling_factor(spec.factor)
    if spec.n_ctx_orig is not None:
        writer.add_rope_scaling_orig_ctx_len(spec.n_ctx_orig)


def _add_tokenizer(writer: gguf.GGUFWriter, spec: TinyLlama, pre: str, tokens: list[str], merges: list[str]) -> None:
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
