"""The product of a matrix and the vector of one token: variants, which of them a device can run, the kernel. Pure."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from llamaweb.kernels.formats import BLOCK, Format
from llamaweb.kernels.kernel import BATCH, BIAS, GLU, NORM, SCALES, Launch, Slot, Variant, arena, kernel, spread, weight
from llamaweb.profile import DeviceProfile

_PACKED_CHUNK = 192  # blocks of activations in workgroup memory …
_PACKED_BYTES = 80  # … of at most so many bytes each, of 16 KiB
_MOST_HELD = 8  # blocks of weights of an invocation at once: with more there are no registers for them


@dataclass(frozen=True)
class MulMatVec(Variant):
    """A variant of the matrix-vector product: `lanes` invocations share `rows` rows, in workgroups of `workgroup`.

    subgroup: 0, or the size of every subgroup, which divides the lanes, or they it. packed: with the packed integer
    dot. blocks: of each row, how many blocks of 32 weights an invocation asks for before it computes with the first;
    ahead: the first of them even before there is an input to compute with.
    """

    workgroup: int
    lanes: int
    rows: int
    subgroup: int
    packed: bool = False
    blocks: int = 1
    ahead: bool = False

    def __str__(self) -> str:
        blocks = f" × {self.blocks} blocks" if self.blocks > 1 else ""
        how = ", packed dot" if self.packed else "" if self.subgroup else ", shared memory"
        ahead = ", ahead of the input" if self.ahead else ""
        return f"workgroup {self.workgroup}, {self.lanes} lanes, {self.rows} rows{blocks}{ahead}{how}"

    def bytes(self, k: int) -> int:
        """Workgroup memory, at most: partial sums of rows and norms, and the activations of a packed dot."""
        sums = self.workgroup // (self.subgroup or 1)
        partial = 0 if self.lanes <= self.subgroup else (self.rows + 1) * sums
        whole = sum(-(-4 * numbers // 16) * 16 for numbers in (partial, sums, sums))
        return whole + (_PACKED_BYTES * packed_chunk(k) if self.packed else 0)

    def valid(self, k: int, epilogue: str, profile: DeviceProfile) -> bool:
        """Whether the kernel can be made of it for a device, and each of its lanes has blocks to ask for."""
        return (
            self.lanes <= self.workgroup <= profile.max_compute_invocations_per_workgroup
            and self.bytes(k) <= profile.max_compute_workgroup_storage_size
            and self.rows * self.blocks <= _MOST_HELD
            and (self.blocks == 1 or self.lanes * self.blocks <= k // BLOCK)
            and (self.rows % 2 == 0 or epilogue not in GLU)
        )


def packed_works(format: Format, profile: DeviceProfile) -> bool:
    """Whether the packed integer dot can compute products of a format on a device."""
    return format.packed and profile.packed_dot and 4 <= profile.subgroup_size <= 64


def packed_chunk(k: int) -> int:
    """Blocks of k activations that are in workgroup memory at once, for the packed dot."""
    return min(k // BLOCK, _PACKED_CHUNK)


def default(format: Format, k: int, n: int, epilogue: str, profile: DeviceProfile) -> MulMatVec:
    """What was fastest over the shapes of models from 135M to 8B (benchmarks), for a device with these subgroups."""
    size = profile.subgroup_size
    if packed_works(format, profile) and size >= 16 and k >= 1536:
        if k // BLOCK == 3 * (half := size // 2):  # of a whole subgroup, a quarter would have nothing to do
            rows, ahead = 2 if epilogue in GLU or n > 4096 else 1, 4096 < n <= 64 * profile.cores  # that run at once
            return MulMatVec(128, half, rows, size, packed=True, blocks=3, ahead=ahead)
        blocks = 2 if k >= 2 * BLOCK * size else 1
        if n > 4096:
            return MulMatVec(128, size, 4, size, packed=True, blocks=blocks if k >= 4096 else 1)
        if epilogue in GLU:
            return MulMatVec(256, size, 2, size, packed=True, blocks=blocks)
        # Few rows: every lane that there can be, each with few blocks, so that all are asked for at once.
        workgroup = 512 if k > 2048 and profile.max_compute_invocations_per_workgroup >= 512 else 256
        return MulMatVec(workgroup, size, 1, size, packed=True, blocks=blocks)
    if not 16 <= size <= 64:
        narrow = size if 4 <= size <= 8 else 0  # a CPU's subgroups; others are too narrow or too wide, or vary
        return MulMatVec(64, narrow or 16, 2 if epilogue in GLU or n < 8192 else 4, narrow)
    if n >= 128 * profile.cores:
        return MulMatVec(128, size, 8, size)  # enough rows to fill the GPU: more of them share the activations
    if k >= 2048:
        return MulMatVec(256, 2 * size, 2 if n <= 4096 else 4, size)  # long rows: two subgroups share them
    return MulMatVec(128, size, 2, size, ahead=True)


def mul_mat_vec(
    format: Format,
    k: int,
    n: int,
    profile: DeviceProfile,
    *,
    eps: float | None = None,
    scaled: tuple[int, ...] | None = None,
    bias: bool = False,
    epilogue: str = "store",
    factor: float | None = None,
    offset: int = 0,
    y_row: int = 0,
    last_row: bool = False,
    post_eps: float | None = None,
    center_eps: float | None = None,
    norm_bias: bool = False,
    keeps_sum: bool = False,
    sum_scale: bool = False,
    by: int | None = None,
    by_row: int = 0,
    lane_order: Container[str] = (),
    columns: int = 0,
    variant: MulMatVec | None = None,
) -> Launch:
    """y[offset + row] = W x, one token; `eps` asks for the fused rms_norm. W is (k, n) in ggml's order.

    center_eps: the input is layer_norm(x), of this epsilon, with a bias if there is norm_bias. post_eps: it is x +
    rms_norm(post), of this one, times sum_scale if there is one; keeps_sum writes it to slot sum. by: where the
    numbers begin, in slot by, of by_row, that an epilogue by_… takes: as up of a gated linear unit, or to add.
    lane_order: slots of vectors in lane order (wgsl/common/lanes.wgsl), where y is a vector of y_row, or of the
    rows of W. columns:
    those of the k that come before zeros; 0: all. scaled: W is of tensors whose results have a factor each, of which
    all but the last end before these rows. factor: of what W x and the bias give, before the epilogue."""
    v = variant or default(format, k, n, epilogue, profile)
    slots = [*weight(format), arena("x")]
    slots += [arena("post"), replace(NORM, name="post_norm_weight")] if post_eps is not None else []
    slots += [Slot("sum_scale", "f32", "read")] if sum_scale else []
    slots += [arena("by", "f32")] if by is not None else []
    slots += [NORM] if eps is not None or center_eps is not None else []
    slots += [replace(NORM, name="norm_bias")] if norm_bias else []
    slots += [SCALES] if scaled is not None else []
    slots += [BIAS] if bias else []
    slots += [BATCH] if last_row else []
    slots += [arena("sum")] if keeps_sum else []
    slots += [arena("y", "f32")]
    shader = kernel(
        "mul_mat_vec_packed" if v.packed else "mul_mat_vec",
        slots,
        format=format.name,
        split=format.split,
        chunk=packed_chunk(k) if v.packed else 0,
        k=k,
        columns=columns or k,
        n=n,
        workgroup=v.workgroup,
        lanes=v.lanes,
        subgroup=v.subgroup,
        rows_per_group=v.rows,
        blocks=v.blocks,
        ahead=v.ahead,
        post_eps=post_eps,
        center_eps=center_eps,
        norm_bias=norm_bias,
        keeps_sum=keeps_sum,
        sum_scale=sum_scale,
        by=by,
        by_row=by_row,
        **{f"{slot}_lanes": slot in lane_order for slot in ("x", "post", "sum", "by", "y")},
        norm=eps is not None,
        eps=eps,
        scaled=scaled,
        bias=bias,
        epilogue=epilogue,
        factor=factor,
        offset=offset,
        y_row=y_row or (n // 2 if epilogue in GLU else n),
        last_row=last_row,
    )
    per_workgroup = v.workgroup // v.lanes * v.rows
    plain = None
    if v.subgroup:
        options: dict[str, Any] = {"eps": eps, "bias": bias, "epilogue": epilogue, "factor": factor, "offset": offset}
        options |= {
            "scaled": scaled,
            "y_row": y_row,
            "last_row": last_row,
            "post_eps": post_eps,
            "center_eps": center_eps,
            "norm_bias": norm_bias,
            "keeps_sum": keeps_sum,
            "sum_scale": sum_scale,
            "by": by,
            "by_row": by_row,
            "lane_order": lane_order,
            "columns": columns,
        }
        any_device = default(format, k, n, epilogue, DeviceProfile())
        plain = mul_mat_vec(format, k, n, profile, **options, variant=any_device)
    return Launch(shader, spread(-(-n // per_workgroup)), plain=plain)


def candidates(format: Format, k: int, n: int, epilogue: str, profile: DeviceProfile, mode: str) -> list[MulMatVec]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    size = profile.subgroup_size if 4 <= profile.subgroup_size <= 64 else 0
    workgroups, units = (64, 128, 256, 512), (size, 2 * size, 4 * size) if size else (8, 16, 32, 64)
    packed = (False, True) if packed_works(format, profile) else (False,)
    sizes = [*product(packed, workgroups, units, (1, 2, 4, 8), (1, 2))]
    if 0 < k // BLOCK % (size or 1) <= (half := size // 2):  # blocks for half a subgroup are left
        sizes += product(packed, workgroups, (half,), (1, 2, 4, 8), (1, 2, 3))
    grid = [
        v
        for p, workgroup, lanes, rows, blocks in sizes
        if (v := MulMatVec(workgroup, lanes, rows, size, p, blocks)).valid(k, epilogue, profile)
        and (mode == "full" or _promising(v, units))
    ]
    grid += [replace(v, ahead=True) for v in grid if mode == "full" or not v.packed or v.blocks == 3]
    first = default(format, k, n, epilogue, profile)
    # Subgroups need not be the fastest way to add up: the default through workgroup memory, and what any device runs.
    shared = [replace(first, subgroup=0, packed=False), default(format, k, n, epilogue, DeviceProfile())]
    return list(dict.fromkeys([first, *grid, *(v for v in shared if v.valid(k, epilogue, profile))]))


def _promising(v: MulMatVec, units: Sequence[int]) -> bool:
    """Whether a variant was the fastest, or near it, for some format and shape (benchmarks)."""
    if not v.packed:
        return v.workgroup in (64, 128, 256) and v.lanes in units[:2] and v.rows in (2, 4) and v.blocks == 1
    at_once = v.rows * v.blocks
    if v.lanes < units[0]:
        return v.blocks == 3 or (v.workgroup == 128 and at_once in (4, 8))
    return v.lanes in units[:2] and (
        (v.workgroup in (64, 128) and at_once in (4, 8) and v.lanes == units[0])
        or (v.workgroup == 256 and at_once in (2, 4))
        or (v.workgroup == 512 and v.rows * v.lanes <= 4 * units[0] and at_once >= 2)
    )
