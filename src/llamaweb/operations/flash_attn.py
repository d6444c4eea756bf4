"""Attention with its cache: the rotation of heads, the writing of keys and values, and the attention itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llamaweb.errors import UnsupportedError
from llamaweb.graph import Graph, Tensor, misfit
from llamaweb.kernels import flash_attn as tiles
from llamaweb.kernels import flash_attn_vec as vec
from llamaweb.kernels import library
from llamaweb.kernels.cache import cache_format, width
from llamaweb.kernels.checks.attention import MOST_TOKENS
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import BATCH, PHASES, Launch, Variant, arena, kernel
from llamaweb.kernels.library import Attention
from llamaweb.kernels.tuner import Shape, cached
from llamaweb.operations.operation import Lowering, Operation, Site, Use
from llamaweb.operations.step import Step, Value, View
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope


def rope(g: Graph, x: Tensor, rotation: Rope, head_dim: int, name: str) -> Tensor:
    """Each head of `head_dim` numbers of x, rotated by its token's position, or in a batch of texts by its place there:
    only how far tokens of a text are apart counts."""
    return g.node("rope", name, x.shape, (x,), rope=rotation, head_dim=head_dim)


def flash_attn(
    g: Graph,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    *,
    layer: int,
    head_dim: int,
    head_dim_v: int = 0,
    n_head_kv: int = 0,
    scale: float,
    name: str,
    window: int = 0,
    softcap: float = 0.0,
    temperature: tuple[float, int] | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Appends k and v to the layer's cache, and attends causally to it; or attends within each text of the batch, as
    the graph's pooling says: (n_head * head_dim_v, T).

    head_dim: of q and k. head_dim_v: of v, and of what it gives; 0: as of k. v: None: the first head_dim_v numbers of
    each head of k are its value, too. k: None: keys and values are those of the earlier layer `layer`, of n_head_kv
    heads. window: how many of the last tokens, itself included, a token sees, or, where it sees those behind it, too,
    twice how many on each side; 0: all. softcap: of scores, c * tanh(score / c); 0: none. temperature (s, n): scores of
    the query at position p are multiplied by 1 + s * log(p // n + 1). sinks: of each head, a score beside those of the
    tokens, which has no value and only takes weight.
    """
    params: dict[str, Any] = {"layer": layer, "head_dim": head_dim, "head_dim_v": head_dim_v or head_dim}
    n_head_kv = k.row // head_dim if k else n_head_kv
    _check(g, q, k, v, n_head_kv, layer, head_dim, head_dim_v or head_dim, name)
    params |= {"n_head_kv": n_head_kv, "scale": scale, "window": window, "softcap": softcap, "temperature": temperature}
    params |= {"shared": k is None, "in_keys": k is not None and v is None}
    if g.pooling:
        if k is None:
            raise UnsupportedError("Embeddings of a model whose layers share keys and values are not supported yet.")
        del params["layer"]  # which only its cache has
        params["causal"] = g.pooling.causal
    shape = (q.row // head_dim * (head_dim_v or head_dim), q.rows)
    return g.node("flash_attn", name, shape, tuple(x for x in (q, k, v, sinks) if x), **params)


def _check(
    g: Graph,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    n_head_kv: int,
    layer: int,
    head_dim: int,
    head_dim_v: int,
    name: str,
) -> None:
    """Raises LlamaWebError for heads that do not fit, and for a second attention that would write a layer's cache."""
    rows = {"q": q.row % head_dim, "k": k.row % head_dim if k else 0}
    rows["v"] = v.row - n_head_kv * head_dim_v if v else 0
    if wrong := [x for x, rest in rows.items() if rest]:
        raise misfit(name, f"{wrong[0]} has no whole heads, of {head_dim} numbers in q and k and {head_dim_v} in v")
    if not n_head_kv or q.row // head_dim % n_head_kv:
        raise misfit(name, f"{q.row // head_dim} heads of queries do not divide into {n_head_kv} of keys")
    writers = (node for node in g.nodes if node.op == "flash_attn" and not node.params["shared"])
    if k and any(node.params.get("layer") == layer for node in writers):
        raise misfit(name, f"another attention writes the cache of layer {layer}, so this one needs a layer of its own")


class RopeOfHeads(Operation):
    name = "rope"
    templates = ("rope",)
    parts = frozenset({"x", "y"})

    def lower(self, node: Tensor, low: Lowering) -> None:
        low.emit(self.name, node.name, {"x": low.view(node.src[0]), "y": low.new(node)}, **node.params)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, y, p = step.values["x"], step.values["y"], step.params
        places, in_place = ((x.first, x.pitch), (y.first, y.pitch)), x.value is y.value
        heads = x.row // p["head_dim"]
        return rope_kernel(p["rope"], p["head_dim"], heads, *places, y.n_tokens, in_place=in_place)


def rope_kernel(
    rotation: Rope,
    head_dim: int,
    heads: int,
    x: tuple[int, int],
    y: tuple[int, int],
    n_tokens: int,
    *,
    in_place: bool = False,
) -> Launch:
    """x, y: where the heads of the first token begin, and how far from there the next token's are."""
    shader = kernel(
        "rope",
        [*([] if in_place else [arena("x", "f32")]), PHASES, BATCH, arena("y", "f32")],
        x="y" if in_place else "x",
        head_dim=head_dim,
        heads=heads,
        mode=rotation.mode,
        n_dims=rotation.n_dims,
        offset=rotation.offset,
        magnitude=rotation.magnitude,
        x_first=x[0],
        x_pitch=x[1],
        y_first=y[0],
        y_pitch=y[1],
        workgroup=64,
    )
    of_head = head_dim - rotation.n_dims // 2  # pairs, and numbers that stay
    return Launch(shader, (-(-heads * of_head // 64), n_tokens, 1), 1 if n_tokens > 1 else 0)


class _OfCache(Operation):
    """What reads or writes a layer's cache."""

    def moved(self, slot: str, use: Use) -> int:
        size = use.sizes[slot]
        return size * self._rows(use) // int(use.constants["n_ctx"]) if slot in ("k_cache", "v_cache") else size

    def _rows(self, use: Use) -> int:
        return use.seen

    def flops(self, use: Use) -> int:
        """A product with K and one with V, of heads whose cache is bound."""
        c = use.constants
        window = c.get("window") or use.n_past + use.tokens
        if c.get("causal", True):
            seen = sum(min(use.n_past + i + 1, window) for i in range(use.tokens))
        else:
            seen = use.tokens * min(use.tokens, window)
        dims = int(c["head_dim"]) + int(c["head_dim_v"])
        return 2 * dims * int(c["kv_heads"]) * int(c["n_head"]) // int(c["n_head_kv"]) * seen


class RopeKV(_OfCache):
    """Keys and values into the cache; fused, behind norms and rotation of their heads and the queries'."""

    name = "rope_kv"
    templates = ("rope_kv",)
    prepares = ("k_cache", "k_cache")

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        return library.rope_kv(_attention(step, site), step.n_tokens)

    def written(self, slot: str) -> bool:
        return slot in ("k_cache", "v_cache")

    def _rows(self, use: Use) -> int:
        return use.n_tokens

    def flops(self, use: Use) -> int:
        return 0


class FlashAttn(_OfCache):
    """Of a batch, and what the graph's attention becomes: q, k and v side by side, the cache written, the attention. Of
    texts there is no cache: it reads q, k and v of the batch."""

    name = "flash_attn"
    templates = ("flash_attn",)
    case_tokens = MOST_TOKENS
    variants = tiles.FlashAttn
    tuned = ("prefill", "embed")
    cached = True

    def lower(self, node: Tensor, low: Lowering) -> None:
        p = node.params
        sources = [x for x in node.src if x.op != "weight"]
        sinks = tuple(x for x in node.src if x.op == "weight")
        weights = {"sinks": sinks} if sinks else {}
        joint = Value(node.name + ".qkv", sum(x.row for x in sources), node.rows, in_blocks=False)
        first = 0
        for letter, part in zip("qkv", sources, strict=False):
            low.copy(low.groups(part), View(joint, part.row, first), f"{node.name}.{letter}")
            first += part.row
        qkv = View.of(joint)
        params = {**p, "n_head": sources[0].row // p["head_dim"]}
        if not p["shared"] and not low.graph.pooling:
            low.emit("rope_kv", node.name.replace("attn", "rope"), {"qkv": qkv}, **params)
        y = low.new(node)
        if node.rows > 1 or low.graph.pooling:
            low.emit("flash_attn", node.name, {"qkv": qkv, "y": y}, weights, **params)
        elif low.splits == 1:
            low.emit("flash_attn_vec", node.name, {"qkv": qkv, "y": y}, weights, **params)
        else:
            size = params["n_head"] * low.splits * (width(p["head_dim_v"]) + 4)
            parts = View.of(Value(node.name + ".parts", size, 1, in_blocks=False))
            low.emit("flash_attn_vec", node.name, {"qkv": qkv, "y": parts}, weights, splits=low.splits, **params)
            shape = {"head_dim": p["head_dim_v"], "n_head": params["n_head"], "splits": low.splits}
            low.emit("flash_attn_reduce", node.name + ".sum", {"x": parts, "y": y}, **shape)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        return library.flash_attn(_attention(step, site), step.n_tokens, site.profile, variant=variant)

    def shape(self, step: Step, site: Site) -> Shape:
        return attention_shape(self.name, _attention(step, site), step.n_tokens)

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        return [*tiles.candidates(shape.widths, shape.n, shape.n_tokens, profile, mode)]


class FlashAttnVec(_OfCache):
    """Of one token; fused, with the writing of its key and value."""

    name = "flash_attn_vec"
    templates = ("flash_attn_vec",)
    variants = vec.FlashAttnVec
    tuned = ("decode", "decode_long")
    cached = True
    in_lanes = frozenset({"y"})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        return library.flash_attn_vec(
            _attention(step, site),
            site.profile,
            splits=step.params.get("splits", 1),
            y_lanes="y" in step.lane_order,
            rotated=not step.params.get("writes", False),
            variant=variant,
        )

    def shape(self, step: Step, site: Site) -> Shape | None:
        if not step.params.get("writes", False):  # as where nothing is fused
            return None
        return attention_shape(self.name, _attention(step, site), 1, step.params.get("splits", 1))

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        return [*vec.candidates(shape.widths, shape.group, shape.splits, profile, mode)]


class FlashAttnReduce(Operation):
    """The parts of one token's attention, put together."""

    name = "flash_attn_reduce"
    templates = ("flash_attn_reduce",)
    in_lanes = frozenset({"y"})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        p = step.params
        lanes = "y" in step.lane_order
        return library.flash_attn_reduce(p["head_dim"], p["n_head"], p["splits"], y_lanes=lanes)


def attention_shape(op: str, a: Attention, n_tokens: int, splits: int = 1) -> Shape:
    """What tuning knows attention by."""
    shape = Shape(op, cached(a.type_k, a.type_v), a.head_dim, a.n_head, "store", v=a.of_value)
    return replace(shape, n_tokens=n_tokens, group=a.group, splits=splits)


def _attention(step: Step, site: Site) -> Attention:
    p, cache = step.params, site.cache
    places: dict[str, Any]
    if cache:
        places = {"n_ctx": cache.rows, "ring": cache.ring, "type_k": cache.k, "type_v": cache.v}
    else:
        places = {"n_ctx": step.n_tokens, "texts": IO.texts(site.n_ubatch), "causal": p["causal"]}
        places |= {"type_k": cache_format("f32", p["head_dim"])}
        places["type_v"] = None if p["in_keys"] else cache_format("f32", p["head_dim_v"])
    return Attention(
        rope=p.get("rope"),
        head_dim=p["head_dim"],
        n_head=p["n_head"],
        n_head_kv=p["n_head_kv"],
        scale=p["scale"],
        window=p["window"],
        head_eps=p.get("head_eps"),
        norm_behind=p.get("norm_behind", False),
        v_eps=p.get("v_eps"),
        bound=site.heads,
        softcap=p["softcap"],
        temperature=p["temperature"],
        sinks="sinks" in step.weights,
        head_dim_v=p["head_dim_v"],
        shared=p["shared"],
        **places,
    )
