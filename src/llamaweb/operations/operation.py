"""What an operation is: everything the package knows of it, in one place. A new one is a file here and its template."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.cache import Cache
from llamaweb.kernels.checks.products import FEW
from llamaweb.kernels.formats import Format
from llamaweb.kernels.kernel import Kernel, Launch, Variant
from llamaweb.kernels.mul_mat import PRECISIONS
from llamaweb.kernels.tuner import Shape
from llamaweb.operations.step import STATES, Step, Value, View
from llamaweb.profile import DeviceProfile


class Lowering:
    """A graph on its way to steps: one plain step, or a few, for each of its operations."""

    def __init__(self, graph: Graph, splits: int = 1) -> None:
        """splits: how many workgroups share the positions of a token's attention."""
        self.graph = graph
        self.splits = splits
        self.steps: list[Step] = []
        self._views: dict[Tensor, View] = {}
        self._logits = {node.src[0] for node in graph.nodes if node.op in ("sample", "cross_entropy")}
        self.in_head = False  # whether what is lowered serves the logits alone

    def emit(
        self,
        op: str,
        name: str,
        values: Mapping[str, View],
        weights: Mapping[str, tuple[Tensor, ...]] | None = None,
        **params: Any,
    ) -> None:
        self.steps.append(Step(op, name, dict(values), dict(weights or {}), params, self.in_head))

    def view(self, node: Tensor) -> View:
        """Where an operation's result is, in one stretch: groups that are apart are copied."""
        view = self._views[node]
        if view.apart:
            self.copy(view, self.new(node), node.name)
        return self._views[node]

    def groups(self, node: Tensor) -> View:
        """The same for what reads groups that are apart as well."""
        return self._views[node]

    def rows(self, node: Tensor) -> View:
        """The same for what reads whole rows in blocks: a part of a row is copied into one of its own."""
        view = self.view(node)
        if view.whole and view.value.in_blocks:
            return view
        copy = View.of(Value(node.name + ".rows", view.row, view.n_tokens))
        self.copy(view, copy, copy.value.name)
        return copy

    def copy(self, x: View, y: View, name: str) -> None:
        self.emit("elementwise", name, {"x0": x, "y": y}, expression=0)

    def put(self, node: Tensor, view: View) -> None:
        """Says where an operation's result is."""
        self._views[node] = view

    def new(self, node: Tensor) -> View:
        """Room for an operation's result; single numbers of logits are read."""
        view = View.of(Value(node.name, node.row, node.rows, in_blocks=node not in self._logits))
        self.put(node, view)
        return view


@dataclass(frozen=True)
class Matrix:
    """What of a step's weight a dispatch reads: `rows` rows of `columns` numbers, from the one that gives result
    `first` on; `whole`: how many the weight has in all."""

    format: Format
    pitch: int
    columns: int
    rows: int
    first: int
    whole: int


@dataclass(frozen=True)
class Site:
    """Where a step is to be launched. cache: its layer's; heads: the first key-value head whose keys and values are
    bound, and how many. precision: of PRECISIONS, what a batch's products may round. n_ubatch: most tokens of a
    batch."""

    profile: DeviceProfile
    n_ubatch: int
    precision: str = "high"
    matrix: Matrix | None = None
    cache: Cache | None = None
    heads: tuple[int, int] | None = None

    @property
    def bits(self) -> int:
        """Of a batch's activations for the packed dot."""
        return PRECISIONS[self.precision]


@dataclass(frozen=True)
class Use:
    """A dispatch at work on `tokens` of a batch's `n_tokens`, behind n_past cached ones. sizes: bytes bound by slot, of
    those that are values (`values`) of these tokens."""

    kernel: Kernel
    constants: Mapping[str, Any]
    sizes: Mapping[str, int]
    values: Collection[str]
    tokens: int
    n_tokens: int
    n_past: int

    @property
    def seen(self) -> int:
        """Cached tokens that at least one token of the batch sees."""
        window = self.constants.get("window") or self.n_past + self.n_tokens
        return min(self.n_past + self.n_tokens, self.n_tokens + window - 1)


class Operation:
    """One operation. `name`: of its nodes or its steps; `templates`: of its kernels; `in_lanes`: slots of one token's
    values that may be in lane order; `parts`: slots that may be parts of rows, and `apart` those that may be groups;
    `prologue`, `epilogue`: whether its kernel takes an expression in the place of x, and over its result; `convolves`:
    the slot where a token's convolution may be taken in; `packs`: whether it has kernels with the packed dot, which
    read x as integers (slot x_q); `case_tokens`: most that its case of the self-check takes; `case_rows`: whether that
    looks at whole rows of results.

    For tuning, `variants`: what tells its kernel's variants, if it has some; `tuned`: phases in which these are timed;
    `any_device`: the one that is right everywhere, where launches do not tell it (`plain`); `cached`: whether its time
    depends on the cache; `prepares`: its slot whose content an operation behind it takes, and the slot there: these two
    are timed together; `steers`: whether what it finds says which weights are read behind it."""

    name: ClassVar[str]
    templates: ClassVar[tuple[str, ...]] = ()
    in_lanes: ClassVar[frozenset[str]] = frozenset()
    parts: ClassVar[frozenset[str]] = frozenset()
    apart: ClassVar[frozenset[str]] = frozenset()
    variants: ClassVar[type[Variant] | None] = None
    tuned: ClassVar[tuple[str, ...]] = ()
    any_device: ClassVar[Variant | None] = None
    cached: ClassVar[bool] = False
    prepares: ClassVar[tuple[str, str] | None] = None
    steers: ClassVar[bool] = False
    prologue: ClassVar[bool] = False
    epilogue: ClassVar[bool] = False
    convolves: ClassVar[str] = ""
    packs: ClassVar[bool] = False
    case_tokens: ClassVar[int] = FEW
    case_rows: ClassVar[bool] = False

    def lower(self, node: Tensor, low: Lowering) -> None:
        """Adds the plain steps of a node."""
        raise NotImplementedError(f"{self.name} is no operation of graphs")

    def launch(self, step: Step, site: Site, variant: Any) -> Launch:
        """The kernel of a step and its workgroups. variant: None, or one of the kernel's."""
        raise NotImplementedError(f"{self.name} is no step")

    def shape(self, step: Step, site: Site) -> Shape | None:
        """What tuning knows its kernel by; None: it has no variants."""
        return None

    def candidates(self, shape: Shape, profile: DeviceProfile, mode: str) -> list[Variant]:
        """Variants that are valid on a device, the default first; "full" has all of them, "auto" the better part."""
        raise NotImplementedError(f"{self.name} has no variants")

    def variant(self, step: Step, site: Site, chosen: Variant | None) -> Variant | None:
        """What computes a step, where tuning chose this, or nothing; None: the library's default."""
        return chosen if self.variants and isinstance(chosen, self.variants) else None

    def flops(self, use: Use) -> int:
        """Multiplications and additions in products."""
        return 0

    def moved(self, slot: str, use: Use) -> int:
        """Bytes of what is bound at a slot that a dispatch must touch: once, but for a state, which it reads and
        writes."""
        return use.sizes[slot] * (2 if slot in STATES else 1)

    def written(self, slot: str) -> bool:
        """Whether it writes what is bound at a slot."""
        return slot in ("y", "sum", *STATES)
