"""The plan: plain data between planner and executor, the same in CPython and in the browser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llamaweb.kernels.formats import Codebook, Format, whole_blocks
from llamaweb.kernels.io import IN_FLIGHT, SUBMITTED, readback_bytes, results_bytes
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.tuner import Shape
from llamaweb.rope import Rope

LONG_CONTEXT = 512  # tokens, from which on splitting attention pays for its dispatch (measured on an H200)


@dataclass(frozen=True, slots=True)
class Binding:
    """A range of a region, in bytes. Regions: weights.0, weights.1, …, kv.0, …, state.0, state.copies, tables,
    arena, io."""

    region: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One kernel over its bindings, which are in the order of the kernel's slots.

    `workgroups` are the counts of a full batch; with `token_tile` the second is ceil(tokens / token_tile). `plain`
    does the same on any device, for where this one does not compile. `shape`: what tuning knows the kernel by; None:
    it has no variants.
    """

    label: str
    kernel: Kernel
    bindings: tuple[Binding, ...]
    workgroups: tuple[int, int, int]
    token_tile: int = 0
    plain: Dispatch | None = None
    shape: Shape | None = None

    def workgroups_for(self, n_tokens: int) -> tuple[int, int, int]:
        x, y, z = self.workgroups
        return (x, -(-n_tokens // self.token_tile) if self.token_tile else y, z)


@dataclass(frozen=True)
class Phase:
    """What runs for a batch of up to `n_tokens` tokens; the dispatches from `head` on make and use its logits."""

    n_tokens: int
    dispatches: tuple[Dispatch, ...]
    head: int


@dataclass(frozen=True)
class Slice:
    """Weights of a tensor of the file: `count` of them from number `first` on."""

    name: str
    first: int
    count: int


@dataclass(frozen=True)
class WeightPlan:
    """Slices of the file's tensors stacked along their rows as one weight on the GPU: `rows` rows of `row` weights,
    each filled up with zeros to whole blocks of 32.

    first: the first row of results that these rows give; 0 unless a binding does not hold the whole weight. lane_order:
    a vector that is stored in lane order (wgsl/common/lanes.wgsl).
    """

    slices: tuple[Slice, ...]
    format: Format
    row: int
    rows: int
    planes: tuple[Binding, ...]
    lane_order: bool = False
    first: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.slices)

    @property
    def pitch(self) -> int:
        """Weights from the beginning of a row to that of the next."""
        return whole_blocks(self.row)

    def origin(self, number: int) -> tuple[str, int]:
        """The tensor that number `number` of the planes is of, and its row there; a vector is one row."""
        at = number // self.pitch if self.rows > 1 else number
        for part in self.slices:
            rows, first = (n // self.row if self.rows > 1 else n for n in (part.count, part.first))
            if at < rows:
                return part.name, first + at if self.rows > 1 else 0
            at -= rows
        raise IndexError(number)


@dataclass(frozen=True)
class RopeTable:
    """Where the phases of a rotary embedding are written at load: uint32."""

    rope: Rope
    binding: Binding


@dataclass(frozen=True)
class HostTable:
    """A table of the file that stays with the host, of rows of `row` numbers. binding: where those of a batch's tokens
    are written before it, as float32, each filled up to whole blocks of 32."""

    name: str
    row: int
    binding: Binding


@dataclass(frozen=True, order=True)
class Ring:
    """The cache of layers whose tokens see the last `window` ones, where its `rows` are fewer than the context."""

    window: int
    rows: int

    def holds(self, position: int, newest: int) -> bool:
        """Whether what the token at a position sees before it is still there when `newest` positions were written."""
        return newest - self.rows <= max(position + 1 - self.window, 0)


@dataclass(frozen=True)
class Embeddings:
    """What a batch of texts leaves: at most so many rows of `length` numbers, float32, with `pitch` numbers from the
    beginning of one to that of the next; a text's, or without pooling ("none") a token's. pooling: of POOLINGS."""

    pooling: str
    length: int
    pitch: int
    rows: int

    @property
    def row_bytes(self) -> int:
        return 4 * self.pitch

    @property
    def bytes(self) -> int:
        return self.row_bytes * self.rows


@dataclass(frozen=True)
class ModelPlan:
    """Everything the executor needs. `regions` are the buffers, in bytes; `arena_lower_bound` is in bytes too.

    transient: bytes of buffers that are made for a while beside the regions. memory_budget: bytes that all may take.
    rings: of layers that do not keep the whole context. precision: of a batch's products, of mul_mat.PRECISIONS.
    embeddings: of a model that gives these and no text: it has the one phase "embed".
    """

    n_ctx: int
    n_ubatch: int
    phases: Mapping[str, Phase]
    regions: Mapping[str, int]
    weights: tuple[WeightPlan, ...]
    rope_tables: tuple[RopeTable, ...]
    codebooks: Mapping[Codebook, Binding]  # where each is written at load
    arena_lower_bound: int
    logits: Mapping[str, Binding]  # by phase: where its logits, or embeddings, are, float32
    transient: int = 0
    memory_budget: int | None = None
    rings: tuple[Ring, ...] = ()
    precision: str = "high"
    copies: int = 0  # of the recurrent states; 0: there are none
    tables: tuple[HostTable, ...] = ()
    embeddings: Embeddings | None = None

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of GPU buffers by use: weights, kv, arena, io, of recurrent models state with its copies, tables' rows
        where these are on the host, their total, and the most there are at any time."""
        use = {"weights": 0, "kv": 0, "arena": 0, "io": 0}
        for region, size in self.regions.items():
            name = region.split(".")[0]
            use[name] = use.get(name, 0) + size
        total = sum(use.values())
        return {**use, "total": total, "peak": total + self.transient}

    @property
    def buffers(self) -> list[tuple[str, int]]:
        """Label and bytes of every buffer: the regions, and apart from "io" what it counts for reading results back."""
        tokens = [("token", 4 * SUBMITTED)] * IN_FLIGHT
        io = self.regions["io"] - self.readback_bytes
        return [*{**self.regions, "io": io}.items(), *tokens, ("results", self.results_bytes)]

    @property
    def results_bytes(self) -> int:
        """Of the buffer through which results are read."""
        return results_bytes(self.n_ubatch, self.embeddings.bytes if self.embeddings else 0)

    @property
    def readback_bytes(self) -> int:
        """What the I/O region counts for buffers of their own, through which anything is read."""
        return readback_bytes(self.n_ubatch, self.embeddings.bytes if self.embeddings else 0)

    @property
    def kernels(self) -> Iterator[Kernel]:
        """Of every dispatch, and its plain one; many come several times."""
        for phase in self.phases.values():
            for dispatch in phase.dispatches:
                yield dispatch.kernel
                if dispatch.plain:
                    yield dispatch.plain.kernel

    def decode_phase(self, position: int) -> str:
        """The phase that computes the token at a position: attention over a long context is split."""
        return "decode_long" if position >= LONG_CONTEXT and "decode_long" in self.phases else "decode"

    @property
    def dispatches_per_token(self) -> int:
        """Or of a batch of texts, where these are embedded."""
        return len(self.phases["embed" if self.embeddings else "decode"].dispatches)
