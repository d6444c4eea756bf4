"""The kernel library: for each fused operation and device profile, the template, its constants and its workgroups."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from llamaweb.kernels.cache import CACHE_FORMATS, CacheFormat
from llamaweb.kernels.formats import BLOCK, Format
from llamaweb.profile import DESKTOP, DeviceProfile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Slot:
    """One binding of a kernel: its variable's name in WGSL, the element type of its array, "read" or "read_write"."""

    name: str
    type: str
    access: str


@dataclass(frozen=True)
class Kernel:
    """A shader to be compiled: equal kernels are one pipeline."""

    template: str
    constants: tuple[tuple[str, Any], ...]
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Launch:
    """A kernel and its workgroups for a full batch. With `token_tile`, the second count grows with the batch's tokens:
    ceil(tokens / token_tile)."""

    kernel: Kernel
    workgroups: tuple[int, int, int]
    token_tile: int = 0
    plain: Launch | None = None  # what does the same on any device, with the same bindings


def _kernel(template: str, slots: list[Slot], **constants: Any) -> Kernel:
    return Kernel(template, tuple(sorted(constants.items())), tuple(slots))


def _planes(format: Format, access: str = "read") -> list[Slot]:
    return [Slot(f"w_{plane.name}", plane.type, access) for plane in format.planes]


def _weight(format: Format) -> list[Slot]:
    codes = [Slot("w_codes", format.codebook.type, "read")] if format.codebook else []
    return [*_planes(format), *codes]


# The arena is one buffer, and WebGPU lets a dispatch use a buffer either read-only or writable as a whole:
# so everything in the arena is bound writable.
def _arena(name: str, type: str = "vec4<f32>") -> Slot:
    return Slot(name, type, "read_write")


_BATCH = Slot("batch", "u32", "read")
_PHASES = Slot("phases", "u32", "read")
GLU = ("swiglu", "geglu")  # epilogues that halve the rows: gate above up

_NORM = Slot("norm_weight", "vec4<f32>", "read")
_BIAS = Slot("bias", "f32", "read")


