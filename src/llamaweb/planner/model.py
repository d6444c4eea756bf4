"""Plans a whole model: the phases' steps, all regions, and every dispatch with its bindings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llamaweb.errors import ContextError, UnsupportedError
from llamaweb.kernels import library, mul_mat, mul_mat_vec
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Launch
from llamaweb.kernels.mul_mat import MulMat
from llamaweb.kernels.tuner import Choices, Variant
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner.budget import asked, fit
from llamaweb.planner.fusion import FUSIONS, Step, Steps, Value
from llamaweb.planner.kv import CachePiece
from llamaweb.planner.plan import Binding, Dispatch, ModelPlan, Phase, WeightPlan
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
    ) -> None:
        """n_ctx: tokens the cache holds; None: 2,048, or the model's own where that is less; 0: as many as fit, up to
        the model's own. n_ubatch: most tokens of a prefill batch; fewer are taken where the device or the budget asks
        for it. memory_budget: bytes that all GPU buffers together may take at any time. logits_all: add the phase
        "evaluate", which gives the log-probability of every token. type_k, type_v: formats of the cache
        (kernels/cache.py). tuned: count what timing kernels takes. unfused: names of FUSIONS that are left out.
        precision: of a batch's products, one of mul_mat.PRECISIONS. checked: count what the self-check takes. Raises
        UnsupportedError, ContextError or MemoryBudgetError, which says what would fit."""
        if unknown := sorted(set(unfused) - set(FUSIONS)):
            raise UnsupportedError(f"There is no fusion {unknown[0]!r} to leave out; there are {', '.join(FUSIONS)}.")
        n_ctx, n_ubatch, memory_budget = asked(n_ctx, n_ubatch, memory_budget)
        options = Options(memory_budget, logits_all, type_k, type_v, tuned, frozenset(unfused), precision, checked)
        sizes = Sizes(file, profile, options)
        n_ctx = min(USUAL_CONTEXT, sizes.n_ctx_train) if n_ctx is None else n_ctx
        if n_ctx > sizes.n_ctx_train:
            raise ContextError(
                f"A context of {n_ctx} tokens is longer than the model's; ask for {sizes.n_ctx_train} or less."
            )
        n_ubatch = max(n_ubatch, 2) if logits_all else n_ubatch  # "evaluate" takes two tokens or more
        n_ubatch = min(n_ubatch, profile.max_compute_workgroups_per_dimension)
        self._sizes = sizes
        self._profile = profile
        self._n_ctx, self._n_ubatch = fit(sizes, n_ctx, n_ubatch)
        self._weights = sizes.weights
        self._caches = sizes.caches(self._n_ctx, self._n_ubatch)
        self._io = Binding("io", 0, IO.bytes(self._n_ubatch))
        self._arenas = {
            name: {value: Binding("arena", at, value.bytes) for value, at in layout.offsets.items()}
            for name, layout in sizes.layouts(self._n_ctx, self._n_ubatch).items()
        }
        # Of each step, by the variants that its pieces were bound with: a choice of few binds few anew.
        self._bound: dict[tuple[str, int, tuple[Variant | None, ...]], list[Dispatch]] = {}

    def plan(self, choices: Choices) -> ModelPlan:
        """With these variants of kernels, and the defaults of others; they change no size and no place."""
        sizes, at = self._sizes, (self._n_ctx, self._n_ubatch)
        layouts = sizes.layouts(*at)
        variants = Variants(self._profile, choices, sizes.options.precision)
        return ModelPlan(
            *at,
            {name: self._phase(name, layout.steps, variants) for name, layout in layouts.items()},
            sizes.regions(*at),
            tuple(self._weights.weights),
            tuple(self._weights.ropes.values()),
            self._weights.codebooks,
            max(layout.lower_bound for layout in layouts.values()),
            {name: self._arenas[name][layout.steps.logits] for name, layout in layouts.items()},
            sizes.transient(*at),
            sizes.options.memory_budget,
            sizes.rings(*at),
            sizes.options.precision,
        )

    def _phase(self, name: str, steps: Steps, variants: Variants) -> Phase:
        chosen = [self._chosen(step, variants) for step in steps.steps]
        read = {
            step.values["x_q"]
            for step, of_pieces in zip(steps.steps, chosen, strict=True)
            if "x_q" in step.values and any(isinstance(v, MulMat) and v.kind == "packed" for v in of_pieces)
        }
        groups: list[list[Dispatch]] = []
        for i, (step, of_pieces) in enumerate(zip(steps.steps, chosen, strict=True)):
            if step.op == "quantize" and step.values["y"] not in read:
                groups.append([])  # no chosen kernel needs it
                continue
            key = (name, i, of_pieces)
            if key not in self._bound:
                self._bound[key] = self._dispatches(step, self._arenas[name], of_pieces)
            groups.append(self._bound[key])
        head = sum(map(len, groups[: steps.head]))
        return Phase(steps.steps[0].values["y"].n_tokens, tuple(d for group in groups for d in group), head)

    def _chosen(self, step: Step, variants: Variants) -> tuple[Variant | None, ...]:
        """Which variant computes a step with each piece of its weight or cache; None: there is one kernel alone, or the
        library's default."""
        pieces = self._weights.place(step)
        return tuple(self._variant(step, weight, cache, variants) for weight, _ in pieces for cache in self._of(step))

    def _of(self, step: Step) -> Sequence[CachePiece | None]:
        return self._caches.pieces[step.params["layer"]] if "rope" in step.params else (None,)

    def _variant(
        self, step: Step, weight: WeightPlan | None, cache: CachePiece | None, variants: Variants
    ) -> Variant | None:
        match step.op:
            case "mul_mat_vec" if weight:
                return variants.vec(step, weight)
            case "mul_mat" if weight:
                return variants.tile(step, weight)
            case "flash_attn_vec":
                return variants.attention_vec(self._attention(step.params, cache), step.params.get("splits", 1))
            case "flash_attn":
                return variants.attention(self._attention(step.params, cache), step.values["y"].n_tokens)
        return None

    def _dispatches(
        self, step: Step, arena: Mapping[Value, Binding], variants: Sequence[Variant | None]
    ) -> list[Dispatch]:
        """One, or one for each piece of the step's weight or cache."""
        values = {slot: arena[value] for slot, value in step.values.items()} | {"batch": self._io}
        pieces = [(weight, bound, cache) for weight, bound in self._weights.place(step) for cache in self._of(step)]
        found = []
        for (weight, bound, cache), variant in zip(pieces, variants, strict=True):
            launch = self._launch(step, weight, cache, variant)
            cached = {"k_cache": cache.keys, "v_cache": cache.values} if cache else {}
            bindings = tuple({**values, **bound, **cached}[slot.name] for slot in launch.kernel.slots)
            found.append(_dispatch(step.name, launch, bindings))
        return found

    def _launch(self, step: Step, weight: WeightPlan | None, cache: CachePiece | None, variant: Any) -> Launch:
        p = step.params
        if weight:
            k, n, format, offset = weight.pitch, weight.rows, weight.format, p.get("offset", 0) + weight.first
            columns = weight.row
        y_row, y_pitch = (step.values["y"].row, step.values["y"].pitch) if "y" in step.values else (0, 0)
        n_tokens = next(iter(step.values.values())).n_tokens
        y_lanes = "y" in p["lane_order"]
        match step.op:
            case "get_rows":
                rows = sum(tensor.rows for tensor in step.weights["w"])
                piece = (weight.first, n) if weight and n < rows else None
                scale = p.get("scale", 1.0)
                return library.get_rows(format, k, rows, n_tokens, scale=scale, y_lanes=y_lanes, piece=piece)
            case "rms_norm":
                return library.rms_norm(y_row, p["eps"], n_tokens, epilogue=p.get("epilogue", "store"))
            case "mul_mat_vec" if weight:
                return mul_mat_vec.mul_mat_vec(
                    format,
                    k,
                    n,
                    self._profile,
                    eps=p.get("eps"),
                    bias="bias" in step.weights,
                    epilogue=p.get("epilogue", "store"),
                    offset=offset,
                    y_row=y_pitch,
                    last_row=p["last_row"],
                    post_eps=p.get("post_eps"),
                    keeps_sum="sum" in step.values,
                    lane_order=p["lane_order"],
                    columns=columns,
                    variant=variant,
                )
            case "mul_mat" if weight:
                return mul_mat.mul_mat(
                    format,
                    k,
                    n,
                    n_tokens,
                    self._profile,
                    bias="bias" in step.weights,
                    epilogue=p.get("epilogue", "store"),
                    offset=offset,
                    stride=y_pitch,
                    columns=columns,
                    variant=variant,
                )
            case "quantize":
                return mul_mat.quantize(y_row, n_tokens, step.values["y"].bits, self._profile)
            case "add":
                return library.add(y_row, n_tokens)
            case "glu":
                return library.glu(p["kind"], y_row, n_tokens)
            case "rope_kv":
                return library.rope_kv(self._attention(p, cache), n_tokens)
            case "flash_attn_vec":
                attention, splits = self._attention(p, cache), p.get("splits", 1)
                options: dict[str, Any] = {"splits": splits, "y_lanes": y_lanes, "variant": variant}
                options["rotated"] = p.get("rotated", False)
                return library.flash_attn_vec(attention, self._profile, **options)
            case "flash_attn_reduce":
                return library.flash_attn_reduce(p["head_dim"], p["n_head"], p["splits"], y_lanes=y_lanes)
            case "flash_attn":
                return library.flash_attn(self._attention(p, cache), n_tokens, self._profile, variant=variant)
            case "sample":
                return library.sample(step.values["logits"].row)
            case "cross_entropy":
                targets, results = IO.targets(self._n_ubatch), IO.results(self._n_ubatch)
                return library.cross_entropy(step.values["logits"].row, n_tokens, targets, results)
        raise UnsupportedError(f"There is no kernel for {step.op}.")

    def _attention(self, params: Mapping[str, Any], piece: CachePiece | None) -> library.Attention:
        names = ("rope", "head_dim", "n_head", "n_head_kv", "scale", "window", "head_eps")
        same = {name: params[name] for name in names}
        cache = self._caches.caches[params["layer"]]
        bound = (piece.first, piece.heads) if piece else None
        return library.Attention(n_ctx=cache.rows, ring=cache.ring, type_k=cache.k, type_v=cache.v, bound=bound, **same)


def _dispatch(label: str, launch: Launch, bindings: tuple[Binding, ...]) -> Dispatch:
    plain = _dispatch(label, launch.plain, bindings) if launch.plain else None
    return Dispatch(label, launch.kernel, bindings, launch.workgroups, launch.token_tile, plain)
