"""Where weights, tables of rotary phases and codebooks lie on the GPU: each once, whatever reads it."""

from __future__ import annotations

from gguf.constants import GGMLQuantizationType as GGMLType

from llamaweb.errors import UnsupportedError
from llamaweb.graph import Tensor
from llamaweb.kernels.formats import BLOCK, Codebook, format_of
from llamaweb.planner.fusion import Step
from llamaweb.planner.memory import align
from llamaweb.planner.plan import Binding, RopeTable, WeightPlan
from llamaweb.profile import DeviceProfile
from llamaweb.rope import Rope

_VECTORS = ("norm_weight", "post_norm_weight", "head_norm", "bias")
_LANE_ORDER = ("norm_weight", "post_norm_weight")  # wgsl/common/lanes.wgsl


class Weights:
    """Places what is asked for, at first use; `regions` are the buffers that takes, in bytes."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.regions: dict[str, int] = {}
        self.weights: dict[tuple[str, ...], WeightPlan] = {}
        self.ropes: dict[Rope, RopeTable] = {}
        self.codebooks: dict[Codebook, Binding] = {}
        self._alignment = profile.min_storage_buffer_offset_alignment
        self._most = profile.max_buffer_size

    def place(self, step: Step) -> dict[str, Binding]:
        """What a step reads besides values and caches, by the kernel's slot."""
        bound: dict[str, Binding] = {}
        if "w" in step.weights:
            weight = self.weight(step.weights["w"])
            bound |= {f"w_{p.name}": b for p, b in zip(weight.format.planes, weight.planes, strict=True)}
            if weight.format.codebook:
                bound["w_codes"] = self.codebook(weight.format.codebook)
        for slot in _VECTORS:
            if slot in step.weights:
                bound[slot] = self.weight(step.weights[slot], lane_order=slot in _LANE_ORDER).planes[0]
        if "rope" in step.params:
            bound["phases"] = self.rope(step.params["rope"])
        return bound

    def weight(self, tensors: tuple[Tensor, ...], lane_order: bool = False) -> WeightPlan:
        """The place of tensors that are stacked along their rows."""
        names = tuple(t.name for t in tensors)
        if names not in self.weights:
            format = format_of(tensors[0].type, names[0])
            row, rows = tensors[0].row, sum(t.rows for t in tensors)
            if len(tensors[0].shape) == 1:
                row, rows = sum(t.row for t in tensors), 1
                if format.type != GGMLType.F32:
                    raise UnsupportedError(f"Tensor {names[0]} is a vector in {format.type.name}; F32 is supported.")
            elif row % max(BLOCK, format.block_size):
                raise UnsupportedError(
                    f"Tensor {names[0]} has rows of {row}; in {format.type.name}, multiples of "
                    f"{max(BLOCK, format.block_size)} are supported."
                )
            if format.repacked and any(t.rows * row // format.block_size % format.unit for t in tensors[:-1]):
                raise UnsupportedError(
                    f"Tensor {names[0]} has siblings and no multiple of {format.unit} blocks; that is not supported."
                )
            # Whole units for the repacking; at least whole blocks of 32 for what loads those.
            blocks = align(row * rows, max(BLOCK, format.unit * format.block_size)) // format.block_size
            planes = tuple(self._allocate(blocks * plane.bytes) for plane in format.planes)
            self.weights[names] = WeightPlan(names, format, row, rows, planes, lane_order)
        return self.weights[names]

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
        return max(b.size for w in self.weights.values() for b in w.planes)

    def _allocate(self, size: int) -> Binding:
        """The next range of the weights' region; a new buffer where the last one is full."""
        last = len(self.regions) - 1
        region = f"weights.{max(last, 0)}"
        at = align(self.regions.get(region, 0), self._alignment)
        if last >= 0 and at + size > self._most:
            region, at = f"weights.{last + 1}", 0
        self.regions[region] = at + align(size, 4)
        return Binding(region, at, align(size, 4))
