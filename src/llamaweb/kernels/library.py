"""The kernel library: for each fused operation and device profile, the template, its constants and its workgroups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llamaweb.ggml import GGMLType
from llamaweb.kernels import flash_attn as tiles
from llamaweb.kernels import flash_attn_vec as vec_variants
from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat, Widths, width
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.flash_attn_vec import FlashAttnVec
from llamaweb.kernels.formats import Format, whole_blocks
from llamaweb.kernels.kernel import (
    BATCH,
    PHASES,
    Launch,
    Slot,
    arena,
    kernel,
    planes,
    spread,
    weight,
)
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope


def repack(format: Format, units: int) -> Launch:
    """From the file's layout to planes, `units` times `format.unit` blocks; slots raw, job and the planes."""
    slots = [Slot("raw", "u32", "read"), Slot("job", "u32", "read"), *planes(format, "read_write")]
    constants = {"format": format.name, "split": format.split, "unit": format.unit, "block_bytes": format.block_bytes}
    return Launch(kernel("repack", slots, workgroup=64, **constants), spread(-(-units // 64)))


def pad_rows(format: Format, words: int) -> Launch:
    """Rows of a format that is not repacked, to whole blocks of 32: `words` words of them; slots raw, job and w."""
    slots = [Slot("raw", "u32", "read"), Slot("job", "u32", "read"), Slot("w", "u32", "read_write")]
    return Launch(kernel("pad_rows", slots, workgroup=64, bytes=format.block_bytes), spread(-(-words // 64)))


def vector(type: GGMLType, count: int, *, lane_order: bool = False) -> Launch:
    """`count` numbers of a vector as float32, in lane order or one behind the other; slots raw, job and w."""
    slots = [Slot("raw", "u32", "read"), Slot("job", "u32", "read"), Slot("w", "f32", "read_write")]
    shader = kernel("vector", slots, workgroup=64, type=type.name.lower(), lane_order=lane_order)
    return Launch(shader, spread(-(-count // 64)))


def find_nan(format: Format, blocks: int) -> Launch:
    """The first of `blocks` blocks of 32 weights that has one which is NaN or infinite; slots of the weight, and found,
    a word that begins with the largest."""
    workgroup, each = 64, 16  # blocks of an invocation
    slots = [*weight(format), Slot("found", "atomic<u32>", "read_write")]
    constants = {"format": format.name, "split": format.split, "blocks": blocks, "each": each}
    shader = kernel("find_nan", slots, workgroup=workgroup, **constants)
    return Launch(shader, spread(-(-blocks // (workgroup * each))))


@dataclass(frozen=True)
class Attention:
    """What the attention kernels of a layer share. n_ctx: rows of the cache for a head; ring: they hold the last
    positions only. window: how many of the last tokens one sees; 0: all. head_eps: of the norm of each head of q and k;
    None: there is none; norm_behind: it comes behind the rotation. type_k, type_v: the cache; of values, None: they are
    the first numbers of keys. bound: the first key-value head whose cache is bound, and how many there are; the kernels
    work for these alone. None: all. softcap: of scores, c * tanh(score / c); 0: none. temperature (s, n): scores of the
    query at position p are multiplied by 1 + s * log(p // n + 1). sinks: each head has a score that is no position's
    and only takes weight. head_dim_v: of values, and so of results; 0: as of keys. shared: keys and values are an
    earlier layer's, so that rows are queries alone. v_eps: of a norm of each head of values, without a weight; None:
    there is none. texts: words of the I/O region (`IOLayout.texts`) where there is no cache, and a batch is of whole
    texts. causal: a token sees those before it alone; else a window is half before it and half behind."""

    rope: Rope | None
    head_dim: int
    n_head: int
    n_head_kv: int
    n_ctx: int
    scale: float
    window: int = 0
    ring: bool = False
    head_eps: float | None = None
    norm_behind: bool = False
    type_k: CacheFormat = CACHE_FORMATS["f16"]
    type_v: CacheFormat | None = CACHE_FORMATS["f16"]
    bound: tuple[int, int] | None = None
    softcap: float = 0.0
    temperature: tuple[float, int] | None = None
    sinks: bool = False
    head_dim_v: int = 0
    shared: bool = False
    v_eps: float | None = None
    texts: tuple[int, int] | None = None
    causal: bool = True

    @property
    def of_value(self) -> int:
        """Numbers of a head of values."""
        return self.head_dim_v or self.head_dim

    @property
    def widths(self) -> Widths:
        return Widths(width(self.head_dim), width(self.of_value))

    @property
    def kv_heads(self) -> int:
        """Key-value heads whose cache is bound."""
        return self.bound[1] if self.bound else self.n_head_kv

    @property
    def whole_eights(self) -> bool:
        """Whether heads are read and written as vec4, eight numbers at a time."""
        return self.head_dim % 8 == self.of_value % 8 == 0

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.n_head // self.n_head_kv

    @property
    def constants(self) -> dict[str, Any]:
        rows, type_v = self.kv_heads * self.n_ctx, self.type_v or self.type_k
        of_kv = 0 if self.shared else self.head_dim + (self.of_value if self.type_v else 0)
        return {
            "mode": self.rope.mode if self.rope else None,
            "n_dims": self.rope.n_dims if self.rope else 0,
            "offset": self.rope.offset if self.rope else 0,
            "magnitude": self.rope.magnitude if self.rope else 1.0,
            "head_dim": self.head_dim,
            "width": self.widths.k,
            "head_dim_v": self.of_value,
            "width_v": self.widths.v,
            "qkv_row": self.n_head * self.head_dim + self.n_head_kv * of_kv,
            "y_row": whole_blocks(self.n_head * self.of_value),
            "eights": self.whole_eights,
            "n_head": self.n_head,
            "n_head_kv": self.n_head_kv,
            "first_kv": self.bound[0] if self.bound else 0,
            "kv_heads": self.kv_heads,
            "n_ctx": self.n_ctx,
            "scale": self.scale,
            "softcap": self.softcap,
            "temperature": self.temperature,
            "sinks": self.sinks,
            "window": self.window,
            "ring": self.n_ctx if self.ring else 0,
            "head_eps": self.head_eps,
            "norm_behind": self.norm_behind,
            "v_eps": self.v_eps,
            "shared": self.shared,
            "type_k": self.type_k.name,
            "type_v": self.type_v.name if self.type_v else None,
            "k_unit": self.type_k.unit(self.head_dim),
            "v_unit": type_v.unit(self.of_value),
            "k_scales": self.type_k.scales_at(self.head_dim, rows),
            "v_scales": type_v.scales_at(self.of_value, rows),
        }

    def cache_bytes(self, format: CacheFormat) -> int:
        """Of keys."""
        return format.bytes(self.head_dim, self.kv_heads * self.n_ctx)

    def cache(self, type: str, access: str) -> list[Slot]:
        """The bindings of keys and, where these are kept, of values."""
        return [Slot(name, type, access) for name in ("k_cache", *(["v_cache"] if self.type_v else []))]

    @property
    def phases(self) -> list[Slot]:
        return [PHASES] if self.rope else []

    @property
    def of_heads(self) -> list[Slot]:
        """What else attention reads of each head."""
        return [Slot("sinks", "f32", "read")] if self.sinks else []

    @property
    def head_norm(self) -> list[Slot]:
        return [Slot("head_norm", "f32", "read")] if self.head_eps is not None else []


def rope_kv(attention: Attention, n_tokens: int) -> Launch:
    """Norms and rotates q and k of a batch, and appends k and v to the cache."""
    cache = attention.cache("u32", "read_write")
    slots = [arena("qkv", "f32"), *attention.phases, BATCH, *attention.head_norm, *cache]
    shader = kernel("rope_kv", slots, workgroup=32, **attention.constants)
    return Launch(shader, (attention.kv_heads * (attention.group + len(cache)), n_tokens, 1), 1)


def flash_attn_vec(
    attention: Attention,
    profile: DeviceProfile,
    *,
    splits: int = 1,
    y_lanes: bool = False,
    rotated: bool = False,
    variant: FlashAttnVec | None = None,
) -> Launch:
    """rope_kv and the attention of one token; with splits, its parts for flash_attn_reduce. rotated: behind rope_kv."""
    cache = attention.cache("vec4<u32>", "read_write")
    before = [] if rotated else [*attention.phases, *attention.head_norm]
    y = arena("y", "vec4<f32>" if attention.whole_eights or splits > 1 else "f32")
    slots = [arena("qkv", "f32"), BATCH, *before, *attention.of_heads, *cache, y]
    v = variant or vec_variants.default(attention.widths, attention.group, splits, profile)
    shader = kernel(
        "flash_attn_vec",
        slots,
        workgroup=v.workgroup,
        pieces=v.pieces,
        values=v.values,
        heads=v.heads,
        groups=v.groups(attention.widths),
        parts=v.parts(attention.widths, profile.subgroup_size),
        subgroup=profile.subgroup_size,
        splits=splits,
        y_lanes=y_lanes,
        rotated=rotated,
        **attention.constants,
    )
    plain = None
    if profile.subgroup_size:
        any_device = replace(profile, subgroup_size=0)
        least = vec_variants.default(attention.widths, 1, 1, any_device)
        same: dict[str, Any] = {"splits": splits, "y_lanes": y_lanes, "rotated": rotated}
        plain = flash_attn_vec(attention, any_device, variant=least, **same)
    return Launch(shader, (attention.kv_heads * attention.group // v.heads, splits, 1), plain=plain)


def attention_splits(n_head: int, profile: DeviceProfile) -> int:
    """Workgroups that share a head's positions over a long context: 1 on a CPU, else enough for a GPU's cores, and no
    more, since each rotates and rounds for itself."""
    if profile.software:
        return 1
    return next(splits for splits in (16, 8, 4) if splits * n_head <= 4 * profile.cores or splits == 4)


def flash_attn_reduce(head_dim: int, n_head: int, splits: int, *, y_lanes: bool = False) -> Launch:
    """The parts of flash_attn_vec, put together. head_dim: of values."""
    constants = {"head_dim": head_dim, "width": width(head_dim), "n_head": n_head, "splits": splits, "y_lanes": y_lanes}
    y = arena("y", "f32" if head_dim % 8 else "vec4<f32>")
    shader = kernel("flash_attn_reduce", [arena("x"), y], workgroup=32, **constants)
    return Launch(shader, (n_head, 1, 1))


def flash_attn(
    attention: Attention, n_tokens: int, profile: DeviceProfile, *, variant: FlashAttn | None = None
) -> Launch:
    """The attention of a batch, behind rope_kv; or of a batch of texts."""
    widths, n_head = attention.widths, attention.n_head
    numbers = "vec4<f32>" if attention.whole_eights else "f32"
    v = variant or tiles.default(widths, n_head, n_tokens, profile)
    cached = [] if attention.texts else attention.cache("vec4<u32>", "read")
    shader = kernel(
        "flash_attn",
        [arena("qkv", numbers), BATCH, *attention.of_heads, *cached, arena("y", numbers)],
        texts=attention.texts,
        causal=attention.causal,
        queries=v.queries,
        keys=v.keys,
        depth=v.depth,
        wq=v.wq,
        wk=v.wk,
        ahead=v.ahead,
        paired=v.wq % 4 == 0 and v.wk % 8 == 0,
        rows=v.rows(widths),
        parts=v.parts(widths),
        **attention.constants,
    )
    least = tiles.default(widths, n_head, n_tokens, DeviceProfile())
    plain = flash_attn(attention, n_tokens, profile, variant=least) if v != least else None
    return Launch(shader, (attention.kv_heads * attention.group, -(-n_tokens // v.queries), 1), v.queries, plain)
