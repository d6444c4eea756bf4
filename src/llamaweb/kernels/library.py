"""The kernel library: for each fused operation and device profile, the template, its constants and its workgroups."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from llamaweb.kernels import flash_attn as tiles
from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.formats import BLOCK, Format
from llamaweb.kernels.kernel import (
    BATCH,
    BIAS,
    GLU,
    NORM,
    PHASES,
    Launch,
    Slot,
    arena,
    is_cpu,
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


def lane_order() -> Launch:
    """A vector into lane order; slots raw, job and w."""
    slots = [Slot("raw", "vec4<f32>", "read"), Slot("job", "u32", "read"), Slot("w", "vec4<f32>", "read_write")]
    return Launch(kernel("lane_order", slots, workgroup=64), (1, 1, 1))


def get_rows(
    format: Format,
    k: int,
    rows: int,
    n_tokens: int,
    *,
    scale: float = 1.0,
    y_lanes: bool = False,
    piece: tuple[int, int] | None = None,
) -> Launch:
    """piece: the first row and how many there are, where a binding holds only some of the table's `rows`."""
    shader = kernel(
        "get_rows",
        [*weight(format), BATCH, arena("y")],
        format=format.name,
        split=format.split,
        k=k,
        rows=rows,
        scale=scale,
        y_lanes=y_lanes,
        piece=piece,
        workgroup=32,
    )
    return Launch(shader, (1, n_tokens, 1), 1)


def rms_norm(k: int, eps: float, n_tokens: int, *, epilogue: str = "store") -> Launch:
    """y = x / rms(x) * weight; epilogue "add" adds it to y."""
    shader = kernel("rms_norm", [arena("x"), NORM, arena("y")], k=k, eps=eps, epilogue=epilogue, workgroup=64)
    return Launch(shader, (1, n_tokens, 1), 1)


@dataclass(frozen=True)
class MulMatVec:
    """A variant of the matrix-vector product: `lanes` invocations share `rows` rows, in workgroups of `workgroup`.

    subgroup: 0, or the size of every subgroup, which divides the lanes. packed: with the packed integer dot.
    """

    workgroup: int
    lanes: int
    rows: int
    subgroup: int
    packed: bool = False

    def __str__(self) -> str:
        packed = ", packed dot" if self.packed else ""
        return f"workgroup {self.workgroup}, {self.lanes} lanes, {self.rows} rows{packed}"


def packed_works(format: Format, profile: DeviceProfile) -> bool:
    """Whether the packed integer dot can compute products of a format on a device."""
    return format.packed and profile.packed_dot and 4 <= profile.subgroup_size <= 64


_PACKED_CHUNK = 192  # blocks of activations in workgroup memory: at most 80 bytes each, of 16 KiB


def default_variant(format: Format, k: int, n: int, epilogue: str, profile: DeviceProfile) -> MulMatVec:
    """What was fastest over the shapes of models from 135M to 8B (benchmarks), for a device with these subgroups."""
    size = profile.subgroup_size
    if packed_works(format, profile) and size >= 16 and k >= 2048:
        if n > 4096:
            return MulMatVec(128, size, 4, size, packed=True)
        return MulMatVec(256, 2 * size, 4 if k > 8192 else 2, size, packed=True)
    if not 16 <= size <= 64:
        lanes = size if is_cpu(profile) else 16
        return MulMatVec(64, lanes, 2 if epilogue in GLU or n < 8192 else 4, size if is_cpu(profile) else 0)
    if n >= 16384:
        return MulMatVec(128, size, 8, size)  # enough rows to fill the GPU: more of them share the activations
    if k >= 2048:
        return MulMatVec(256, 2 * size, 2 if n <= 4096 else 4, size)  # long rows: two subgroups share them
    return MulMatVec(128, size, 2, size)


