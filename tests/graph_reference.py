"""A graph computed in numpy, operation by operation as its docstrings say: what any family's steps must give.

It shares with the engine a family's picture of its layers, and with the kernels' cases the numpy of recurrences, routes
and expressions: whether these are right is told by llama.cpp's results.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llamaweb.architectures import architecture
from llamaweb.architectures.embeddings import pooling_of
from llamaweb.ggml import dequantize
from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks.case import evaluated
from llamaweb.kernels.checks.experts import routed
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource, FileSource, Source
from llamaweb.operations.altup import corrected as corrected_streams
from llamaweb.operations.altup import predicted, stacked
from llamaweb.operations.gated_delta_net import corrected
from llamaweb.operations.gaussian_geglu import gated
from llamaweb.operations.pool import pooled
from llamaweb.operations.rwkv_wkv7 import time_mixed
from llamaweb.operations.ssm_scan import scanned
from llamaweb.rope import Rope, phases
from tests.reference import now


class GraphReference:
    """A model of a GGUF file, in float64 between weights as they are stored."""

    def __init__(self, file: bytes | Path, *, kv_f16: bool = True, n_ctx: int = 64, pooling: str | None = None) -> None:
        self.n_ctx, self._kv_f16 = n_ctx, kv_f16
        self._source: Source = BytesSource(file) if isinstance(file, bytes) else FileSource(file)
        self.file = unfused(now(read_header(self._source)))
        self.family = architecture(self.file)
        self.hparams = self.family.hyperparameters(self.file)
        self.pooling = pooling_of(self.file, self.hparams, pooling)
        self._weights: dict[str, np.ndarray] = {}
        self._caches: dict[int, tuple[np.ndarray, ...]] = {}  # keys and values by layer

    def graph(self, n_tokens: int) -> Graph:
        graph = Graph(self.file.tensors, n_tokens, "all", self.pooling)
        self.family.build(graph, self.hparams)
        return graph

    def weight(self, name: str) -> np.ndarray:
        """A tensor, shaped (…, rows, row length)."""
        if name not in self._weights:
            info = self.file.tensors[name]
            data = np.frombuffer(now(self._source.read(info.offset, info.nbytes)), np.uint8)
            values = dequantize(data, info.type).reshape(info.shape[::-1])
            self._weights[name] = values.astype(np.float64)
        return self._weights[name]

    def logits(self, tokens: list[int]) -> np.ndarray:
        """(n_tokens, n_vocab)"""
        *_, (last, values) = self._computed(tokens)
        return values[last.src[0]]

    def embedding(self, tokens: list[int]) -> np.ndarray:
        """Of one text: (n_embd,), or without pooling (n_tokens, n_embd). Not normalized."""
        *_, (last, values) = self._computed(tokens)
        found = values[last]
        return found if self.pooling and self.pooling.kind == "none" else found[0]

    def _computed(self, tokens: list[int]) -> Iterator[tuple[Tensor, dict[Tensor, np.ndarray]]]:
        """Node by node, with the values of all so far."""
        values: dict[Tensor, np.ndarray] = {}
        for node in self.graph(len(tokens)).nodes:
            if node.op == "cross_entropy":
                yield node, values
                return
            src = [self._weight_of(s) if s.op == "weight" else values.get(s) for s in node.src]
            values[node] = getattr(self, "_" + node.op)(node, tokens, *src)
            yield node, values

    def perplexity(self, tokens: list[int], first: int) -> float:
        """Of the tokens behind position `first`, as llama.cpp's perplexity has it."""
        logits = self.logits(tokens)[first:-1]
        top = logits.max(-1, keepdims=True)
        log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        return float(np.exp(-np.mean(log_p[np.arange(len(log_p)), tokens[first + 1 :]])))

    def _weight_of(self, tensor: Tensor) -> np.ndarray:
        if whole := tensor.params.get("of"):
            first = tensor.params["first"]
            return self.weight(whole.name)[..., first : first + tensor.shape[1], :]
        return self.weight(tensor.name)

    def _get_rows(self, node: Tensor, tokens: list[int], table: np.ndarray, _: None) -> np.ndarray:
        return table[np.arange(len(tokens))] if node.params["of_positions"] else table[tokens]

    def _elementwise(self, node: Tensor, tokens: list[int], *src: np.ndarray) -> np.ndarray:
        src = tuple(x[0] if s.op == "weight" and x.ndim > 1 else x for s, x in zip(node.src, src, strict=True))
        repeated = [np.tile(x, (1,) * (x.ndim - 1) + (node.row // x.shape[-1],)) for x in src]
        return evaluated(node.params["expression"], repeated)

    def _view(self, node: Tensor, tokens: list[int], x: np.ndarray) -> np.ndarray:
        return x[:, node.params["first"] :][:, : node.row]

    def _norm(self, node: Tensor, tokens: list[int], x: np.ndarray, *vectors: np.ndarray) -> np.ndarray:
        p = node.params
        groups = x.reshape(len(x), -1, p["size"])
        if p["kind"] == "layer":
            groups = groups - groups.mean(-1, keepdims=True)
        square = np.square(groups)
        if p["kind"] == "l2":
            groups = groups / np.maximum(np.sqrt(square.sum(-1, keepdims=True)), p["eps"])
        else:
            groups = groups / np.sqrt(square.mean(-1, keepdims=True) + p["eps"])
        y = groups.reshape(x.shape)
        for name in ("weight", "bias"):
            if p[name]:
                vector = self._weight_of(p[name]).reshape(-1)
                vector = np.tile(vector, x.shape[1] // vector.size)
                y = y * vector if name == "weight" else y + vector
        return y

    def _mul_mat(self, node: Tensor, tokens: list[int], w: np.ndarray, x: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        return x @ w.reshape(-1, w.shape[-1]).T + (bias[0] if bias else 0)

    def _mul_mat_heads(self, node: Tensor, tokens: list[int], w: np.ndarray, x: np.ndarray) -> np.ndarray:
        k, _, n_head = node.src[0].shape
        return np.einsum("hnk,thk->thn", w.reshape(n_head, -1, k), x.reshape(len(x), n_head, k)).reshape(len(x), -1)

    def _top_k(self, node: Tensor, tokens: list[int], logits: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        ids, weights = routed(logits, *bias, **node.params)
        return np.hstack([ids, weights])

    def _mul_mat_id(
        self, node: Tensor, tokens: list[int], w: np.ndarray, x: np.ndarray, routes: np.ndarray, *vectors: np.ndarray
    ) -> np.ndarray:
        ids, _ = _ids_and_weights(routes)
        w = w.reshape(node.src[0].shape[::-1])  # a file tells no dimension of 1 at the end, as one expert's
        parts = np.broadcast_to(x.reshape(len(x), -1, w.shape[-1]), (*ids.shape, w.shape[-1]))
        y = np.einsum("tunk,tuk->tun", w[ids], parts)
        of = {slot: vector[ids] for slot, vector in zip(node.params["slots"], vectors, strict=True)}
        return (y * of.get("tensor_scales", np.ones(1))[..., None] + of.get("bias", 0)).reshape(len(x), -1)

    def _weighted_sum(self, node: Tensor, tokens: list[int], x: np.ndarray, routes: np.ndarray) -> np.ndarray:
        ids, weights = _ids_and_weights(routes)
        return np.einsum("tu,tun->tn", weights, x.reshape(*ids.shape, -1))

    def _rope(self, node: Tensor, tokens: list[int], x: np.ndarray) -> np.ndarray:
        rotation: Rope = node.params["rope"].in_context(self.n_ctx)
        heads = x.reshape(len(x), -1, node.params["head_dim"]).copy()
        factors = self.weight(rotation.factors).astype(np.float32) if rotation.factors else None
        turns = phases(rotation, factors) / 2**32
        angle = 2 * np.pi * np.modf(np.arange(len(x))[:, None] * turns)[0][:, None]
        cos, sin = rotation.magnitude * np.cos(angle), rotation.magnitude * np.sin(angle)
        pair = np.arange(rotation.n_dims // 2)
        a, b = (2 * pair, 2 * pair + 1) if rotation.mode == "norm" else (pair, pair + len(pair))
        a, b = a + rotation.offset, b + rotation.offset
        first, second = heads[..., a], heads[..., b]
        heads[..., a], heads[..., b] = first * cos - second * sin, first * sin + second * cos
        return heads.reshape(x.shape)

    def _ssm_conv(self, node: Tensor, tokens: list[int], x: np.ndarray, w: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        taps = w.shape[1]
        before = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
        y = sum(before[j : j + len(x)] * w[:, j] for j in range(taps))
        return y + bias[0] if bias else y

    def _gated_delta_net(
        self, node: Tensor, tokens: list[int], qkv: np.ndarray, alpha: np.ndarray, beta: np.ndarray, *vectors: Any
    ) -> np.ndarray:
        p = node.params
        dt_bias, a = (vector.reshape(-1) for vector in vectors)
        state = np.zeros((p["n_head"], p["size"], p["size"]))
        return corrected(qkv, alpha, beta, dt_bias, a, state, p["n_key"], p["grouped"], p["eps"])[0]

    def _heads_of(self, node: Tensor, tokens: list[int], x: np.ndarray) -> np.ndarray:
        p = node.params
        return x.reshape(len(x), -1, p["apart"])[:, :, p["first"] :][:, :, : p["each"]].reshape(len(x), -1)

    def _concat(self, node: Tensor, tokens: list[int], *heads: np.ndarray) -> np.ndarray:
        sizes = node.params["sizes"]
        each = [x.reshape(len(x), -1, size) for x, size in zip(heads, sizes, strict=True)]
        n_head = node.row // sum(sizes)
        return np.concatenate([np.repeat(x, n_head // x.shape[1], 1) for x in each], -1).reshape(len(each[0]), -1)

    def _ssm_scan(self, node: Tensor, tokens: list[int], xbc: np.ndarray, dt: np.ndarray, *vectors: Any) -> np.ndarray:
        p = node.params
        dt_bias, a, d = (vector.reshape(-1) for vector in vectors)
        state = np.zeros((p["n_head"], p["head_dim"], p["d_state"]))
        return scanned(xbc, dt, dt_bias, a, d, state, p["head_dim"], p["d_state"], p["n_group"])[0]

    def _token_shift(self, node: Tensor, tokens: list[int], x: np.ndarray, lerp: np.ndarray) -> np.ndarray:
        before = np.concatenate([np.zeros((1, x.shape[1])), x[:-1]])
        return x + (before - x) * lerp.reshape(-1, 1, x.shape[1])

    def _altup_stack(self, node: Tensor, tokens: list[int], x: np.ndarray, others: np.ndarray) -> np.ndarray:
        return stacked(x, others)

    def _altup_predict(self, node: Tensor, tokens: list[int], x: np.ndarray, *src: Any) -> np.ndarray:
        norm, route, coef, *branch = src
        return predicted(x, (norm, route, coef), node.params["eps"], *branch)

    def _altup_correct(self, node: Tensor, tokens: list[int], x: np.ndarray, *src: Any) -> np.ndarray:
        y, *router, scale = src
        return corrected_streams(x, y, router, scale, node.params["eps"])

    def _gaussian_geglu(self, node: Tensor, tokens: list[int], gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        return gated(gate, up, node.params["deviations"])

    def _plane(self, node: Tensor, tokens: list[int], x: np.ndarray) -> np.ndarray:
        return x[node.params["plane"]]

    def _rwkv_wkv7(self, node: Tensor, tokens: list[int], *src: Any) -> np.ndarray:
        p = node.params
        *beside, v = src[: -p["n_vectors"]]
        of_heads = np.stack([vector.reshape(-1) for vector in src[-p["n_vectors"] :]])
        state = np.zeros((node.row // p["size"], p["size"], p["size"]))
        return time_mixed(np.stack(beside, axis=1), v, of_heads, state, p["eps"])[0]

    def _pool(self, node: Tensor, tokens: list[int], x: np.ndarray) -> np.ndarray:
        return pooled(x, [0, len(x)], node.params["kind"])

    def _flash_attn(self, node: Tensor, tokens: list[int], q: np.ndarray, *more: np.ndarray) -> np.ndarray:
        p: Any = node.params
        n, dim = len(q), p["head_dim"]
        q = q.reshape(n, -1, dim)
        if not p["shared"]:
            k, *more = more
            k = k.reshape(n, -1, dim)
            v, *more = (k[..., : p["head_dim_v"]], *more) if p["in_keys"] else more
            self._caches[p.get("layer", 0)] = k, v.reshape(n, k.shape[1], p["head_dim_v"])
        k, v = self._caches[p.get("layer", 0)]
        sinks = more
        if self._kv_f16 and not self.pooling:
            k, v = (x.astype(np.float16).astype(np.float64) for x in (k, v))
        group = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        score = np.einsum("qhd,khd->hqk", q, k) * p["scale"]
        if p["temperature"]:
            factor, floor = p["temperature"]
            score *= 1 + factor * np.log(np.arange(n) // floor + 1)[:, None]
        if p["softcap"]:
            score = p["softcap"] * np.tanh(score / p["softcap"])
        back = np.arange(n)[:, None] - np.arange(n)
        if p.get("causal", True):
            seen = (back >= 0) & ((back < p["window"]) | (not p["window"]))
        else:
            seen = (np.abs(back) <= p["window"] // 2) | (not p["window"])
        score = np.where(seen, score, -np.inf)
        weight = np.exp(score - score.max(-1, keepdims=True))
        sink = np.exp(sinks[0][:, None] - score.max(-1))[..., None] if sinks else 0
        weight /= weight.sum(-1, keepdims=True) + sink
        return np.einsum("hqk,khd->qhd", weight, v).reshape(n, -1)


def _ids_and_weights(routes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids, weights = np.split(routes, 2, axis=1)
    return ids.astype(int), weights