def repack(format: Format, units: int) -> Launch:
    """From the file's layout to planes, `units` times `format.unit` blocks; slots raw, job and the planes."""
    slots = [Slot("raw", "u32", "read"), Slot("job", "u32", "read"), *_planes(format, "read_write")]
    constants = {"format": format.name, "split": format.split, "unit": format.unit, "block_bytes": format.block_bytes}
    return Launch(_kernel("repack", slots, workgroup=64, **constants), _spread(-(-units // 64)))


def lane_order() -> Launch:
    """A vector into lane order; slots raw, job and w."""
    slots = [Slot("raw", "vec4<f32>", "read"), Slot("job", "u32", "read"), Slot("w", "vec4<f32>", "read_write")]
    return Launch(_kernel("lane_order", slots, workgroup=64), (1, 1, 1))


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
    kernel = _kernel(
        "get_rows",
        [*_weight(format), _BATCH, _arena("y")],
        format=format.name,
        split=format.split,
        k=k,
        rows=rows,
        scale=scale,
        y_lanes=y_lanes,
        piece=piece,
        workgroup=32,
    )
    return Launch(kernel, (1, n_tokens, 1), 1)


def rms_norm(k: int, eps: float, n_tokens: int, *, epilogue: str = "store") -> Launch:
    """y = x / rms(x) * weight; epilogue "add" adds it to y."""
    kernel = _kernel("rms_norm", [_arena("x"), _NORM, _arena("y")], k=k, eps=eps, epilogue=epilogue, workgroup=64)
    return Launch(kernel, (1, n_tokens, 1), 1)


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


def packed_works(format: Format, profile: DeviceProfile) -> bool:
    """Whether the packed integer dot can compute products of a format on a device."""
    return format.packed and profile.packed_dot and 4 <= profile.subgroup_size <= 64


_PACKED_CHUNK = 192  # blocks of activations in workgroup memory: at most 80 bytes each, of 16 KiB


def default_variant(format: Format, k: int, n: int, epilogue: str, profile: DeviceProfile) -> MulMatVec:
    """What was fastest over the shapes of models from 135M to 8B (benchmarks), for a device with these subgroups."""
    size = profile.subgroup_size
    if packed_works(format, profile) and size >= 16 and k >= 2048:
        if n >= 16384:
            return MulMatVec(256, size, 4, size, packed=True)
        return MulMatVec(256, size if n > 4096 else 2 * size, 4 if k > 8192 else 2, size, packed=True)
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
    slots = [*_weight(format), _arena("x")]
    slots += [_arena("post"), replace(_NORM, name="post_norm_weight")] if post_eps is not None else []
    slots += [_NORM] if eps is not None else []
    slots += [_BIAS] if bias else []
    slots += [_BATCH] if last_row else []
    slots += [_arena("sum")] if keeps_sum else []
    slots += [_arena("y", "f32")]
    packed = {"chunk": min(k // BLOCK, _PACKED_CHUNK)} if v.packed else {}
    kernel = _kernel(
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
    return Launch(kernel, _spread(-(-n // per_workgroup)), plain=plain)


@dataclass(frozen=True)
class MulMat:
    """A variant of the matrix-matrix product: `wx` times `wy` invocations compute `tile_m` tokens by `tile_n` rows."""

    tile_m: int
    tile_n: int
    wx: int
    wy: int

    @property
    def bytes(self) -> int:
        """Workgroup memory: 32 columns of each token and row."""
        return 4 * 32 * (self.tile_m + self.tile_n)


def mul_mat(
    format: Format,
    k: int,
    n: int,
    n_tokens: int,
    profile: DeviceProfile = DESKTOP,
    *,
    bias: bool = False,
    epilogue: str = "store",
    offset: int = 0,
    stride: int = 0,
    variant: MulMat | None = None,
) -> Launch:
    """y[token * stride + offset + row] = W x for a batch of tokens."""
    out = n // 2 if epilogue in GLU else n
    slots = [*_weight(format), _arena("x")]
    slots += [_BIAS] if bias else []
    slots += [_BATCH, _arena("y", "f32")]
    v = variant or default_tile(n, n_tokens, profile)
    kernel = _kernel(
        "mul_mat",
        slots,
        format=format.name,
        split=format.split,
        k=k,
        n=n,
        tile_m=v.tile_m,
        tile_n=v.tile_n,
        wx=v.wx,
        wy=v.wy,
        bias=bias,
        epilogue=epilogue,
        offset=offset,
        stride=stride or out,
    )
    tile_out = v.tile_n // 2 if epilogue in GLU else v.tile_n
    return Launch(kernel, (-(-out // tile_out), -(-n_tokens // v.tile_m), 1), v.tile_m)


def default_tile(n: int, n_tokens: int, profile: DeviceProfile) -> MulMat:
    """A CPU wants much arithmetic for each load, so large tiles an invocation; a GPU, enough workgroups to fill it."""
    if is_cpu(profile):
        return MulMat(64, 64, 8, 8)
    wide = MulMat(64, 128, 16, 16)
    if -(-n // 128) * -(-n_tokens // 64) >= 256 and wide.bytes <= profile.max_compute_workgroup_storage_size:
        return wide
    if -(-n // 64) * -(-n_tokens // 64) >= 128:
        return MulMat(64, 64, 16, 16)
    return MulMat(32, 32, 16, 16)


def is_cpu(profile: DeviceProfile) -> bool:
    """Whether the adapter is a software one: narrow subgroups mean few lanes in all."""
    return 4 <= profile.subgroup_size <= 8


def glu(kind: str, n: int, n_tokens: int) -> Launch:
    """A gated linear unit, of GLU."""
    kernel = _kernel("glu", [_arena("x", "f32"), _arena("y", "f32")], n=n, glu=kind, workgroup=64)
    return Launch(kernel, (-(-n // 64), n_tokens, 1), 1)


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
    cache = [_arena("k_cache", "u32"), _arena("v_cache", "u32")]
    slots = [_arena("qkv", "f32"), _PHASES, _BATCH, *attention.head_norm, *cache]
    kernel = _kernel("rope_kv", slots, workgroup=32, **attention.constants)
    return Launch(kernel, (attention.n_head + 2 * attention.n_head_kv, n_tokens, 1), 1)


def flash_attn_vec(attention: Attention, profile: DeviceProfile, *, splits: int = 1, y_lanes: bool = False) -> Launch:
    """rope_kv and the attention of one token; with splits, its parts for flash_attn_reduce."""
    cache = [_arena("k_cache", "vec4<u32>"), _arena("v_cache", "vec4<u32>")]
    slots = [_arena("qkv", "f32"), _PHASES, _BATCH, *attention.head_norm, *cache, _arena("y")]
    head_dim = attention.head_dim
    # On a CPU every invocation of a workgroup costs; on a GPU few barriers win.
    workgroup = max(64 if is_cpu(profile) else 256, head_dim // 8)
    kernel = _kernel(
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
    return Launch(kernel, (attention.n_head, splits, 1), plain=plain)


def attention_splits(n_head: int, profile: DeviceProfile) -> int:
    """Workgroups that share a head's positions over a long context: 1 where there are few cores to share them, else
    enough to fill a large GPU, and no more, since each rotates and rounds for itself."""
    return 1 if is_cpu(profile) else next(splits for splits in (32, 16, 8, 4) if splits * n_head <= 256 or splits == 4)


def flash_attn_reduce(head_dim: int, n_head: int, splits: int, *, y_lanes: bool = False) -> Launch:
    """The parts of flash_attn_vec, put together."""
    constants = {"head_dim": head_dim, "n_head": n_head, "splits": splits, "y_lanes": y_lanes}
    kernel = _kernel("flash_attn_reduce", [_arena("x"), _arena("y")], workgroup=32, **constants)
    return Launch(kernel, (n_head, 1, 1))


def flash_attn(attention: Attention, n_tokens: int) -> Launch:
    """The attention of a batch, behind rope_kv."""
    head_dim = attention.head_dim
    half = attention.type_k.name == attention.type_v.name == "f16"  # else a tile takes twice the memory
    queries = 16 if head_dim <= 128 else 8
    keys = max(1, min(32, (2048 if half else 1024) // head_dim))
    lanes = 8
    cache = [Slot("k_cache", "vec4<u32>", "read"), Slot("v_cache", "vec4<u32>", "read")]
    kernel = _kernel(
        "flash_attn",
        [_arena("qkv"), _BATCH, *cache, _arena("y")],
        queries=queries,
        keys=keys,
        lanes=lanes,
        parts=-(-head_dim // 4 // lanes),
        half=half,
        **attention.constants,
    )
    return Launch(kernel, (attention.n_head, -(-n_tokens // queries), 1), queries)


def sample(n: int) -> Launch:
    slots = [_arena("logits", "f32"), Slot("batch", "u32", "read_write")]
    return Launch(_kernel("sample", slots, n=n, workgroup=256), (1, 1, 1))


def cross_entropy(n: int, n_tokens: int, targets: int, results: int) -> Launch:
    slots = [_arena("logits", "f32"), Slot("batch", "u32", "read_write")]
    kernel = _kernel("cross_entropy", slots, n=n, workgroup=128, targets=targets, results=results)
    return Launch(kernel, (1, n_tokens, 1), 1)


def _spread(workgroups: int) -> tuple[int, int, int]:
    """Workgroups over two dimensions where one does not hold them (65,535); kernels count x + y * 65535."""
    return (workgroups, 1, 1) if workgroups <= 65535 else (65535, -(-workgroups // 65535), 1)
