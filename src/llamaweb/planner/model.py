"""Plans a whole model: the phases' steps, all regions, and every dispatch with its bindings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llamaweb.errors import ContextError, MemoryBudgetError, UnsupportedError
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Launch, Variant
from llamaweb.kernels.mul_mat import Codes, MulMat, codes
from llamaweb.kernels.tuner import Choices
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations import OPERATIONS
from llamaweb.operations.operation import Matrix, Site
from llamaweb.operations.step import Step, Value
from llamaweb.planner.budget import asked, fit
from llamaweb.planner.fusion import FUSIONS, Steps
from llamaweb.planner.kv import CachePiece
from llamaweb.planner.plan import Binding, Dispatch, ModelPlan, Phase
from llamaweb.planner.sizes import Options, Sizes
from llamaweb.planner.variants import Variants
from llamaweb.profile import DESKTOP, DeviceProfile

USUAL_CONTEXT = 2048  # tokens, where none is asked for


def plan_model(
    file: GGUFFile, profile: DeviceProfile = DESKTOP, *, choices: Choices | None = None, **options: Any
) -> ModelPlan:
    """The plan for a model out of its header alone; options and errors are `Planner`'s. choices: kernel variants that
    tuning found."""
    return Planner(file, profile, **options).plan(choices or {})


class Planner:
    """Plans one model on one device: sizes and places are found once, and bound to any choice of kernel variants."""

    def __init__(
        self,
        file: GGUFFile,
        profile: DeviceProfile = DESKTOP,
        *,
        n_ctx: int | None = None,
        n_ubatch: int = 512,
        memory_budget: int | None = None,
        logits_all: bool = False,
        type_k: str = "f16",
        type_v: str = "f16",
        tuned: bool = False,
        unfused: Collection[str] = (),
        precision: str = "high",
        checked: bool = False,
        offload: str = "auto",
        pooling: str | None = None,
    ) -> None:
        """n_ctx: tokens the cache holds; None: 2,048, or the model's own where that is less; 0: as many as fit, up
        to the model's own. n_ubatch: most tokens of a prefill batch; fewer are taken where the device or the budget
        asks for it. memory_budget: bytes that all GPU buffers together may take at any time. logits_all: add the
        phase "evaluate", which gives the log-probability of every token. type_k, type_v: formats of the cache
        (kernels/cache.py). tuned: count what timing kernels takes. unfused: names of FUSIONS that are left out.
        precision: of a batch's products, one of mul_mat.PRECISIONS. checked: count what the self-check takes.
        offload: "embeddings" leaves tables of which rows are looked up by token, and nothing else, with the host;
        "auto" does so where the budget asks for it, "none" never. pooling: one of POOLINGS, for embeddings; None: the
        file's. A model that is for these has the phase "embed" alone, whose batch is the context: a text is read at
        once. Raises UnsupportedError, ContextError or MemoryBudgetError, which says what would fit."""
        if unknown := sorted(set(unfused) - set(FUSIONS)):
            raise UnsupportedError(f"There is no fusion {unknown[0]!r} to leave out; there are {', '.join(FUSIONS)}.")
        n_ctx, n_ubatch, memory_budget = asked(n_ctx, n_ubatch, memory_budget)
        options = Options(memory_budget, logits_all, type_k, type_v, tuned, frozenset(unfused), precision, checked)
        options = replace(options, offload=offload == "embeddings", pooling=pooling)
        sizes = Sizes(file, profile, options)
        n_ctx = min(USUAL_CONTEXT, sizes.n_ctx_train) if n_ctx is None else n_ctx
        if n_ctx > sizes.n_ctx_train:
            raise ContextError(
                f"A context of {n_ctx} tokens is longer than the model's; ask for {sizes.n_ctx_train} or less."
            )
        n_ubatch = max(n_ubatch, 2) if logits_all else n_ubatch  # "evaluate" takes two tokens or more
        n_ubatch = min(n_ubatch, profile.max_compute_workgroups_per_dimension)
        self._profile = profile
        self._sizes, self._n_ctx, self._n_ubatch = _fitted(sizes, n_ctx, n_ubatch, offload)
        sizes = self._sizes
        self._tables = {table.name: table for table in sizes.tables(self._n_ubatch)}
        self._weights = sizes.weights
        self._caches = sizes.caches(self._n_ctx, self._n_ubatch)
        self._io = Binding("io", 0, IO.bytes(self._n_ubatch))
        self._arenas = {
            name: {value: Binding("arena", at, value.bytes) for value, at in layout.offsets.items()}
            for name, layout in sizes.layouts(self._n_ctx, self._n_ubatch).items()
        }
        # Of each step, by the variants that its pieces were bound with: a choice of few binds few anew.
        self._bound: dict[tuple[str, int, tuple[Variant | Codes | None, ...]], list[Dispatch]] = {}

    def plan(self, choices: Choices) -> ModelPlan:
        """With these variants of kernels, and the defaults of others; they change no size and no place."""
        sizes, at = self._sizes, (self._n_ctx, self._n_ubatch)
        layouts = sizes.layouts(*at)
        variants = Variants(choices)
        return ModelPlan(
            *at,
            {name: self._phase(name, layout.steps, variants) for name, layout in layouts.items()},
            sizes.regions(*at),
            tuple(self._weights.weights),
            tuple(replace(t, rope=t.rope.in_context(self._n_ctx)) for t in self._weights.ropes.values()),
            self._weights.codebooks,
            max(layout.lower_bound for layout in layouts.values()),
            {name: self._arenas[name][layout.steps.logits] for name, layout in layouts.items()},
            sizes.transient(*at),
            sizes.options.memory_budget,
            sizes.rings(*at),
            sizes.options.precision,
            sizes.copies(*at),
            tuple(self._tables.values()),
            sizes.embeddings(*at),
        )

    def _phase(self, name: str, steps: Steps, variants: Variants) -> Phase:
        chosen = [self._chosen(step, variants) for step in steps.steps]

        def bound(i: int, of_pieces: tuple[Variant | Codes | None, ...]) -> list[Dispatch]:
            key = (name, i, of_pieces)
            if key not in self._bound:
                self._bound[key] = self._dispatches(steps.steps[i], self._arenas[name], of_pieces)
            return self._bound[key]

        groups: list[list[Dispatch]] = []
        quantizing: dict[Value, int] = {}  # which step makes a product's x_q …
        made: dict[Value, Codes] = {}  # … and as what that is there
        for i, (step, of_pieces) in enumerate(zip(steps.steps, chosen, strict=True)):
            if step.op == "quantize":  # where a chosen kernel needs it
                quantizing[step.values["y"].value] = i
                groups.append([])
                continue
            group = []
            for dispatch, variant in zip(bound(i, of_pieces), of_pieces, strict=True):
                wanted = codes(variant, self._profile) if isinstance(variant, MulMat) else None
                x_q = step.values["x_q"].value if wanted else None
                if wanted and x_q and made.get(x_q) != wanted:
                    group += bound(quantizing[x_q], (wanted,))
                    made[x_q] = wanted
                group.append(dispatch)
            groups.append(group)
        head = sum(map(len, groups[: steps.head]))
        return Phase(steps.steps[0].n_tokens, tuple(d for group in groups for d in group), head)

    def _chosen(self, step: Step, variants: Variants) -> tuple[Variant | None, ...]:
        """Which variant computes a step with each piece of its weight or cache; None: there is one kernel alone, or the
        library's default."""
        return tuple(variants.of(step, site) for site, _ in self._sites(step))

    def _sites(self, step: Step) -> list[tuple[Site, dict[str, Binding]]]:
        """Where a step is launched, and what is bound there besides values: once, or once for each piece of its weight
        or cache."""
        whole = sum(tensor.rows for tensor in step.weights.get("w", ()))
        kept = {slot: self._sizes.states.places[state] for slot, state in step.states.items()}
        if "host" in step.params:
            kept = {"w_qs": self._tables[step.params["host"].name].binding}
        pieces: Sequence[CachePiece | None] = (None,)
        cache = None
        if "layer" in step.params:
            cache, pieces = self._caches.caches[step.params["layer"]], self._caches.pieces[step.params["layer"]]
        found = []
        for weight, bound in self._weights.place(step):
            w = weight
            matrix = Matrix(w.format, w.pitch, w.row, w.rows, w.first, whole) if w else None
            for piece in pieces:
                heads = (piece.first, piece.heads) if piece else None
                cached = {"k_cache": piece.keys, "v_cache": piece.values} if piece else {}
                site = Site(self._profile, self._n_ubatch, self._sizes.options.precision, matrix, cache, heads)
                found.append((site, {**bound, **cached, **kept}))
        return found

    def _dispatches(
        self, step: Step, arena: Mapping[Value, Binding], variants: Sequence[Variant | Codes | None]
    ) -> list[Dispatch]:
        step, places = _in_place(step, arena, self._profile.min_storage_buffer_offset_alignment // 4)
        values = {**places, "batch": self._io}
        found = []
        for (site, bound), variant in zip(self._sites(step), variants, strict=True):
            operation = OPERATIONS[step.op]
            launch, shape = operation.launch(step, site, variant), operation.shape(step, site)
            if max(launch.workgroups) > (most := self._profile.max_compute_workgroups_per_dimension):
                raise UnsupportedError(
                    f"{step.name} takes {max(launch.workgroups)} workgroups in a row, but the device computes {most}; "
                    "use a model of smaller sizes, or fewer tokens in a batch (n_ubatch)."
                )
            bindings = tuple({**values, **bound}[slot.name] for slot in launch.kernel.slots)
            found.append(replace(_dispatch(step.name, launch, bindings), shape=shape))
        return found


def _in_place(step: Step, arena: Mapping[Value, Binding], unit: int) -> tuple[Step, dict[str, Binding]]:
    """The step, and where its values are: bound from where a view begins, in whole units of `unit` numbers, so that one
    kernel serves the layers whose views differ by that alone."""
    views, places = dict(step.values), {}
    used = Counter(view.value for view in views.values())
    for slot, view in step.values.items():
        value = arena[view.value]
        if view.plane is not None:
            size = value.size // view.value.planes
            places[slot] = replace(value, offset=value.offset + view.plane * size, size=size)
            continue
        before = view.first // unit * unit if used[view.value] == 1 and slot not in step.lane_order else 0
        views[slot] = replace(view, first=view.first - before)
        places[slot] = replace(value, offset=value.offset + 4 * before, size=value.size - 4 * before)
    return replace(step, values=views), places


def _fitted(sizes: Sizes, n_ctx: int, n_ubatch: int, offload: str) -> tuple[Sizes, int, int]:
    """With the context and the batch that fit; where none does and it may be, with tables on the host."""
    try:
        return sizes, *fit(sizes, n_ctx, n_ubatch)
    except MemoryBudgetError as error:
        smaller = sizes.with_tables_on_host() if offload != "embeddings" else None
        if smaller is None:
            raise
        try:
            fitting = fit(smaller, n_ctx, n_ubatch)
        except MemoryBudgetError as still:
            raise error if offload == "none" else still from None
        if offload == "none":
            advice = 'leave out offload="none", so that tables of embeddings may lie outside of GPU memory'
            raise MemoryBudgetError(f"{str(error).partition('; ')[0]}; {advice}.") from None
        return smaller, *fitting


def _dispatch(label: str, launch: Launch, bindings: tuple[Binding, ...]) -> Dispatch:
    plain = _dispatch(label, launch.plain, bindings) if launch.plain else None
    return Dispatch(label, launch.kernel, bindings, launch.workgroups, launch.token_tile, plain)
