"""Where weights, tables of rotary phases and codebooks lie on the GPU: each once, whatever reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import gcd

from llamaweb.errors import UnsupportedError
from llamaweb.ggml import GGMLType
from llamaweb.graph import VECTORS, Tensor
from llamaweb.kernels.formats import Codebook, Format, format_of, whole_blocks
from llamaweb.kernels.kernel import GLU
from llamaweb.operations.step import Step
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Binding, RopeTable, Slice, WeightPlan
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope

_ONE_OF_MANY = re.compile(r"w\d+")  # slots of matrices that one dispatch reads
_LANE_ORDER = ("norm_weight", "norm_bias", "post_norm_weight")  # wgsl/common/lanes.wgsl


class Weights:
    """Places what is asked for, at first use; `regions` are the buffers that takes, in bytes."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.regions: dict[str, int] = {}
        self.weights: list[WeightPlan] = []
        self.ropes: dict[Rope, RopeTable] = {}
        self.codebooks: dict[Codebook, Binding] = {}
        self._alignment = profile.min_storage_buffer_offset_alignment
        self._most = profile.max_buffer_size
        self._binding = min(profile.max_storage_buffer_binding_size, profile.max_buffer_size)
        self._placed: dict[tuple[str, ...], list[WeightPlan]] = {}
        self._vectors: dict[tuple[bool, tuple[tuple[str, int, int], ...]], WeightPlan] = {}

    def place(self, step: Step) -> list[tuple[WeightPlan | None, dict[str, Binding]]]:
        """What a step reads besides values and caches, by the kernel's slot: once, or piece by piece where a binding
        does not hold its weight. The weight is the matrix or the table, if the step has one."""
        shared: dict[str, Binding] = {}
        for slot, tensors in step.weights.items():
            if _ONE_OF_MANY.fullmatch(slot):
                (whole,) = self._matrix(tensors, halves=1)
                shared |= self._planes(slot, whole)
            elif slot not in ("w", "bias"):
                shared[slot] = self._vector(tensors, lane_order=slot in _LANE_ORDER)
        if step.params.get("rope"):
            shared["phases"] = self.rope(step.params["rope"])
        if "w" not in step.weights:
            return [(None, shared)]
        pieces = self._matrix(step.weights["w"], halves=2 if step.params.get("epilogue") in GLU else 1)
        placed: list[tuple[WeightPlan | None, dict[str, Binding]]] = []
        for piece, bias in zip(pieces, self._biases(step, pieces), strict=True):
            placed.append((piece, {**shared, **self._planes("w", piece), **bias}))
        return placed

    def _planes(self, slot: str, weight: WeightPlan) -> dict[str, Binding]:
        """And the codes of its format."""
        bound = {f"{slot}_{p.name}": b for p, b in zip(weight.format.planes, weight.planes, strict=True)}
        codes = weight.format.codebook
        return bound | ({"w_codes": self.codebook(codes)} if codes else {})

    def _matrix(self, tensors: tuple[Tensor, ...], halves: int) -> list[WeightPlan]:
        """Tensors that are stacked along their rows, in as many pieces as bindings ask for. halves: 2 where a result
        takes a row of the first tensor and one of the second, so that a piece has the same rows of both."""
        key = tuple(t.name for t in tensors)
        if key in self._placed:
            return self._placed[key]
        format, row = format_of(tensors[0].type, key[0]), tensors[0].row
        if row % format.block_size:
            raise UnsupportedError(
                f"Tensor {key[0]} has rows of {row}; in {format.type.name}, multiples of {format.block_size} are "
                "supported."
            )
        blocks = whole_blocks(row) // format.block_size
        grain = format.unit // gcd(format.unit, blocks)  # rows whose blocks are whole units
        results = sum(t.rows for t in tensors) // halves
        most = self._binding // (halves * blocks * max(plane.bytes for plane in format.planes)) // grain * grain
        count = 1 if results <= most else -(-results // max(most, grain))
        each = align(-(-results // count), grain)
        pieces = []
        for first in range(0, results, each):
            rows = min(each, results - first)
            slices = tuple(part for h in range(halves) for part in _slices(tensors, h * results + first, rows))
            pieces.append(self._weight(slices, format, row, halves * rows, first=first))
        self._placed[key] = pieces
        return pieces

    def _biases(self, step: Step, pieces: Sequence[WeightPlan]) -> list[dict[str, Binding]]:
        """The bias of each piece's rows."""
        if "bias" not in step.weights:
            return [{} for _ in pieces]
        of = {weight.name: bias for weight, bias in zip(step.weights["w"], step.weights["bias"], strict=True)}
        found = []
        for piece in pieces:
            slices = [(of[s.name], s.first // piece.row, s.count // piece.row) for s in piece.slices]
            found.append({"bias": self._vector_of(slices)})
        return found

    def _vector(self, tensors: tuple[Tensor, ...], lane_order: bool) -> Binding:
        return self._vector_of([(tensor, 0, tensor.size) for tensor in tensors], lane_order)

    def _vector_of(self, slices: Sequence[tuple[Tensor, int, int]], lane_order: bool = False) -> Binding:
        """Vectors, or parts of them, one behind the other."""
        key = tuple((tensor.name, first, count) for tensor, first, count in slices)
        if (lane_order, key) not in self._vectors:
            assert (not lane_order, key) not in self._vectors, f"{key[0][0]} in two orders"  # each is read once
            for tensor, _, _ in slices:
                if tensor.type not in VECTORS:
                    known = ", ".join(type.name for type in VECTORS)
                    raise UnsupportedError(
                        f"Tensor {tensor.name} is a vector in {tensor.type.name}, which is not supported; use one of: "
                        f"{known}."
                    )
            parts = tuple(Slice(*part) for part in key)
            format, row = format_of(GGMLType.F32, key[0][0]), sum(part.count for part in parts)
            self._vectors[lane_order, key] = self._weight(parts, format, row, 1, lane_order=lane_order)
        return self._vectors[lane_order, key].planes[0]

    def _weight(
        self,
        slices: tuple[Slice, ...],
        format: Format,
        row: int,
        rows: int,
        *,
        first: int = 0,
        lane_order: bool = False,
    ) -> WeightPlan:
        # Whole units for the repacking; at least whole blocks of 32 for what loads those.
        values = align(whole_blocks(row) * rows, format.unit * format.block_size)
        blocks = values // format.block_size
        planes = tuple(self._allocate(blocks * plane.bytes) for plane in format.planes)
        self.weights.append(WeightPlan(slices, format, row, rows, planes, lane_order, first))
        return self.weights[-1]

    def rope(self, rope: Rope) -> Binding:
        if rope not in self.ropes:
            self.ropes[rope] = RopeTable(rope, self._allocate(2 * rope.n_dims))
        return self.ropes[rope].binding

    def codebook(self, codebook: Codebook) -> Binding:
        if codebook not in self.codebooks:
            self.codebooks[codebook] = self._allocate(codebook.data().nbytes)
        return self.codebooks[codebook]

    @property
    def largest(self) -> int:
        """Bytes of the largest plane: it is bound as one range."""
        return max(b.size for w in self.weights for b in w.planes)

    def _allocate(self, size: int) -> Binding:
        """The next range of the weights' region; a new buffer where the last one is full."""
        last = len(self.regions) - 1
        region = f"weights.{max(last, 0)}"
        at = align(self.regions.get(region, 0), self._alignment)
        if last >= 0 and at + size > self._most:
            region, at = f"weights.{last + 1}", 0
        self.regions[region] = at + align(size, 4)
        return Binding(region, at, align(size, 4))


def _slices(tensors: Sequence[Tensor], first: int, rows: int) -> Iterator[Slice]:
    """Rows `first` and on of stacked tensors."""
    for name, row, at, count in _runs(tensors):
        begin, end = max(first, 0), min(first + rows, count)
        if begin < end:
            yield Slice(name, (at + begin) * row, (end - begin) * row)
        first -= count


def _runs(tensors: Sequence[Tensor]) -> Iterator[tuple[str, int, int, int]]:
    """Of stacked tensors, what lies together in the file: the tensor's name, its row, and which rows: the first and how
    many."""
    for tensor in tensors:
        whole = tensor.params.get("of", tensor)
        if whole is tensor:
            yield tensor.name, tensor.row, 0, tensor.rows
            continue
        each, of_each = tensor.shape[1], whole.shape[1]
        for matrix in range(tensor.rows // each):
            yield whole.name, tensor.row, matrix * of_each + tensor.params["first"], each
