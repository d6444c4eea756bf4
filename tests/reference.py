"""Float32 forward passes in numpy, a class a family: the tight reference for the planner and the kernels.

Written apart from the engine, so that they cannot share a mistake. Formulas: arXiv:2302.13971 (llama),
arXiv:2309.00071 (YaRN, in the form ggml_rope_ext gives it), arXiv:2503.19786 and llama.cpp's src/models/gemma3.cpp
(gemma3).
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llamaweb.ggml import dequantize
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource, FileSource, Source

T = TypeVar("T")


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    """Normalized mean squared error."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.sum((found - expected) ** 2) / np.sum(expected**2))


class Reference:
    """A model of a GGUF file; weights are dequantized when they are needed, and none is kept but the embeddings."""

    def __init__(self, file: bytes | Path, *, kv_f16: bool = True) -> None:
        self._source: Source = BytesSource(file) if isinstance(file, bytes) else FileSource(file)
        header = now(read_header(self._source))
        self.metadata, self._tensors, self._kv_f16 = header.metadata, header.tensors, kv_f16
        self.n_layer: int = self._meta("block_count")
        self.n_embd: int = self._meta("embedding_length")
        self.n_head: int = self._meta("attention.head_count")
        self.n_head_kv: int = self._meta("attention.head_count_kv", self.n_head)
        self.head_dim: int = self._meta("attention.key_length", self.n_embd // self.n_head)
        self.rms_eps: float = self._meta("attention.layer_norm_rms_epsilon")
        self.n_vocab: int = self._tensors["token_embd.weight"].shape[1]

    @cached_property
    def table(self) -> np.ndarray:
        return self.weight("token_embd.weight")

    def weight(self, name: str) -> np.ndarray:
        """A tensor as float32, shaped (rows, row length) or (length,)."""
        info = self._tensors[name]
        data = np.frombuffer(now(self._source.read(info.offset, info.nbytes)), np.uint8)
        return dequantize(data, info.type).reshape(info.shape[::-1])

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits after each of the tokens from an empty cache, float32 (n_tokens, n_vocab)."""
        raise NotImplementedError

    def _attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray, scale: float, p: str, kept: dict[str, Any]
    ) -> np.ndarray:
        """Queries and keys after rope, (n_tokens, heads, head_dim); seen (n_tokens, n_tokens): which keys a query sees.
        The result is (n_tokens, n_head * head_dim), and what went into it is kept."""
        if self._kv_f16:
            k, v = (part.astype(np.float16).astype(np.float32) for part in (k, v))
        kept.update({p + "attn_q": q, p + "attn_k": k, p + "attn_v": v})
        k, v = (np.repeat(part, self.n_head // self.n_head_kv, axis=1) for part in (k, v))
        score = np.einsum("qhd,khd->hqk", q, k) * np.float32(scale)
        score = np.where(seen, score, -np.inf)
        score = np.exp(score - score.max(axis=-1, keepdims=True))
        score /= score.sum(axis=-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", score, v).reshape(len(q), self.n_head * self.head_dim)
        kept[p + "attn"] = out
        return out

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        y = x @ self.weight(name + ".weight").T
        return y + self.weight(name + ".bias") if name + ".bias" in self._tensors else y

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return (x / np.sqrt(mean + np.float32(self.rms_eps))) * self.weight(name)

    def _output(self) -> np.ndarray:
        return self.weight("output.weight") if "output.weight" in self._tensors else self.table

    def _meta(self, key: str, default: Any = None) -> Any:
        value = self.metadata.get(f"{self.metadata['general.architecture']}.{key}", default)
        if value is None:
            raise KeyError(key)
        return value


class ReferenceLlama(Reference):
    """llama, and the base of those that differ from it in a detail."""

    ffn_norm = "ffn_norm"

    def turned(self, layer: int, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        """Queries or keys, (n_tokens, heads, head_dim), with their positions."""
        return rotate(x, cos, sin)

    def logits(self, tokens: Sequence[int], states: dict[str, np.ndarray] | None = None) -> np.ndarray:
        """Logits after each of the tokens from an empty cache, float32 (n_tokens, n_vocab).

        `states`, if given, is filled with each layer's inputs and results by name, (n_tokens, …).
        """
        kept: dict[str, np.ndarray] = {} if states is None else states
        x = self.table[np.asarray(tokens)]
        kept["embd"] = x
        cos, sin = self.rope_table(len(tokens))
        for layer in range(self.n_layer):
            p = f"blk.{layer}."
            x = x + self._attention(layer, self._norm(x, p + "attn_norm.weight"), cos, sin, kept)
            kept[p + "attn_residual"] = x
            h = self._norm(x, f"{p}{self.ffn_norm}.weight")
            gate = self._linear(h, p + "ffn_gate")
            h = gate / (1 + np.exp(-gate)) * self._linear(h, p + "ffn_up")
            kept[p + "ffn_glu"] = h
            x = x + self._linear(h, p + "ffn_down")
            kept[p + "ffn_residual"] = x
        return self._norm(x, "output_norm.weight") @ self._output().T

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
        self, layer: int, h: np.ndarray, cos: np.ndarray, sin: np.ndarray, kept: dict[str, np.ndarray]
    ) -> np.ndarray:
        p, n, dim = f"blk.{layer}.", len(h), self.head_dim
        q, k = (self._linear(h, p + name).reshape(n, -1, dim) for name in ("attn_q", "attn_k"))
        if p + "attn_q_norm.weight" in self._tensors:
            q, k = (self._norm(x, f"{p}attn_{name}_norm.weight") for x, name in ((q, "q"), (k, "k")))
        q, k = (self.turned(layer, x, cos, sin) for x in (q, k))
        v = self._linear(h, p + "attn_v").reshape(n, self.n_head_kv, dim)
        return self._linear(self._attend(q, k, v, causal(n), dim**-0.5, p, kept), p + "attn_output")


class ReferenceQwen(ReferenceLlama):
    """qwen2 and qwen3, and their relatives' text."""

    def turned(self, layer: int, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        return rotate_halves(x, cos, sin)


class ReferenceSeedOss(ReferenceQwen):
    """seed_oss."""

    ffn_norm = "post_attention_norm"


class ReferenceSmolLM3(ReferenceLlama):
    """smollm3."""

    def turned(self, layer: int, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        return x if (layer + 1) % 4 == 0 else rotate(x, cos, sin)


class ReferenceGemma3(Reference):
    """gemma3.

    gelu_f16: the input and the result of the GELU rounded to f16, as llama.cpp on a CPU looks it up in a table.
    """

    def __init__(self, file: bytes | Path, *, kv_f16: bool = True, gelu_f16: bool = False) -> None:
        super().__init__(file, kv_f16=kv_f16)
        self._gelu_f16 = gelu_f16
        self.window: int = self._meta("attention.sliding_window", 0)
        pattern = self._meta("attention.sliding_window_pattern", 6)
        if isinstance(pattern, int):
            pattern = [pattern == 0 or layer % pattern < pattern - 1 for layer in range(self.n_layer)]
        self.local = [bool(self.window and pattern[layer]) for layer in range(self.n_layer)]
        # Gemma 3 27B, which is told by its layers, divides by what its heads would be if they shared n_embd.
        self.scale: float = (self.n_embd // self.n_head if self.n_layer == 62 else self.head_dim) ** -0.5

    def logits(self, tokens: Sequence[int], states: dict[str, np.ndarray] | None = None, last: int = 0) -> np.ndarray:
        """As ReferenceLlama's; of the `last` tokens alone, or of all."""
        kept: dict[str, np.ndarray] = {} if states is None else states
        x = self.table[np.asarray(tokens)] * np.float32(math.sqrt(self.n_embd))
        kept["embd"] = x
        for layer in range(self.n_layer):
            p = f"blk.{layer}."
            out = self._attention(layer, self._norm(x, p + "attn_norm.weight"), kept)
            x = x + self._norm(out, p + "post_attention_norm.weight")
            kept[p + "attn_residual"] = x
            h = self._norm(x, p + "ffn_norm.weight")
            h = self._gelu(self._linear(h, p + "ffn_gate")) * self._linear(h, p + "ffn_up")
            kept[p + "ffn_glu"] = h
            x = x + self._norm(self._linear(h, p + "ffn_down"), p + "post_ffw_norm.weight")
            kept[p + "ffn_residual"] = x
        logits = self._norm(x[-last:], "output_norm.weight") @ self._output().T
        cap = self._meta("final_logit_softcapping", 0.0)
        return np.float32(cap) * np.tanh(logits / np.float32(cap)) if cap else logits

    def rope_table(self, layer: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines of positions 0 to n_tokens - 1 in a layer, float32 (n_tokens, rope dimensions / 2)."""
        if self.local[layer]:
            base, factor = self._meta("rope.freq_base_swa", 10000.0), 1.0
        else:
            base, factor = self._meta("rope.freq_base", 10000.0), self._meta("rope.scaling.factor", 1.0)
        n_rot = self._meta("rope.dimension_count", self.head_dim)
        angle = np.arange(n_tokens)[:, None] / factor * base ** (-2.0 * np.arange(n_rot // 2) / n_rot)
        return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def _attention(self, layer: int, h: np.ndarray, kept: dict[str, np.ndarray]) -> np.ndarray:
        p, n, dim = f"blk.{layer}.", len(h), self.head_dim
        cos, sin = self.rope_table(layer, n)
        q, k = (
            rotate_halves(self._norm(self._linear(h, name).reshape(n, -1, dim), name + "_norm.weight"), cos, sin)
            for name in (p + "attn_q", p + "attn_k")
        )
        v = self._linear(h, p + "attn_v").reshape(n, self.n_head_kv, dim)
        seen = causal(n) & (np.triu(np.ones((n, n), bool), 1 - self.window) if self.local[layer] else True)
        return self._linear(self._attend(q, k, v, seen, self.scale, p, kept), p + "attn_output")

    def _gelu(self, x: np.ndarray) -> np.ndarray:
        inner = x.astype(np.float16).astype(np.float32) if self._gelu_f16 else x
        y = 0.5 * inner * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * inner * (1 + 0.044715 * inner * inner)))
        if not self._gelu_f16:
            return y
        return np.where(x <= -10, 0, np.where(x >= 10, x, y.astype(np.float16).astype(np.float32)))


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate the first pairs (2i, 2i + 1) of each head; x (n_tokens, n_head, head_dim), tables (n_tokens, pairs)."""
    y = x.copy()
    cos, sin = cos[:, None], sin[:, None]
    even, odd = x[..., 0 : 2 * cos.shape[-1] : 2], x[..., 1 : 2 * cos.shape[-1] : 2]
    y[..., 0 : 2 * cos.shape[-1] : 2] = even * cos - odd * sin
    y[..., 1 : 2 * cos.shape[-1] : 2] = even * sin + odd * cos
    return y


def rotate_halves(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """As `rotate`, but the pairs are (i, i + pairs)."""
    pairs = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return np.concatenate([first * cos - second * sin, first * sin + second * cos, rest], axis=-1)


def causal(n_tokens: int) -> np.ndarray:
    """Whether a query (row) sees a key (column): itself and those before it."""
    return np.tril(np.ones((n_tokens, n_tokens), bool))


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, in whatever loop this runs."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the source had to wait")