def mul_mat_vec(
    format: Format,
    k: int,
    n: int,
    profile: DeviceProfile,
    *,
    eps: float | None = None,
    bias: bool = False,
    epilogue: str = "store",
    offset: int = 0,
    y_row: int = 0,
    last_row: bool = False,
    post_eps: float | None = None,
    keeps_sum: bool = False,
    lane_order: Container[str] = (),
    variant: MulMatVec | None = None,
) -> Launch:
    """y[offset + row] = W x, one token; `eps` asks for the fused rms_norm. W is (k, n) in ggml's order.

    post_eps: the input is x + rms_norm(post), of this epsilon; keeps_sum writes it to slot sum. lane_order: slots of
    vectors in lane order (wgsl/common/lanes.wgsl), where y is a vector of y_row, or of the rows of W."""
    v = variant or default_variant(format, k, n, epilogue, profile)
    slots = [*weight(format), arena("x")]
    slots += [arena("post"), replace(NORM, name="post_norm_weight")] if post_eps is not None else []
    slots += [NORM] if eps is not None else []
    slots += [BIAS] if bias else []
    slots += [BATCH] if last_row else []
    slots += [arena("sum")] if keeps_sum else []
    slots += [arena("y", "f32")]
    packed = {"chunk": min(k // BLOCK, _PACKED_CHUNK)} if v.packed else {}
    shader = kernel(
        "mul_mat_vec_packed" if v.packed else "mul_mat_vec",
        slots,
        format=format.name,
        split=format.split,
        **packed,
        k=k,
        n=n,
        workgroup=v.workgroup,
        lanes=v.lanes,
        subgroup=v.subgroup,
        rows_per_group=v.rows,
        post_eps=post_eps,
        keeps_sum=keeps_sum,
        **{f"{slot}_lanes": slot in lane_order for slot in ("x", "post", "sum", "y")},
        norm=eps is not None,
        eps=eps,
        bias=bias,
        epilogue=epilogue,
        offset=offset,
        y_row=y_row or (n // 2 if epilogue in GLU else n),
        last_row=last_row,
    )
    per_workgroup = v.workgroup // v.lanes * v.rows
    plain = None
    if v.subgroup:
        options: dict[str, Any] = {"eps": eps, "bias": bias, "epilogue": epilogue, "offset": offset}
        options |= {
            "y_row": y_row,
            "last_row": last_row,
            "post_eps": post_eps,
            "keeps_sum": keeps_sum,
            "lane_order": lane_order,
        }
        any_device = default_variant(format, k, n, epilogue, DeviceProfile())
        plain = mul_mat_vec(format, k, n, profile, **options, variant=any_device)
    return Launch(shader, spread(-(-n // per_workgroup)), plain=plain)


def glu(kind: str, n: int, n_tokens: int) -> Launch:
    """A gated linear unit, of GLU."""
    shader = kernel("glu", [arena("x", "f32"), arena("y", "f32")], n=n, glu=kind, workgroup=64)
    return Launch(shader, (-(-n // 64), n_tokens, 1), 1)


@dataclass(frozen=True)
class Attention:
    """What the attention kernels of a layer share. n_ctx: rows of the cache for a head; ring: they hold the last
    positions only. window: how many of the last tokens one sees; 0: all. head_eps: of the norm of each head of q and k;
    None: there is none. type_k, type_v: the cache."""

    rope: Rope
    head_dim: int
    n_head: int
    n_head_kv: int
    n_ctx: int
    scale: float
    window: int = 0
    ring: bool = False
    head_eps: float | None = None
    type_k: CacheFormat = CACHE_FORMATS["f16"]
    type_v: CacheFormat = CACHE_FORMATS["f16"]

    def cache_bytes(self, format: CacheFormat) -> int:
        return format.bytes(self.head_dim, self.n_head_kv * self.n_ctx)

    @property
    def constants(self) -> dict[str, Any]:
        rows = self.n_head_kv * self.n_ctx
        return {
            "mode": self.rope.mode,
            "n_dims": self.rope.n_dims,
            "magnitude": self.rope.magnitude,
            "head_dim": self.head_dim,
            "n_head": self.n_head,
            "n_head_kv": self.n_head_kv,
            "n_ctx": self.n_ctx,
            "scale": self.scale,
            "window": self.window,
            "ring": self.n_ctx if self.ring else 0,
            "head_eps": self.head_eps,
            "type_k": self.type_k.name,
            "type_v": self.type_v.name,
            "k_unit": self.type_k.unit(self.head_dim),
            "v_unit": self.type_v.unit(self.head_dim),
            "k_scales": self.type_k.scales_at(self.head_dim, rows),
            "v_scales": self.type_v.scales_at(self.head_dim, rows),
        }

    @property
    def head_norm(self) -> list[Slot]:
        return [Slot("head_norm", "f32", "read")] if self.head_eps is not None else []


def rope_kv(attention: Attention, n_tokens: int) -> Launch:
    """Norms and rotates q and k of a batch, and appends k and v to the cache."""
    cache = [arena("k_cache", "u32"), arena("v_cache", "u32")]
    slots = [arena("qkv", "f32"), PHASES, BATCH, *attention.head_norm, *cache]
    shader = kernel("rope_kv", slots, workgroup=32, **attention.constants)
    return Launch(shader, (attention.n_head + 2 * attention.n_head_kv, n_tokens, 1), 1)


def flash_attn_vec(attention: Attention, profile: DeviceProfile, *, splits: int = 1, y_lanes: bool = False) -> Launch:
    """rope_kv and the attention of one token; with splits, its parts for flash_attn_reduce."""
    cache = [arena("k_cache", "vec4<u32>"), arena("v_cache", "vec4<u32>")]
    slots = [arena("qkv", "f32"), PHASES, BATCH, *attention.head_norm, *cache, arena("y")]
    head_dim = attention.head_dim
    # On a CPU every invocation of a workgroup costs; on a GPU few barriers win.
    workgroup = max(64 if is_cpu(profile) else 256, head_dim // 8)
    shader = kernel(
        "flash_attn_vec",
        slots,
        workgroup=workgroup,
        tile=1024 if head_dim <= 128 else 512,  # what 16 KiB of workgroup memory leave
        subgroup=profile.subgroup_size,
        groups=workgroup // (head_dim // 8),
        splits=splits,
        y_lanes=y_lanes,
        **attention.constants,
    )
    plain = None
    if profile.subgroup_size:
        plain = flash_attn_vec(attention, replace(profile, subgroup_size=0), splits=splits, y_lanes=y_lanes)
    return Launch(shader, (attention.n_head, splits, 1), plain=plain)


def attention_splits(n_head: int, profile: DeviceProfile) -> int:
    """Workgroups that share a head's positions over a long context: 1 where there are few cores to share them, else
    enough to fill a large GPU, and no more, since each rotates and rounds for itself."""
    return 1 if is_cpu(profile) else next(splits for splits in (32, 16, 8, 4) if splits * n_head <= 256 or splits == 4)


def flash_attn_reduce(head_dim: int, n_head: int, splits: int, *, y_lanes: bool = False) -> Launch:
    """The parts of flash_attn_vec, put together."""
    constants = {"head_dim": head_dim, "n_head": n_head, "splits": splits, "y_lanes": y_lanes}
    shader = kernel("flash_attn_reduce", [arena("x"), arena("y")], workgroup=32, **constants)
    return Launch(shader, (n_head, 1, 1))


def flash_attn(
    attention: Attention, n_tokens: int, profile: DeviceProfile, *, variant: FlashAttn | None = None
) -> Launch:
    """The attention of a batch, behind rope_kv."""
    head_dim, n_head = attention.head_dim, attention.n_head
    v = variant or tiles.default(head_dim, n_head, n_tokens, profile)
    cache = [Slot("k_cache", "vec4<u32>", "read"), Slot("v_cache", "vec4<u32>", "read")]
    shader = kernel(
        "flash_attn",
        [arena("qkv"), BATCH, *cache, arena("y")],
        queries=v.queries,
        keys=v.keys,
        depth=v.depth,
        wq=v.wq,
        wk=v.wk,
        ahead=v.ahead,
        paired=v.wq % 4 == 0 and v.wk % 8 == 0,
        rows=v.rows(head_dim),
        parts=v.parts(head_dim),
        **attention.constants,
    )
    least = tiles.default(head_dim, n_head, n_tokens, DeviceProfile())
    plain = flash_attn(attention, n_tokens, profile, variant=least) if v != least else None
    return Launch(shader, (n_head, -(-n_tokens // v.queries), 1), v.queries, plain)


def sample(n: int) -> Launch:
    slots = [arena("logits", "f32"), Slot("batch", "u32", "read_write")]
    return Launch(kernel("sample", slots, n=n, workgroup=256), (1, 1, 1))


def cross_entropy(n: int, n_tokens: int, targets: int, results: int) -> Launch:
    slots = [arena("logits", "f32"), Slot("batch", "u32", "read_write")]
    shader = kernel("cross_entropy", slots, n=n, workgroup=128, targets=targets, results=results)
    return Launch(shader, (1, n_tokens, 1), 1)
