"""What decoders are put together from: their common sizes, and the parts of a layer. No part knows a family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from llamaweb import operations as ops
from llamaweb.architectures.experts import Experts
from llamaweb.architectures.metadata import Metadata, layer_of, layers, rope, tokens, unsound, with_factors
from llamaweb.errors import ModelFileError
from llamaweb.graph import Graph, Tensor, rows_of
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
    eps: float


@dataclass(frozen=True)
class Encoder(Decoder):
    """The same of an encoder, whose tokens see those behind them, too: it gives embeddings, and no next token."""


@dataclass(frozen=True)
class Dense(Decoder):
    """A decoder whose layers are alike: `n_ff` values wide in their feed forward, and of one rotation."""

    n_ff: int
    rope: Rope


def decoder(
    file: GGUFFile,
    meta: Metadata,
    norm: str = "layer_norm_rms",
    *,
    heads: tuple[int, int] | None = None,
    head_dim: int = 0,
) -> Decoder:
    """Read and checked against each other and the file's tensors; ModelFileError says what contradicts what. norm: what
    the epsilon of norms is called after. heads: of queries and of keys, in layers that have some, where not all do.
    head_dim: of a family that tells it otherwise, and whose values may have another."""
    n_layer, n_embd = layers(file, meta), meta.count("embedding_length")
    n_vocab = tokens(file, n_embd)
    if heads:
        n_head, n_head_kv = heads
    else:
        n_head = meta.count("attention.head_count")
        n_head_kv = meta.count("attention.head_count_kv", n_head)
    if n_head_kv < 1 or n_head % n_head_kv:
        raise unsound(f"{n_head} attention heads do not divide into {n_head_kv} key-value heads")
    if not head_dim:
        if n_head > n_embd and meta.value("attention.key_length", None) is None:
            raise unsound(f"{n_head} attention heads are more than the {n_embd} values of a row")
        head_dim = meta.count("attention.key_length", max(n_embd // n_head, 1))
        if (of_value := meta.count("attention.value_length", head_dim)) != head_dim:
            raise ModelFileError(
                f"The key length {head_dim} and the value length {of_value} differ, which {file.architecture} does not "
                "have."
            )
    return Decoder(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=n_vocab,
        n_ctx_train=meta.count("context_length", largest=1 << 31),
        eps=meta.number(f"attention.{norm}_epsilon"),
    )


def dense(
    file: GGUFFile,
    mode: str,
    norm: str = "layer_norm_rms",
    *,
    heads: tuple[int, int] | None = None,
    yarn_told: bool = False,
) -> Dense:
    """mode, yarn_told: of the rotation; the others as of `decoder`."""
    meta = Metadata(file)
    sizes = decoder(file, meta, norm, heads=heads)
    rotation = with_factors(rope(meta, mode, sizes.head_dim, yarn_told=yarn_told), file, meta)
    return Dense(**vars(sizes), n_ff=meta.count("feed_forward_length"), rope=rotation)


class Gated(Protocol):
    def __call__(self, g: Graph, gate: Tensor, up: Tensor, name: str) -> Tensor: ...


class Blocks:
    """Parts of a decoder's graph. `p` is the prefix of a layer's tensors, "blk.0." and so on. biased: all products but
    those that give queries, keys and values have a bias, which else they may have."""

    def __init__(self, graph: Graph, sizes: Decoder, *, biased: bool = False) -> None:
        self._graph = graph
        self._sizes = sizes
        self._biased = biased
        self._table = graph.weight("token_embd.weight", sizes.n_embd, sizes.n_vocab)

    def layers(self) -> Iterator[str]:
        """The prefixes of all layers."""
        return (f"blk.{i}." for i in range(self._sizes.n_layer))

    def embeddings(self) -> Tensor:
        return ops.get_rows(self._graph, self._table, "embd")

    def positions(self, name: str) -> Tensor:
        """The tensor's rows at the tokens' positions."""
        g, s = self._graph, self._sizes
        return ops.get_rows(g, g.weight(name + ".weight", s.n_embd, s.n_ctx_train), "positions", of_positions=True)

    def typed(self, x: Tensor, n_types: int) -> Tensor:
        """Embeddings plus that of token type 0, the first of `n_types` rows, if the file has these."""
        types = self._graph.optional_weight("token_types.weight", self._sizes.n_embd, n_types)
        return ops.add(self._graph, x, types, "embd_typed") if types else x

    def norm(self, x: Tensor, name: str, size: int | None = None) -> Tensor:
        """The tensor's rms_norm of x along each row, or along each head of `size` values."""
        weight = self._graph.weight(name + ".weight", size or self._sizes.n_embd)
        return ops.rms_norm(self._graph, x, weight, self._sizes.eps, name)

    def layer_norm(self, x: Tensor, name: str, *, biased: bool = True) -> Tensor:
        """The tensor's norm of x to a mean and a variance, with a bias, or if that is left open, with one or none."""
        g, size = self._graph, self._sizes.n_embd
        weight, bias = g.weight(name + ".weight", size), self._bias(name, size, needed=biased)
        return ops.layer_norm(g, x, weight, bias, self._sizes.eps, name)

    def _bias(self, name: str, *shape: int, needed: bool) -> Tensor | None:
        found = self._graph.weight if needed else self._graph.optional_weight
        return found(name + ".bias", *shape)

    def product(self, x: Tensor, name: str, size: int, *, biased: bool | None = None) -> Tensor:
        """`size` rows of the tensor times x, times a scale and plus a bias if the file has them. biased: whether it has
        to have a bias, if that is not as all products'."""
        g, needed = self._graph, self._biased if biased is None else biased
        weight, bias = g.weight(name + ".weight", x.row, size), self._bias(name, size, needed=needed)
        if not g.has(name + ".scale"):
            return ops.mul_mat(g, weight, x, name, bias)
        y = ops.mul_mat(g, weight, x, name)
        y = ops.mul(g, y, g.weight(name + ".scale", 1), name + ".scaled")
        return ops.add(g, y, bias, name + ".biased") if bias else y

    def qkv(self, x: Tensor, p: str) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's queries, keys and values."""
        s = self._sizes
        q_dim, kv_dim = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
        parts = (("q", q_dim), ("k", kv_dim), ("v", kv_dim))
        q, k, v = (self.product(x, f"{p}attn_{part}", n, biased=False) for part, n in parts)
        return q, k, v

    def head_norms(self, q: Tensor, k: Tensor, p: str) -> tuple[Tensor, Tensor]:
        """Queries and keys, each head normed."""
        size = self._sizes.head_dim
        return self.norm(q, p + "attn_q_norm", size), self.norm(k, p + "attn_k_norm", size)

    def rotated(self, q: Tensor, k: Tensor, p: str, rope: Rope) -> tuple[Tensor, Tensor]:
        """Queries and keys at their positions."""
        g, head_dim = self._graph, self._sizes.head_dim
        return ops.rope(g, q, rope, head_dim, p + "q_rope"), ops.rope(g, k, rope, head_dim, p + "k_rope")

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        p: str,
        rope: Rope | None,
        *,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        """What the layer's queries find among its keys and values. rope: of queries and keys. scale: of products of
        these, 1/sqrt(head_dim) unless told. options: of ops.flash_attn."""
        head_dim = self._sizes.head_dim
        if rope:
            q, k = self.rotated(q, k, p, rope)
        options |= {"layer": layer_of(p), "head_dim": head_dim, "name": p + "attn"}
        return ops.flash_attn(self._graph, q, k, v, scale=head_dim**-0.5 if scale is None else scale, **options)

    def attend_to(self, layer: int, q: Tensor, p: str, rope: Rope, **options: Any) -> Tensor:
        """What the layer's queries find among the keys and values of an earlier one. options: of ops.flash_attn."""
        g, s = self._graph, self._sizes
        q = ops.rope(g, q, rope, s.head_dim, p + "q_rope")
        options |= {"layer": layer, "head_dim": s.head_dim, "n_head_kv": s.n_head_kv, "name": p + "attn"}
        return ops.flash_attn(g, q, None, None, **options)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, p: str, rope: Rope | None, **options: Any) -> Tensor:
        """The layer's attention and the product behind it; options of `attend`."""
        return self.product(self.attend(q, k, v, p, rope, **options), p + "attn_output", self._sizes.n_embd)

    def normed_attention(
        self, x: Tensor, p: str, rope: Rope, *, cache: int, keyed: bool = False, **options: Any
    ) -> Tensor:
        """The layer's attention over x and the product behind it, with heads of queries, keys and values normed. cache:
        the layer whose keys and values these are, itself or an earlier one. keyed: values are the keys before their
        norm. options: of ops.flash_attn."""
        s = self._sizes
        q = self.product(x, p + "attn_q", s.n_head * s.head_dim)
        if cache != layer_of(p):
            a = self.attend_to(cache, self.norm(q, p + "attn_q_norm", s.head_dim), p, rope, **options)
        else:
            k = self.product(x, p + "attn_k", s.n_head_kv * s.head_dim)
            v = k if keyed else self.product(x, p + "attn_v", s.n_head_kv * s.head_dim)
            v = ops.rms_norm(self._graph, v, None, s.eps, p + "attn_v_norm", size=s.head_dim)
            a = self.attend(*self.head_norms(q, k, p), v, p, rope, **options)
        return self.product(a, p + "attn_output", s.n_embd)

    def gated(self, x: Tensor, p: str, n_ff: int, unit: Gated, of: str = "") -> Tensor:
        """unit(gate(x), up(x)), `n_ff` values wide; unit: ops.swiglu or ops.geglu. of: what names end in."""
        gate, up = (self.product(x, f"{p}ffn_{part}{of}", n_ff) for part in ("gate", "up"))
        return unit(self._graph, gate, up, f"{p}ffn_glu{of}")

    def feed_forward(self, x: Tensor, p: str, n_ff: int, unit: Gated, of: str = "") -> Tensor:
        """down(unit(gate(x), up(x)))"""
        return self.product(self.gated(x, p, n_ff, unit, of), f"{p}ffn_down{of}", self._sizes.n_embd)

    def shared_experts(self, x: Tensor, p: str, n_ff: int) -> Tensor:
        """What those compute that are every token's."""
        return self.feed_forward(x, p, n_ff, ops.swiglu, "_shexp")

    def behind_gated_experts(self, x: Tensor, h: Tensor, p: str, e: Experts) -> Tensor:
        """x and what experts compute over h, those that are every token's times the sigmoid of a gate."""
        g = self._graph
        gate = self.product(h, p + "ffn_gate_inp_shexp", 1)
        shared = self.shared_experts(h, p, e.n_ff_shared)
        x = ops.add(g, x, self.experts(h, p, e), p + "ffn_moe_residual")
        return ops.elementwise(g, ("add", 0, ("mul", 1, ("sigmoid", 2))), (x, shared, gate), p + "ffn_residual")

    def experts(
        self,
        x: Tensor,
        p: str,
        e: Experts,
        unit: Gated = ops.swiglu,
        *,
        gated: bool = True,
        logits: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum of what each token's experts compute, down(unit(gate(x), up(x))). gated: without a gate in
        the file it is missing; else it is then down(silu(up(x))). logits: of the experts, those of x unless told."""
        g = self._graph
        if logits is None:
            logits = self.product(x, p + "ffn_gate_inp", e.count)
        options: dict[str, Any] = {"gating": e.gating, "groups": e.groups, "norm": e.norm, "scale": e.scale}
        bias = g.optional_weight(p + "exp_probs_b.bias", e.count)
        routes = ops.top_k(g, logits, e.used, p + "ffn_moe_topk", bias=bias, **options)

        def product(part: str, x: Tensor, row: int, rows: int) -> Tensor:
            name = f"{p}ffn_{part}_exps"
            weight = g.weight(name + ".weight", row, rows, e.count)
            scales = g.optional_weight(name + ".scale", e.count)
            bias = self._bias(name, rows, e.count, needed=self._biased)
            return ops.mul_mat_id(g, weight, x, routes, name, scales=scales, bias=bias)

        def half(part: str, first: int) -> Tensor:
            """Of gate and up that lie in one matrix of each expert."""
            name = p + "ffn_gate_up_exps"
            both = g.weight(name + ".weight", x.row, 2 * e.n_ff, e.count)
            return ops.mul_mat_id(g, rows_of(both, first, e.n_ff), x, routes, f"{name}.{part}")

        if g.has(p + "ffn_gate_up_exps.weight"):
            h = unit(g, half("gate", 0), half("up", e.n_ff), p + "ffn_moe_glu")
        elif gated or g.has(p + "ffn_gate_exps.weight"):
            gate, up = (product(part, x, x.row, e.n_ff) for part in ("gate", "up"))
            h = unit(g, gate, up, p + "ffn_moe_glu")
        else:
            h = ops.unary(g, "silu", product("up", x, x.row, e.n_ff), p + "ffn_moe_act")
        n_embd = self._sizes.n_embd
        return ops.weighted_sum(g, product("down", h, e.n_ff, n_embd), routes, p + "ffn_moe_out")

    def wide_feed_forward(self, x: Tensor, p: str, n_ff: int, unit: Gated) -> Tensor:
        """feed_forward, with gate above up in one tensor."""
        g, name = self._graph, p + "ffn_up"
        both = self.product(x, name, 2 * n_ff)
        gate, up = (ops.view(g, both, first, n_ff, f"{name}.{part}") for part, first in (("gate", 0), ("up", n_ff)))
        return self.product(unit(g, gate, up, p + "ffn_glu"), p + "ffn_down", self._sizes.n_embd)

    def mlp(self, x: Tensor, p: str, n_ff: int, function: str) -> Tensor:
        """down(function(up(x)))"""
        up = ops.unary(self._graph, function, self.product(x, p + "ffn_up", n_ff), p + "ffn_act")
        return self.product(up, p + "ffn_down", self._sizes.n_embd)

    def logits(
        self,
        x: Tensor,
        norm: Callable[[Tensor, str], Tensor] | None = None,
        *,
        scale: float = 1.0,
        cap: float = 0.0,
        tied: bool = True,
    ) -> None:
        """The next token out of the last layer's result, by the output's rows, or the embeddings' if it has none and
        may be `tied`. norm: `norm` unless told. scale, cap: of the logits, c * tanh(logit / c). Where embeddings are
        wanted, these in place of it."""
        g, s = self._graph, self._sizes
        norm = norm or self.norm
        own = g.has("output.weight") or not tied
        output = g.weight("output.weight", s.n_embd, s.n_vocab) if own else self._table
        bias = g.optional_weight("output.bias", s.n_vocab)
        if g.pooling:
            ops.pool(g, norm(x, "output_norm"))
            return
        x = norm(ops.output_rows(g, x), "output_norm")
        logits = ops.mul_mat(g, output, x, "logits", bias)
        if scale != 1:
            logits = ops.scale(g, logits, scale, "logits_scaled")
        ops.sample(g, ops.softcap(g, logits, cap, "logits_capped") if cap else logits)
