"""A float32 forward pass of llama models in numpy: the tight reference for the planner and the kernels.

Written apart from the engine, so that they cannot share a mistake. Formulas: arXiv:2302.13971 (llama),
arXiv:2309.00071 (YaRN, in the form ggml_rope_ext gives it).
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gguf
import numpy as np

from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource, FileSource, Source

T = TypeVar("T")


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    """Normalized mean squared error."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.sum((found - expected) ** 2) / np.sum(expected**2))


class ReferenceLlama:
    """A llama model of a GGUF file; weights are dequantized when they are needed, and not kept."""

    def __init__(self, file: bytes | Path, *, kv_f16: bool = True) -> None:
        self._source: Source = BytesSource(file) if isinstance(file, bytes) else FileSource(file)
        header = _now(read_header(self._source))
        self.metadata, self._tensors, self._kv_f16 = header.metadata, header.tensors, kv_f16
        self.n_layer: int = self._meta("block_count")
        self.n_embd: int = self._meta("embedding_length")
        self.n_head: int = self._meta("attention.head_count")
        self.n_head_kv: int = self._meta("attention.head_count_kv", self.n_head)
        self.head_dim: int = self._meta("attention.key_length", self.n_embd // self.n_head)
        self.rms_eps: float = self._meta("attention.layer_norm_rms_epsilon")
        self.n_vocab: int = self._tensors["token_embd.weight"].shape[1]

    def weight(self, name: str) -> np.ndarray:
        """A tensor as float32, shaped (rows, row length) or (length,)."""
        info = self._tensors[name]
        data = np.frombuffer(_now(self._source.read(info.offset, info.nbytes)), np.uint8)
        return gguf.quants.dequantize(data, info.type).reshape(info.shape[::-1])

    def logits(self, tokens: Sequence[int], states: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Logits after each of the tokens from an empty cache, float32 (n_tokens, n_vocab).

        `states`, if given, is filled with each layer's inputs and results by name, (n_tokens, …).
        """
        kept: dict[str, np.ndarray] = {} if states is None else states
        table = self.weight("token_embd.weight")
        x = table[np.asarray(tokens)]
        kept["embd"] = x
        cos, sin = self.rope_table(len(tokens))
        for layer in range(self.n_layer):
            p = f"blk.{layer}."
            x = x + self._attention(p, self._norm(x, p + "attn_norm.weight"), cos, sin, kept)
            kept[p + "attn_residual"] = x
            h = self._norm(x, p + "ffn_norm.weight")
            gate = self._linear(h, p + "ffn_gate")
            h = gate / (1 + np.exp(-gate)) * self._linear(h, p + "ffn_up")
            kept[p + "ffn_glu"] = h
            x = x + self._linear(h, p + "ffn_down")
            kept[p + "ffn_residual"] = x
        x = self._norm(x, "output_norm.weight")
        output = self.weight("output.weight") if "output.weight" in self._tensors else table
        return x @ output.T

    def rope_table(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines of positions 0 to n_tokens - 1, float32 (n_tokens, rope dimensions / 2)."""
        n_rot = self._meta("rope.dimension_count", self.head_dim)
        base = self._meta("rope.freq_base", 10000.0)
        pair = np.arange(n_rot // 2)
        frequency = base ** (-2.0 * pair / n_rot)
        if "rope_freqs.weight" in self._tensors:
            frequency = frequency / self.weight("rope_freqs.weight").astype(np.float64)
        scaling = self._meta("rope.scaling.type", "linear")
        factor = 1.0 if scaling == "none" else self._meta("rope.scaling.factor", 1.0)
        magnitude = 1.0
        if scaling == "yarn":
            n_ctx_orig = self._meta("rope.scaling.original_context_length", self._meta("context_length"))
            turns = {
                end: self._meta(f"rope.scaling.yarn_beta_{end}", default)
                for end, default in (("fast", 32.0), ("slow", 1.0))
            }
            at = {
                end: n_rot * math.log(n_ctx_orig / (beta * 2 * math.pi)) / (2 * math.log(base))
                for end, beta in turns.items()
            }
            low, high = max(0, math.floor(at["fast"])), min(n_rot - 1, math.ceil(at["slow"]))
            kept = 1 - np.clip((pair - low) / max(0.001, high - low), 0, 1)
            frequency = frequency / factor * (1 - kept) + frequency * kept
            magnitude = (1 + 0.1 * math.log(factor)) * self._meta("rope.scaling.attn_factor", 1.0)
        else:
            frequency = frequency / factor
        angle = np.arange(n_tokens)[:, None] * frequency
        return (magnitude * np.cos(angle)).astype(np.float32), (magnitude * np.sin(angle)).astype(np.float32)

    def _attention(
        self, p: str, h: np.ndarray, cos: np.ndarray, sin: np.ndarray, kept: dict[str, np.ndarray]
    ) -> np.ndarray:
        n, dim = len(h), self.head_dim
        q = rotate(self._linear(h, p + "attn_q").reshape(n, self.n_head, dim), cos, sin)
        k = rotate(self._linear(h, p + "attn_k").reshape(n, self.n_head_kv, dim), cos, sin)
        v = self._linear(h, p + "attn_v").reshape(n, self.n_head_kv, dim)
        if self._kv_f16:
            k, v = (part.astype(np.float16).astype(np.float32) for part in (k, v))
        kept.update({p + "attn_q": q, p + "attn_k": k, p + "attn_v": v})
        k, v = (np.repeat(part, self.n_head // self.n_head_kv, axis=1) for part in (k, v))
        score = np.einsum("qhd,khd->hqk", q, k) * np.float32(dim**-0.5)
        score = np.where(np.tril(np.ones((n, n), bool)), score, -np.inf)
        score = np.exp(score - score.max(axis=-1, keepdims=True))
        score /= score.sum(axis=-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", score, v).reshape(n, self.n_head * dim)
        kept[p + "attn"] = out
        return self._linear(out, p + "attn_output")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        y = x @ self.weight(name + ".weight").T
        return y + self.weight(name + ".bias") if name + ".bias" in self._tensors else y

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return (x / np.sqrt(mean + np.float32(self.rms_eps))) * self.weight(name)

    def _meta(self, key: str, default: Any = None) -> Any:
        value = self.metadata.get("llama." + key, default)
        if value is None:
            raise KeyError(key)
        return value


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate the first pairs (2i, 2i + 1) of each head; x (n_tokens, n_head, head_dim), tables (n_tokens, pairs)."""
    y = x.copy()
    cos, sin = cos[:, None], sin[:, None]
    even, odd = x[..., 0 : 2 * cos.shape[-1] : 2], x[..., 1 : 2 * cos.shape[-1] : 2]
    y[..., 0 : 2 * cos.shape[-1] : 2] = even * cos - odd * sin
    y[..., 1 : 2 * cos.shape[-1] : 2] = even * sin + odd * cos
    return y


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, in whatever loop this runs."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the source had to wait")
