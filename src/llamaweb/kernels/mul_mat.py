"""Matrix-matrix products, for batches of tokens: their variants, and which of them a device can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from llamaweb.kernels.formats import BLOCK, Format
from llamaweb.kernels.kernel import BATCH, BIAS, GLU, SCALES, Launch, Variant, arena, kernel, weight
from llamaweb.profile import DeviceProfile, SubgroupMatrix


@dataclass(frozen=True)
class MulMat(Variant):
    """A variant: `wx` times `wy` invocations compute `tile_m` tokens by `tile_n` rows of W, `depth` blocks of 32
    columns at a time.

    kind: "f32"; "f16", whose products are computed in f16; "packed", with the packed integer dot on activations of 8 or
    16 `bits`; "matrix", with `wx` times `wy` subgroups and their matrix units; "halves", as "f32" of activations as
    matrix units take them, for devices that turn out to have none.
    """

    tile_m: int
    tile_n: int
    wx: int
    wy: int
    kind: str = "f32"
    depth: int = 1
    bits: int = 16

    def __str__(self) -> str:
        unit = "subgroups" if self.kind == "matrix" else "invocations"
        kind = f"{self.kind} {self.bits} bits" if self.kind == "packed" else self.kind
        deep = f", {32 * self.depth} deep" if self.kind == "matrix" else ""
        return f"{kind}, tile {self.tile_m}×{self.tile_n}, {self.wx}×{self.wy} {unit}{deep}"


_TEMPLATES = {
    "f32": "mul_mat",
    "f16": "mul_mat",
    "halves": "mul_mat",
    "packed": "mul_mat_packed",
    "matrix": "mul_mat_matrix",
}
PLAIN = MulMat(32, 32, 16, 16)  # what every device can run

# Bits of a batch's activations for the packed dot, by how precise products are to be: 16, high and low bytes apart, are
# as good as float32; 8 take half the dots, and their rounding shows in a small model's answers.
PRECISIONS = {"high": 16, "fast": 8}

Codes = Literal["i8", "i16", "f16"]  # of a batch's activations, that a kernel of their own makes for products


def mul_mat(
    format: Format,
    k: int,
    n: int,
    n_tokens: int,
    profile: DeviceProfile,
    *,
    scaled: tuple[int, ...] | None = None,
    bias: bool = False,
    epilogue: str = "store",
    factor: float | None = None,
    offset: int = 0,
    stride: int = 0,
    columns: int = 0,
    variant: MulMat | None = None,
) -> Launch:
    """y[token * stride + offset + row] = W x for a batch of tokens; a variant that has `codes` reads x_q, which
    `quantize` makes of x. columns: those of the k that come before zeros; 0: all. scaled: W is of tensors whose results
    have a factor each, of which all but the last end before these rows. factor: of what W x and the bias give, before
    the epilogue."""
    v = variant or default_tile(format, k, n, n_tokens, profile)
    x = arena("x_q", "vec4<u32>") if codes(v, profile) else arena("x")
    of_results = [*([SCALES] if scaled is not None else []), *([BIAS] if bias else [])]
    slots = [*weight(format), x, *of_results, BATCH, arena("y", "f32")]
    out = n // 2 if epilogue in GLU else n
    shader = kernel(
        _TEMPLATES[v.kind],
        slots,
        format=format.name,
        split=format.split,
        k=k,
        columns=columns or k,
        n=n,
        tile_m=v.tile_m,
        tile_n=v.tile_n,
        wx=v.wx,
        wy=v.wy,
        scaled=scaled,
        bias=bias,
        epilogue=epilogue,
        factor=factor,
        offset=offset,
        stride=stride or out,
        **of_kind(v, k, n_tokens, profile),
    )
    plain = None
    small = anywhere(v, profile, PLAIN)
    if v != small or (v.kind == "packed" and profile.packed_dot):
        options: dict[str, Any] = {
            "scaled": scaled,
            "bias": bias,
            "epilogue": epilogue,
            "factor": factor,
            "offset": offset,
            "stride": stride,
            "columns": columns,
        }
        plain = mul_mat(format, k, n, n_tokens, DeviceProfile(), **options, variant=small)
    tile_out = v.tile_n // 2 if epilogue in GLU else v.tile_n
    return Launch(shader, (-(-out // tile_out), -(-n_tokens // v.tile_m), 1), v.tile_m, plain)


def codes(v: MulMat, profile: DeviceProfile) -> Codes | None:
    """What a variant reads rows of x as, in x_q; None: as float32."""
    if v.kind == "packed":
        return "i8" if v.bits == 8 else "i16"
    return "f16" if v.kind == "halves" or (v.kind == "matrix" and takes_halves(profile)) else None


def anywhere(v: MulMat, profile: DeviceProfile, plain: MulMat) -> MulMat:
    """What gives the same on every device, out of the same x or x_q, with the tile of `plain`."""
    kinds = {"i8": "packed", "i16": "packed", "f16": "halves"}
    found = codes(v, profile)
    return replace(plain, kind=kinds[found], bits=v.bits) if found else plain


def of_kind(v: MulMat, x_row: int, n_tokens: int, profile: DeviceProfile) -> dict[str, Any]:
    """The constants that a kind of kernels has alone. x_row: numbers of a row of x."""
    found = codes(v, profile)
    constants: dict[str, Any] = {"halves": found == "f16"}
    if found:
        constants |= {"codes": found, "x_row": x_row, "n_tokens": n_tokens}
    if v.kind == "packed":
        return {**constants, "bits": v.bits, "depth": v.depth, "packed_dot": profile.packed_dot}
    if v.kind == "matrix":
        return {**constants, "matrix": subgroup_matrix(profile), "subgroup": profile.subgroup_size, "depth": v.depth}
    return {**constants, "half": v.kind == "f16"}


def quantized_bytes(k: int, n_tokens: int, bits: int) -> int:
    """Of a batch of rows as `quantize` leaves them: codes, and a scale for each 32, in whole vectors of 16 bytes."""
    return -(-n_tokens * (k * bits // 8 + 4 * (k // BLOCK)) // 16) * 16


def quantize(k: int, n_tokens: int, codes: Codes, profile: DeviceProfile, columns: int = 0) -> Launch:
    """Rows of x as integers of 8 or 16 bits, with a scale for each 32; or as f16, with one for each row. columns: those
    of the k that are there; 0: all."""
    slots = [arena("x"), BATCH, arena("y", "u32")]
    common: dict[str, Any] = {"k": k, "n_tokens": n_tokens, "codes": codes}
    if codes == "f16":
        shader = kernel("halves", slots, **common, columns=columns or k, workgroup=256)
        return Launch(shader, (1, n_tokens, 1), 1)
    bits = int(codes[1:])
    shader = kernel("quantize", slots, **common, bits=bits, packed_dot=profile.packed_dot, workgroup=64)
    plain = quantize(k, n_tokens, codes, DeviceProfile()) if profile.packed_dot else None
    return Launch(shader, (-(-k // BLOCK // 64), n_tokens, 1), 1, plain)


def can_be_packed(format: Format, profile: DeviceProfile) -> bool:
    """Whether products of a format have packed variants on a device."""
    return format.packed and profile.packed_dot


def takes_halves(profile: DeviceProfile) -> bool:
    """Whether a device's matrix units take f16."""
    c = subgroup_matrix(profile)
    return c is not None and c.component == "f16"


