"""Experts: which of them compute a token's feed forward, products with theirs alone, and the weighted sum of results.

Routes, (2 * used, T), are for each token the numbers of its experts, as uint32, and behind them their weights. What a
token's experts give lies side by side in its row.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.checks import experts as checks
from llamaweb.kernels.checks.products import MOST_TOKENS
from llamaweb.kernels.formats import BLOCK, Format, named
from llamaweb.kernels.kernel import BATCH, BIAS, GLU, SCALES, Launch, Slot, Variant, arena, kernel, weight
from llamaweb.kernels.mul_mat import PRECISIONS, MulMat, anywhere, can_be_packed, codes, of_kind, takes_halves, works
from llamaweb.kernels.mul_mat_vec import MulMatVec, candidates, default, packed_chunk
from llamaweb.kernels.tuner import Shape
from llamaweb.operations.operation import Lowering, Matrix, Operation, Site, Use
from llamaweb.operations.step import Step, Value, View
from llamaweb.profile import DeviceProfile

Gating = Literal["softmax", "sigmoid", "softmax_weight"]


def top_k(
    g: Graph,
    logits: Tensor,
    used: int,
    name: str,
    *,
    gating: Gating = "softmax",
    bias: Tensor | None = None,
    groups: tuple[int, int] = (1, 1),
    norm: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """Routes to the `used` experts with the largest probabilities, the lowest of equal ones: (2 * used, T).

    gating: probabilities are the softmax or the sigmoid of the logits (n_expert, T); or the logits themselves, and
    weights the softmax of the chosen. bias (n_expert): added to probabilities for the choice alone. groups (n, m): of n
    groups of experts, the m whose two best sum to most are chosen among. norm: weights are divided by their sum. scale:
    of weights, at last.
    """
    params = {"used": used, "gating": gating, "groups": groups, "norm": norm, "scale": scale}
    return g.node("top_k", name, (2 * used, logits.rows), (logits, *([bias] if bias else [])), **params)


def mul_mat_id(
    g: Graph,
    weight: Tensor,
    x: Tensor,
    routes: Tensor,
    name: str,
    *,
    scales: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Of each of a token's experts, its matrix of `weight` (K, N, n_expert) times the token's row of x (K, T), or times
    the expert's part of it (used * K, T), times its number of `scales` (n_expert), plus its `bias` (N, n_expert):
    (used * N, T)."""
    shape = (routes.row // 2 * weight.shape[1], x.rows)
    found = {slot: vector for slot, vector in (("tensor_scales", scales), ("bias", bias)) if vector}
    return g.node("mul_mat_id", name, shape, (weight, x, routes, *found.values()), slots=tuple(found))


def weighted_sum(g: Graph, x: Tensor, routes: Tensor, name: str) -> Tensor:
    """Of the parts of x (used * N, T), each times its expert's weight: (N, T)."""
    return g.node("weighted_sum", name, (x.row // (routes.row // 2), x.rows), (x, routes))


class TopK(Operation):
    name = "top_k"
    templates = ("top_k",)
    prepares = ("y", "routes")
    steers = True
    parts = frozenset({"x"})
    case = staticmethod(checks.top_k)

    def lower(self, node: Tensor, low: Lowering) -> None:
        logits, *bias = node.src
        weights = {"probs_bias": (bias[0],)} if bias else {}
        low.emit(self.name, node.name, {"x": low.view(logits), "y": low.new(node)}, weights, **node.params)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, y = step.values["x"], step.values["y"]
        options: dict[str, Any] = {name: step.params[name] for name in ("gating", "groups", "norm", "scale")}
        places: dict[str, Any] = {"x_first": x.first, "x_pitch": x.pitch, "y_pitch": y.pitch}
        return top_k_kernel(x.row, y.row // 2, y.n_tokens, bias=bool(step.weights), **options, **places)


def top_k_kernel(
    n_expert: int,
    used: int,
    n_tokens: int,
    *,
    gating: Gating = "softmax",
    bias: bool = False,
    groups: tuple[int, int] = (1, 1),
    norm: bool = False,
    scale: float = 1.0,
    x_first: int = 0,
    x_pitch: int = 0,
    y_pitch: int = 0,
) -> Launch:
    """x_first: where the logits of the first token begin."""
    slots = [arena("x", "f32"), *([Slot("probs_bias", "f32", "read")] if bias else []), arena("y", "u32")]
    shader = kernel(
        "top_k",
        slots,
        n_expert=n_expert,
        used=used,
        gating=gating,
        bias=bias,
        groups=groups,
        norm=norm,
        scale=float(scale),
        x_first=x_first,
        x_pitch=x_pitch or n_expert,
        y_pitch=y_pitch or 2 * used,
        workgroup=next(size for size in (32, 64, 128, 256) if size >= n_expert or size == 256),
    )
    return Launch(shader, (1, n_tokens, 1), 1 if n_tokens > 1 else 0)


class MulMatId(Operation):
    """Of one token. What is stacked gives results one behind the other; with `sums` among its params, it adds up what
    the experts give, by their weights."""

    name = "mul_mat_id"
    templates: ClassVar[tuple[str, ...]] = ("mul_mat_id",)
    parts = frozenset({"y"})
    variants: ClassVar[type[Variant] | None] = MulMatVec
    tuned: ClassVar[tuple[str, ...]] = ("decode",)
    case = staticmethod(checks.mul_mat_id)

    def lower(self, node: Tensor, low: Lowering) -> None:
        weight, x, routes, *vectors = node.src
        weights = {"w": (weight,)}
        weights |= {slot: (vector,) for slot, vector in zip(node.params["slots"], vectors, strict=True)}
        values = {"x": low.rows(x), "routes": low.view(routes), "y": low.new(node)}
        if node.rows == 1:
            low.emit(self.name, node.name, values, weights, n_expert=weight.shape[2], sums=False)
        else:
            used = routes.row // 2
            values["routes"] = _sorted(low, routes, weight.shape[2])
            low.emit("mul_mat_id_tiles", node.name, values, weights, n_expert=weight.shape[2], used=used)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        m, p = site.matrix, step.params
        assert m
        e = self._experts(step, m, self._used(step))
        if p["sums"] and m.first:
            e = replace(e, epilogue="add")  # to what the pieces of the weight before have given
        return mul_mat_id_kernel(e, step.n_tokens, site.profile, variant)

    def shape(self, step: Step, site: Site) -> Shape:
        assert site.matrix
        e = self._experts(step, site.matrix, self._used(step))
        epilogue = "sums" if e.sums else e.epilogue
        shape = Shape(self.name, e.format.name, *e.row_and_rows, epilogue, n_tokens=step.n_tokens)
        return replace(shape, experts=(e.used, e.n_expert))

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        epilogue = "store" if shape.epilogue == "sums" else shape.epilogue
        return [*candidates(named(shape.format), shape.k, shape.n, epilogue, profile, mode)]

    def _used(self, step: Step) -> int:
        """Experts of a token."""
        return step.values["routes"].row // 2

    def _experts(self, step: Step, m: Matrix, used: int) -> ByExpert:
        x, routes, y, p = step.values["x"], step.values["routes"], step.values["y"], step.params
        epilogue = p.get("epilogue", "store")
        return ByExpert(
            m.format,
            m.pitch,
            step.weights["w"][0].shape[1],
            p["n_expert"],
            used,
            columns=m.columns,
            stacked=len(step.weights["w"]),
            own=x.row > m.columns,
            sums=p.get("sums", False),
            scaled="tensor_scales" in step.weights,
            bias="bias" in step.weights,
            epilogue=epilogue,
            factor=p.get("factor"),
            piece=(m.first, m.rows // (2 if epilogue in GLU else 1)) if m.rows < m.whole else None,
            pitches=(x.pitch, routes.pitch, y.pitch),
            y_first=y.first,
        )

    def flops(self, use: Use) -> int:
        c = use.constants
        return 2 * int(c["columns"]) * int(c["n"]) * int(c["stacked"]) * int(c["used"]) * use.tokens

    def moved(self, slot: str, use: Use) -> int:
        """Of weights, those of as many experts as tokens can have."""
        c, size = use.constants, use.sizes[slot]
        of_experts = slot == "bias" or (slot.startswith("w_") and slot != "w_codes")
        return size * min(int(c["used"]) * use.tokens, int(c["n_expert"])) // int(c["n_expert"]) if of_experts else size


@dataclass(frozen=True)
class ByExpert:
    """What kernels multiply: a weight of n rows of k numbers for each expert, of which `columns` are there; 0: all.

    stacked: how many such weights there are. own: each expert has a part of a token's row. sums: results are added up
    by the weights of routes. scaled: those of each expert have a factor. piece: the first of the rows of all experts
    that are bound, and how many there are, of each half of a gated linear unit. pitches: of x, routes and y. x_first,
    y_first: where the first token's numbers begin. apart: how far apart parts of x and of y begin that are experts'
    own. routed: else part i is expert i's.
    """

    format: Format
    k: int
    n: int
    n_expert: int
    used: int
    columns: int = 0
    stacked: int = 1
    own: bool = False
    sums: bool = False
    scaled: bool = False
    bias: bool = False
    epilogue: str = "store"
    factor: float | None = None
    piece: tuple[int, int] | None = None
    pitches: tuple[int, int, int] | None = None
    x_first: int = 0
    y_first: int = 0
    apart: tuple[int, int] | None = None
    routed: bool = True

    @property
    def glu(self) -> bool:
        return self.epilogue in GLU

    @property
    def results(self) -> int:
        """Of each expert of a token, rows."""
        return 1 if self.glu else self.stacked

    @property
    def row_and_rows(self) -> tuple[int, int]:
        """What a token's product is as one of a single matrix."""
        return self.k * (self.used if self.sums else 1), self.n * (1 if self.sums else self.used)

    @property
    def constants(self) -> dict[str, Any]:
        columns = self.columns or self.k
        parts = 1 if self.sums else self.used * self.results
        rows = (columns * (self.used if self.own else 1), 2 * self.used, self.n * parts)
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        places = {"pitches": self.pitches or rows, "apart": self.apart or (columns, self.n)}
        return {**found, "format": self.format.name, "split": self.format.split, "columns": columns, **places}

    def slots(self, routes: Slot | None, coded: bool = False) -> list[Slot]:
        """coded: x is x_q, as `quantize` makes it."""
        c = self.constants
        assert not (coded and self.x_first), "whole rows are quantized"
        in_fours = not any(at % 4 for at in (c["pitches"][0], self.x_first, c["apart"][0] if self.own else 0))
        x = arena("x_q", "vec4<u32>") if coded else arena("x", "vec4<f32>" if in_fours else "f32")
        of_results = [*([SCALES] if self.scaled else []), *([BIAS] if self.bias else [])]
        return [*weight(self.format), x, *([routes] if routes else []), *of_results, arena("y", "f32")]


def mul_mat_id_kernel(e: ByExpert, n_tokens: int, profile: DeviceProfile, variant: MulMatVec | None = None) -> Launch:
    """The products of a token's experts, or of a few tokens' one by one."""
    v = variant or default(e.format, *e.row_and_rows, e.epilogue, profile)
    shader = kernel(
        "mul_mat_id",
        e.slots(arena("routes", "u32") if e.routed else None),
        **e.constants,
        workgroup=v.workgroup,
        lanes=v.lanes,
        subgroup=v.subgroup,
        rows_per_group=v.rows,
        blocks=v.blocks if v.packed else 1,
        chunk=packed_chunk(e.row_and_rows[0]) if v.packed else 0,
    )
    plain = mul_mat_id_kernel(e, n_tokens, DeviceProfile()) if v.subgroup else None
    of_group = v.workgroup // v.lanes * v.rows // (2 if e.glu else 1)
    parts = 1 if e.sums else e.used * e.results
    return Launch(shader, (-(-e.n // of_group), n_tokens, parts), 1 if n_tokens > 1 else 0, plain)


TILE = 32  # pairs of a token and an expert, of one expert's, that are multiplied at once
_TILE = (TILE, 64, 16, 8)
PLAIN = MulMat(*_TILE)  # what every device can run
_SMALL = MulMat(TILE, 32, 16, 8)
_OF_MATRICES = [
    MulMat(TILE, 128, 4, 1, "matrix", 2),
    MulMat(TILE, 64, 2, 2, "matrix", 1),
    MulMat(TILE, 128, 4, 2, "matrix", 2),
]
_TEMPLATES = {
    "f32": "mul_mat_id_tiles",
    "halves": "mul_mat_id_tiles",
    "packed": "mul_mat_id_packed",
    "matrix": "mul_mat_id_matrix",
}


class SortIds(Operation):
    """A batch's routes in the order of the experts, for products in tiles."""

    name = "sort_ids"
    templates = ("sort_ids",)
    prepares = ("y", "routes")
    case = staticmethod(checks.sort_ids)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        routes = step.values["routes"]
        return sort_ids_kernel(step.params["n_expert"], routes.row // 2, routes.n_tokens, routes.pitch)


def _sorted(low: Lowering, routes: Tensor, n_expert: int) -> View:
    """The routes as sort_ids leaves them, for all products that read them."""
    view, pairs = low.view(routes), routes.size // 2
    for step in low.steps:
        if step.op == "sort_ids" and step.values["routes"] == view:
            return step.values["y"]
    y = View.of(Value(routes.name + ".sorted", pairs_at(n_expert, pairs) + pairs, 1, in_blocks=False))
    low.emit("sort_ids", y.value.name, {"routes": view, "y": y}, n_expert=n_expert)
    return y


def pairs_at(n_expert: int, pairs: int) -> int:
    """Words before the first of so many pairs: how many tiles there are, and three for each that there may be."""
    return 1 + 3 * (pairs // TILE + min(n_expert, pairs))


def sort_ids_kernel(n_expert: int, used: int, n_tokens: int, pitch: int = 0) -> Launch:
    """pitch: of routes."""
    constants = {"n_expert": n_expert, "used": used, "tile": TILE, "pitch": pitch or 2 * used}
    slots = [arena("routes", "u32"), BATCH, arena("y", "u32")]
    at = pairs_at(n_expert, n_tokens * used)
    return Launch(kernel("sort_ids", slots, pairs_at=at, workgroup=256, **constants), (1, 1, 1))


class MulMatIdTiles(MulMatId):
    """Of several tokens, whose routes are sorted."""

    name = "mul_mat_id_tiles"
    templates = ("mul_mat_id_tiles", "mul_mat_id_packed", "mul_mat_id_matrix")
    variants = MulMat
    tuned = ("prefill",)
    any_device = PLAIN
    packs = True
    case_tokens = MOST_TOKENS
    case = staticmethod(checks.mul_mat_id)

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        assert site.matrix
        e = self._experts(step, site.matrix, step.params["used"])
        return mul_mat_id_tiles_kernel(e, step.n_tokens, site.profile, variant)

    def shape(self, step: Step, site: Site) -> Shape:
        return replace(super().shape(step, site), precision=site.precision)

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        format, bits = named(shape.format), PRECISIONS[shape.precision]
        kinds = [MulMat(*tile, "packed", depth, bits) for tile, depth in ((_TILE, 2), ((TILE, 32, 8, 8), 1))]
        found = [v for v in (*_OF_MATRICES, *kinds, PLAIN, _SMALL) if works(v, format, shape.epilogue, profile)]
        return sorted(found, key=lambda v: v != _default(format, profile, bits))

    def variant(self, step: Step, site: Site, chosen: Variant | None) -> Variant:
        assert site.matrix
        v = super().variant(step, site, chosen) or _default(site.matrix.format, site.profile, site.bits)
        assert isinstance(v, MulMat)
        in_blocks = step.values["x"].row == site.matrix.columns or site.matrix.columns % BLOCK == 0
        return v if in_blocks or not codes(v, site.profile) else PLAIN  # codes are of whole rows in blocks

    def _used(self, step: Step) -> int:
        return int(step.params["used"])


def _default(format: Format, profile: DeviceProfile, bits: int) -> MulMat:
    if takes_halves(profile):
        of_matrices = (v for v in _OF_MATRICES[:2] if works(v, format, "swiglu", profile))
        if tile := next(of_matrices, None):
            return tile
    packed = can_be_packed(format, profile) and not profile.software
    return MulMat(*_TILE, "packed", 2, bits) if packed else PLAIN


def mul_mat_id_tiles_kernel(e: ByExpert, n_tokens: int, profile: DeviceProfile, variant: MulMat = PLAIN) -> Launch:
    """The products of a batch's experts, by routes that are sorted. A variant that has codes reads x_q, which
    `quantize` makes of whole rows of x, where each expert's part is in whole blocks."""
    v, c = variant, e.constants
    shader = kernel(
        _TEMPLATES[v.kind],
        e.slots(arena("routes", "u32") if e.routed else BATCH, codes(v, profile) is not None),
        **c,
        pairs_at=pairs_at(e.n_expert, n_tokens * e.used),
        tile_m=v.tile_m,
        tile_n=v.tile_n,
        wx=v.wx,
        wy=v.wy,
        **of_kind(v, c["pitches"][0], n_tokens, profile),
    )
    small = anywhere(v, profile, PLAIN) if v.kind == "matrix" else v
    same = v == small and not (v.kind == "packed" and profile.packed_dot)
    plain = None if same else mul_mat_id_tiles_kernel(e, n_tokens, DeviceProfile(), small)
    groups = -(-e.n // (v.tile_n // 2 if e.glu else v.tile_n))
    if not e.routed:
        return Launch(shader, (groups, -(-n_tokens // TILE), e.n_expert), TILE, plain)
    return Launch(shader, (groups, n_tokens, e.results), 1, plain)


class WeightedSum(Operation):
    name = "weighted_sum"
    templates = ("weighted_sum",)
    case = staticmethod(checks.weighted_sum)

    def lower(self, node: Tensor, low: Lowering) -> None:
        x, routes = (low.view(src) for src in node.src)
        low.emit(self.name, node.name, {"x": x, "routes": routes, "y": low.new(node)})

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        x, routes, y = (step.values[slot] for slot in ("x", "routes", "y"))
        return weighted_sum_kernel(y.row, routes.row // 2, y.n_tokens, (x.pitch, routes.pitch, y.pitch))


def weighted_sum_kernel(n: int, used: int, n_tokens: int, pitches: tuple[int, int, int]) -> Launch:
    """pitches: of x, routes and y."""
    slots = [arena("x", "f32"), arena("routes", "u32"), arena("y", "f32")]
    shader = kernel("weighted_sum", slots, n=n, used=used, pitches=pitches, workgroup=64)
    return Launch(shader, (-(-n // 64), n_tokens, 1), 1 if n_tokens > 1 else 0)
