"""What decoders are put together from: their common sizes, and the parts of a layer. No part knows a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llamaweb import operations as ops
from llamaweb.architectures.metadata import Metadata, layers, tokens
from llamaweb.errors import ModelFileError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Decoder:
    """What every decoder's metadata tell: the base of a family's hyperparameters."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int
    rms_eps: float


@dataclass(frozen=True)
class Dense(Decoder):
    """A decoder whose layers are alike: `n_ff` values wide in their feed forward, and of one rotation."""

    n_ff: int
    rope: Rope


def decoder(file: GGUFFile, meta: Metadata) -> Decoder:
    """Read and checked against each other and the file's tensors; ModelFileError says what contradicts what."""
    n_layer, n_embd = layers(file, meta), meta.count("embedding_length")
    n_vocab = tokens(file, n_embd)
    n_head = meta.count("attention.head_count")
    n_head_kv = meta.count("attention.head_count_kv", n_head)
    head_dim = meta.count("attention.key_length", max(n_embd // n_head, 1))
    if n_head % n_head_kv:
        raise ModelFileError(f"{n_head} attention heads do not divide into {n_head_kv} key-value heads.")
    if meta.count("attention.value_length", head_dim) != head_dim:
        raise ModelFileError(f"The key and value lengths differ, which {file.architecture} does not have.")
    return Decoder(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=n_vocab,
        n_ctx_train=meta.count("context_length", largest=1 << 31),
        rms_eps=meta.number("attention.layer_norm_rms_epsilon"),
    )


class Gated(Protocol):
    def __call__(self, g: Graph, gate: Tensor, up: Tensor, name: str) -> Tensor: ...


class Blocks:
    """Parts of a decoder's graph. `p` is the prefix of a layer's tensors, "blk.0." and so on."""

    def __init__(self, graph: Graph, sizes: Decoder) -> None:
        self._graph = graph
        self._sizes = sizes
        self._table = graph.weight("token_embd.weight", sizes.n_embd, sizes.n_vocab)

    def embeddings(self) -> Tensor:
        return ops.get_rows(self._graph, self._table, "embd")

    def norm(self, x: Tensor, name: str, size: int | None = None) -> Tensor:
        """The tensor's rms_norm of x along each row, or along each head of `size` values."""
        weight = self._graph.weight(name + ".weight", size or self._sizes.n_embd)
        return ops.rms_norm(self._graph, x, weight, self._sizes.rms_eps, name)

    def product(self, x: Tensor, name: str, size: int) -> Tensor:
        """`size` rows of the tensor times x, plus a bias if the file has one."""
        g = self._graph
        return ops.mul_mat(g, g.weight(name + ".weight", x.row, size), x, name, g.optional_weight(name + ".bias", size))

    def qkv(self, x: Tensor, p: str) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's queries, keys and values."""
        s = self._sizes
        q_dim, kv_dim = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
        q, k, v = (self.product(x, f"{p}attn_{part}", n) for part, n in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)))
        return q, k, v

    def head_norms(self, q: Tensor, k: Tensor, p: str) -> tuple[Tensor, Tensor]:
        """Queries and keys, each head normed."""
        size = self._sizes.head_dim
        return self.norm(q, p + "attn_q_norm", size), self.norm(k, p + "attn_k_norm", size)

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, p: str, rope: Rope | None, *, scale: float | None = None, window: int = 0
    ) -> Tensor:
        """The layer's attention and the product behind it. rope: of queries and keys. scale: of products of these,
        1/sqrt(head_dim) unless told."""
        g, head_dim = self._graph, self._sizes.head_dim
        if rope:
            q, k = (ops.rope(g, x, rope, head_dim, f"{p}{part}_rope") for x, part in ((q, "q"), (k, "k")))
        found = ops.flash_attn(
            g,
            q,
            k,
            v,
            layer=int(p.split(".")[1]),
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
            window=window,
            name=p + "attn",
        )
        return self.product(found, p + "attn_output", self._sizes.n_embd)

    def feed_forward(self, x: Tensor, p: str, n_ff: int, gated: Gated) -> Tensor:
        """down(gated(gate(x), up(x))), `n_ff` values wide; gated: ops.swiglu or ops.geglu."""
        gate, up = (self.product(x, f"{p}ffn_{part}", n_ff) for part in ("gate", "up"))
        return self.product(gated(self._graph, gate, up, p + "ffn_glu"), p + "ffn_down", self._sizes.n_embd)

    def logits(self, x: Tensor) -> None:
        """The next token out of the last layer's result, by the output's rows, or the embeddings' if it has none."""
        g, s = self._graph, self._sizes
        x = self.norm(ops.output_rows(g, x), "output_norm")
        output = g.weight("output.weight", s.n_embd, s.n_vocab) if g.has("output.weight") else self._table
        ops.sample(g, ops.mul_mat(g, output, x, "logits"))
