"""Plans a whole model: the phases' steps, all regions, and every dispatch with its bindings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import compress
from typing import Any

from gguf.constants import GGMLQuantizationType as GGMLType

from llamaweb.architectures import architecture
from llamaweb.errors import ContextError, MemoryBudgetError, UnsupportedError
from llamaweb.graph import Graph, Tensor
from llamaweb.kernels import library, mul_mat
from llamaweb.kernels.cache import Cache, cache_format
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.formats import BLOCK, Codebook, Format, format_of
from llamaweb.kernels.io import IO, readback_bytes
from llamaweb.kernels.kernel import Launch
from llamaweb.kernels.library import MulMatVec
from llamaweb.kernels.mul_mat import MulMat
from llamaweb.kernels.tuner import Choices, Shape
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner.fusion import Step, Steps, fuse
from llamaweb.planner.memory import Lifetime, align, lower_bound, plan_arena
from llamaweb.planner.plan import LONG_CONTEXT, Binding, Dispatch, ModelPlan, Phase, RopeTable, WeightPlan
from llamaweb.planner.quantized import with_quantized
from llamaweb.profile import DESKTOP, DeviceProfile
from llamaweb.rope import Rope

_EVALUATED_LOGITS = 64 << 20  # bytes of logits held at once when all of them are wanted


def plan_model(
    file: GGUFFile,
    profile: DeviceProfile = DESKTOP,
    *,
    n_ctx: int = 2048,
    n_ubatch: int = 512,
    logits_all: bool = False,
    type_k: str = "f16",
    type_v: str = "f16",
    choices: Choices | None = None,
) -> ModelPlan:
    """The plan for a model out of its header alone.

    n_ctx: tokens the cache holds. n_ubatch: tokens of a prefill batch. logits_all: add the phase "evaluate", which
    gives the log-probability of every token. type_k, type_v: formats of the cache (kernels/cache.py). choices:
    kernel variants that tuning found. Raises UnsupportedError, ContextError or MemoryBudgetError, which names a
    context that fits if there is one.
    """

    def plan(n_ctx: int) -> ModelPlan:
        return _plan(file, profile, n_ctx, n_ubatch, logits_all, type_k, type_v, choices or {})

    try:
        return plan(n_ctx)
    except MemoryBudgetError as error:
        fitting = _fitting_context(plan, n_ctx)
        advice = f"a context of {fitting} fits" if fitting else "use a smaller model or batch"
        raise MemoryBudgetError(f"{error}; {advice}.") from None


def _fitting_context(plan: Callable[[int], ModelPlan], too_long: int) -> int:
    """The longest context whose plan fits, in steps of 256 tokens; 0 if none does."""

    def too_large(steps: int) -> bool:
        try:
            plan(256 * steps)
        except MemoryBudgetError:
            return True
        return False

    return 256 * bisect_left(range(1, too_long // 256 + 1), True, key=too_large)


def _plan(
    file: GGUFFile,
    profile: DeviceProfile,
    n_ctx: int,
    n_ubatch: int,
    logits_all: bool,
    type_k: str,
    type_v: str,
    choices: Choices,
) -> ModelPlan:
    arch = architecture(file)
    hp = arch.hyperparameters(file)
    if n_ctx < 1 or n_ubatch < 1:
        raise ContextError(f"A context of {n_ctx} tokens in batches of {n_ubatch} is empty; ask for at least 1.")
    if n_ctx > hp.n_ctx_train:
        raise ContextError(f"A context of {n_ctx} tokens is longer than the model's; ask for {hp.n_ctx_train} or less.")
    if hp.head_dim % 8 or hp.head_dim > 256:
        raise UnsupportedError(f"Attention heads of {hp.head_dim} are not supported; multiples of 8 up to 256 are.")
    n_ubatch = max(n_ubatch, 2) if logits_all else n_ubatch  # "evaluate" takes two tokens or more
    n_ubatch = min(n_ubatch, n_ctx, profile.max_compute_workgroups_per_dimension)
    batches = {"decode": (1, "last", 1)}  # tokens, wanted logits, attention splits
    splits = library.attention_splits(hp.n_head, profile)
    if n_ctx > LONG_CONTEXT and splits > 1:
        batches["decode_long"] = (1, "last", splits)
    if n_ubatch > 1:
        batches["prefill"] = (n_ubatch, "last", 1)
    if logits_all:
        batches["evaluate"] = (max(2, min(n_ubatch, 128, _EVALUATED_LOGITS // (4 * hp.n_vocab))), "all", 1)
    fused: dict[str, Steps] = {}
    for name, (n_tokens, outputs, splits) in batches.items():
        graph = Graph(file.tensors, n_tokens, outputs)
        arch.build(graph, hp)
        fused[name] = fuse(graph, splits, profile.max_storage_buffers_per_shader_stage)
    cache = Cache(
        cache_format(type_k, hp.head_dim), cache_format(type_v, hp.head_dim), hp.n_head_kv, hp.head_dim, n_ctx
    )
    return _Planner(profile, n_ctx, n_ubatch, hp.n_layer, cache, choices).plan(fused)


class _Planner:
    def __init__(
        self, profile: DeviceProfile, n_ctx: int, n_ubatch: int, n_layer: int, cache: Cache, choices: Choices
    ) -> None:
        self.profile = profile
        self.choices = choices
        self.alignment = profile.min_storage_buffer_offset_alignment
        self.n_ctx = n_ctx
        self.n_ubatch = n_ubatch
        self.cache = cache
        k, v = (align(size, self.alignment) for size in cache.bytes)
        self.cache_at = [(i * (k + v), i * (k + v) + k) for i in range(n_layer)]
        self.io = Binding("io", 0, IO.bytes(n_ubatch))
        self.regions = {"kv": n_layer * (k + v), "arena": 0, "io": self.io.size + readback_bytes(n_ubatch)}
        self.weights: dict[tuple[str, ...], WeightPlan] = {}
        self.ropes: dict[Rope, RopeTable] = {}
        self.codebooks: dict[Codebook, Binding] = {}

    def plan(self, fused: dict[str, Steps]) -> ModelPlan:
        phases: dict[str, Phase] = {}
        logits: dict[str, Binding] = {}
        bound = largest = 0
        for name, fused_steps in fused.items():
            steps = with_quantized(
                fused_steps,
                possible=lambda step: mul_mat.can_be_packed(self._format(step), self.profile),
                chosen=lambda step: self._tile(step).kind == "packed",
            )
            values, lifetimes = _lifetimes(steps.steps)
            offsets, size = plan_arena(lifetimes, self.alignment)
            bound = max(bound, lower_bound(lifetimes))
            largest = max(largest, *(value.bytes for value in values))
            self.regions["arena"] = max(self.regions["arena"], align(size, 4))
            arena = {v: Binding("arena", at, v.bytes) for v, at in zip(values, offsets, strict=True)}
            used = [step.params.get("used", True) for step in steps.steps]
            dispatches = tuple(self._dispatch(step, arena) for step in compress(steps.steps, used))
            n_tokens = steps.steps[0].values["y"].n_tokens
            phases[name] = Phase(n_tokens, dispatches, sum(used[: steps.head]))
            logits[name] = arena[steps.logits]
        self._check_limits(largest)
        return ModelPlan(
            self.n_ctx,
            self.n_ubatch,
            phases,
            self.regions,
            tuple(self.weights.values()),
            tuple(self.ropes.values()),
            self.codebooks,
            bound,
            logits,
        )

    def _dispatch(self, step: Step, arena: dict) -> Dispatch:
        launch = self._launch(step)
        bound = {slot: arena[value] for slot, value in step.values.items()}
        bound["batch"] = self.io
        if "w" in step.weights:
            weight = self._weight(step.weights["w"])
            bound |= {f"w_{p.name}": b for p, b in zip(weight.format.planes, weight.planes, strict=True)}
            if weight.format.codebook:
                bound["w_codes"] = self._codebook(weight.format.codebook)
        for slot in ("norm_weight", "post_norm_weight", "head_norm", "bias"):
            if slot in step.weights:
                weight = self._weight(step.weights[slot], lane_order=slot in ("norm_weight", "post_norm_weight"))
                bound[slot] = weight.planes[0]
        if "rope" in step.params:
            bound["phases"] = self._rope(step.params["rope"])
            k_at, v_at = self.cache_at[step.params["layer"]]
            k_bytes, v_bytes = self.cache.bytes
            bound["k_cache"] = Binding("kv", k_at, k_bytes)
            bound["v_cache"] = Binding("kv", v_at, v_bytes)
        bindings = tuple(bound[slot.name] for slot in launch.kernel.slots)

        def dispatch(launch: Launch) -> Dispatch:
            plain = dispatch(launch.plain) if launch.plain else None
            return Dispatch(step.name, launch.kernel, bindings, launch.workgroups, launch.token_tile, plain)

        return dispatch(launch)

    def _launch(self, step: Step) -> Launch:
        p = step.params
        if step.op in ("mul_mat", "mul_mat_vec", "get_rows"):
            weight = self._weight(step.weights["w"])
            k, n, format = weight.row, weight.rows, weight.format
        y_row = step.values["y"].row if "y" in step.values else 0
        n_tokens = next(iter(step.values.values())).n_tokens
        y_lanes = "y" in p["lane_order"]
        match step.op:
            case "get_rows":
                return library.get_rows(format, k, n, n_tokens, scale=p.get("scale", 1.0), y_lanes=y_lanes)
            case "rms_norm":
                return library.rms_norm(y_row, p["eps"], n_tokens, epilogue=p.get("epilogue", "store"))
            case "mul_mat_vec":
                return library.mul_mat_vec(
                    format,
                    k,
                    n,
                    self.profile,
                    eps=p.get("eps"),
                    bias="bias" in step.weights,
                    epilogue=p.get("epilogue", "store"),
                    offset=p.get("offset", 0),
                    last_row=p["last_row"],
                    post_eps=p.get("post_eps"),
                    keeps_sum="sum" in step.values,
                    lane_order=p["lane_order"],
                    variant=self._vec(step),
                )
            case "mul_mat":
                return mul_mat.mul_mat(
                    format,
                    k,
                    n,
                    n_tokens,
                    self.profile,
                    bias="bias" in step.weights,
                    epilogue=p.get("epilogue", "store"),
                    offset=p.get("offset", 0),
                    stride=y_row,
                    variant=self._tile(step),
                )
            case "quantize":
                return mul_mat.quantize(y_row, n_tokens, self.profile)
            case "glu":
                return library.glu(p["kind"], y_row, n_tokens)
            case "rope_kv":
                return library.rope_kv(self._attention(p), n_tokens)
            case "flash_attn_vec":
                splits = p.get("splits", 1)
                return library.flash_attn_vec(self._attention(p), self.profile, splits=splits, y_lanes=y_lanes)
            case "flash_attn_reduce":
                return library.flash_attn_reduce(p["head_dim"], p["n_head"], p["splits"], y_lanes=y_lanes)
            case "flash_attn":
                types = f"{self.cache.k.name}/{self.cache.v.name}"
                shape = Shape("flash_attn", types, p["head_dim"], p["n_head"], "store", n_tokens=n_tokens)
                chosen = self.choices.get(shape)
                tile = chosen if isinstance(chosen, FlashAttn) else None
                return library.flash_attn(self._attention(p), n_tokens, self.profile, variant=tile)
            case "sample":
                return library.sample(step.values["logits"].row)
            case "cross_entropy":
                targets, results = IO.targets(self.n_ubatch), IO.results(self.n_ubatch)
                return library.cross_entropy(step.values["logits"].row, n_tokens, targets, results)
        raise UnsupportedError(f"There is no kernel for {step.op}.")

    def _shape(self, step: Step) -> Shape:
        """What tuning knows a product by."""
        p, tensors = step.params, step.weights["w"]
        format, rows = self._format(step), sum(t.rows for t in tensors)
        norms = ("eps" in p, "post_eps" in p)
        n_tokens = 1 if step.op == "mul_mat_vec" else step.values["x"].n_tokens
        return Shape(step.op, format.name, tensors[0].row, rows, p.get("epilogue", "store"), *norms, n_tokens)

    def _tile(self, step: Step) -> MulMat:
        """The variant that computes a batch's product."""
        shape = self._shape(step)
        chosen = self.choices.get(shape)
        default = mul_mat.default_tile(self._format(step), shape.k, shape.n, shape.n_tokens, self.profile)
        return chosen if isinstance(chosen, MulMat) else default

    def _vec(self, step: Step) -> MulMatVec | None:
        """What tuning chose for a token's product."""
        chosen = self.choices.get(self._shape(step))
        return chosen if isinstance(chosen, MulMatVec) else None

    def _format(self, step: Step) -> Format:
        tensor = step.weights["w"][0]
        return format_of(tensor.type, tensor.name)

    def _attention(self, params: Mapping[str, Any]) -> library.Attention:
        names = ("rope", "head_dim", "n_head", "n_head_kv", "scale", "window", "head_eps")
        same = {name: params[name] for name in names}
        return library.Attention(n_ctx=self.cache.rows, type_k=self.cache.k, type_v=self.cache.v, **same)

    def _weight(self, tensors: tuple[Tensor, ...], lane_order: bool = False) -> WeightPlan:
        """The place of stacked tensors, allocated at first use; every phase shares it."""
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

    def _rope(self, rope: Rope) -> Binding:
        if rope not in self.ropes:
            self.ropes[rope] = RopeTable(rope, self._allocate(2 * rope.n_dims))
        return self.ropes[rope].binding

    def _codebook(self, codebook: Codebook) -> Binding:
        if codebook not in self.codebooks:
            self.codebooks[codebook] = self._allocate(codebook.data().nbytes)
        return self.codebooks[codebook]

    def _allocate(self, size: int) -> Binding:
        """The next range of the weights' region; a new buffer where the last one is full."""
        last = sum(region.startswith("weights.") for region in self.regions) - 1
        region = f"weights.{max(last, 0)}"
        at = align(self.regions.get(region, 0), self.alignment)
        if last >= 0 and at + size > self.profile.max_buffer_size:
            region, at = f"weights.{last + 1}", 0
        self.regions[region] = at + align(size, 4)
        return Binding(region, at, align(size, 4))

    def _check_limits(self, largest_value: int) -> None:
        """MemoryBudgetError with the figures; `plan_model` adds what to do."""
        profile = self.profile
        for region, size in self.regions.items():
            if size > profile.max_buffer_size:
                raise MemoryBudgetError(
                    f"The region {region} needs a buffer of {size} bytes, but {profile.name} allows "
                    f"{profile.max_buffer_size}"
                )
        largest = max(largest_value, *self.cache.bytes, *(b.size for w in self.weights.values() for b in w.planes))
        if largest > profile.max_storage_buffer_binding_size:
            raise MemoryBudgetError(
                f"A tensor of {largest} bytes is larger than a binding of {profile.name} may be "
                f"({profile.max_storage_buffer_binding_size})"
            )


def _lifetimes(steps: Iterable[Step]) -> tuple[list, list[Lifetime]]:
    """The values of the steps, and from which step to which each lives."""
    first: dict = {}
    last: dict = {}
    for i, step in enumerate(steps):
        for value in step.values.values():
            first.setdefault(value, i)
            last[value] = i
    values = list(first)
    return values, [Lifetime(v.bytes, first[v], last[v]) for v in values]