def subgroup_matrix(profile: DeviceProfile) -> SubgroupMatrix | None:
    """The matrix units that products use on a device: results in f32, inputs in f16 before those in f32, and of these
    the largest that the tiles of all sizes are made of."""
    fitting = [c for c in profile.subgroup_matrices if c.result == "f32" and c.component in ("f16", "f32")]
    fitting = [c for c in fitting if (c.component != "f16" or profile.f16) and 32 % c.k == c.k % 8 == 0]
    fitting = [c for c in fitting if 16 % c.m == 16 % c.n == 0 and min(c.m, c.n) >= 8]
    return min(fitting, key=lambda c: (c.component != "f16", -c.m * c.n * c.k), default=None)


def default_tile(format: Format, k: int, n: int, n_tokens: int, profile: DeviceProfile, bits: int = 16) -> MulMat:
    """bits: of PRECISIONS. A CPU wants much arithmetic for each load, so large tiles an invocation; a GPU, enough
    workgroups to fill it, and matrix units that take f16, which are three times as fast as all else (on an H200)."""
    if profile.software:
        return MulMat(64, 64, 8, 8)

    def workgroups(tile_m: int, tile_n: int) -> int:
        return -(-n // tile_n) * -(-n_tokens // tile_m)

    if takes_halves(profile):
        sizes = [(32, 64, 2, 2)]
        if 2 * workgroups(64, 64) >= profile.cores:
            sizes.insert(0, (64, 64, 2, 2))
        if 4 * workgroups(128, 128) >= 3 * profile.cores:
            sizes.insert(0, (128, 128, 4, 2))
        of_matrices = (MulMat(*size, "matrix", depth) for size in sizes for depth in (2, 1))
        if fitting := next((v for v in of_matrices if works(v, format, "swiglu", profile)), None):
            return fitting
    if can_be_packed(format, profile):
        tile = (64, 64, 16, 8) if workgroups(64, 64) >= profile.cores else (32, 32, 8, 8)
        return MulMat(*tile, "packed", 2, bits)
    wide = MulMat(64, 128, 16, 16)
    if workgroups(64, 128) >= 2 * profile.cores and works(wide, format, "store", profile):
        return wide
    return MulMat(64, 64, 16, 16) if workgroups(64, 64) >= profile.cores else PLAIN


def works(v: MulMat, format: Format, epilogue: str, profile: DeviceProfile) -> bool:
    """Whether a variant can compute products of a format on a device."""
    if v.kind == "packed" and not can_be_packed(format, profile):
        return False
    if v.kind == "f16" and not profile.f16:
        return False
    if v.kind == "matrix" and takes_halves(profile) and format.name in ("f32", "bf16"):
        return False  # weights may be too large or too small for f16
    invocations, unit_m, unit_n = v.wx * v.wy, 1, 1
    if v.kind == "matrix":
        c = subgroup_matrix(profile)
        if c is None:
            return False
        invocations, unit_m, unit_n = invocations * profile.subgroup_size, c.m, c.n
    rows_m, rows_n = v.tile_m / v.wy / unit_m, v.tile_n / v.wx / unit_n
    return (
        invocations <= profile.max_compute_invocations_per_workgroup
        and _bytes(v, epilogue, profile) <= profile.max_compute_workgroup_storage_size
        and rows_m % 1 == 0
        and rows_n % (2 if epilogue in GLU else 1) == 0
    )


def _bytes(v: MulMat, epilogue: str, profile: DeviceProfile) -> int:
    """Workgroup memory: the columns of a step of each token and row, and what results go through."""
    if v.kind == "matrix":
        c = subgroup_matrix(profile)
        assert c is not None
        size = 2 if c.component == "f16" else 4
        results = 4 * v.wx * v.wy * c.m * c.n * (2 if epilogue in GLU else 1)
        return max((32 * v.depth * size + PAD_BYTES) * (v.tile_m + v.tile_n), results)
    if v.kind == "packed":
        return v.depth * ((4 * v.bits + 16) * v.tile_m + (32 + 16) * v.tile_n)
    return (4 if v.kind == "f32" else 2) * 32 * (v.tile_m + v.tile_n)


PAD_BYTES = 16  # behind each row of 32 columns that matrix units read, so that rows lie in different banks

_TILES = {  # kind: tile_m, tile_n, wx, wy, depth
    "f32": [(64, 64, 16, 16, 1), (64, 128, 16, 16, 1), (32, 32, 16, 16, 1)],
    "f16": [(64, 64, 16, 16, 1), (64, 128, 16, 16, 1)],
    "packed": [(64, 64, 16, 8, 2), (64, 64, 16, 4, 1), (64, 32, 8, 8, 2), (32, 32, 8, 8, 2), (64, 128, 16, 16, 2)],
    "matrix": [
        (128, 128, 4, 2, 2),
        (128, 128, 2, 2, 1),
        (128, 256, 4, 2, 1),
        (64, 128, 4, 2, 2),
        (64, 64, 2, 2, 2),
        (64, 64, 2, 4, 1),
        (32, 64, 2, 2, 2),
        (32, 64, 2, 2, 1),
    ],
}


def candidates(
    format: Format, k: int, n: int, n_tokens: int, epilogue: str, bits: int, profile: DeviceProfile, mode: str
) -> list[MulMat]:
    """Variants that are valid on a device, the default first; "full" has the whole grid, "auto" its better part."""
    default = default_tile(format, k, n, n_tokens, profile, bits)
    grid = [v for v in _grid(bits, mode == "full") if works(v, format, epilogue, profile)]
    return list(dict.fromkeys([default, *grid]))


def _grid(bits: int, full: bool) -> Iterator[MulMat]:
    """What is worth timing anywhere; `full`: the whole grid. bits: of PRECISIONS."""
    for kind, tiles in _TILES.items():
        for tile_m, tile_n, wx, wy, depth in tiles:
            yield MulMat(tile_m, tile_n, wx, wy, kind, depth, bits if kind == "packed" else MulMat.bits)
    if full:
        for kind in _TILES:
            shapes = ((2, 2), (4, 2), (2, 4)) if kind == "matrix" else ((8, 8), (16, 8), (16, 16))
            for (wx, wy), tile_m, tile_n in product(shapes, (32, 64, 128), (32, 64, 128)):
                if kind != "matrix" and not 8 <= tile_m // wy * (tile_n // wx) <= 32:
                    continue  # too little to do for an invocation, or more than registers hold
                packed = {"depth": 2, "bits": bits} if kind == "packed" else {}
                yield MulMat(tile_m, tile_n, wx, wy, kind, **packed)
