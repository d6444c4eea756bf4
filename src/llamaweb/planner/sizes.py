"""What a model takes on a device for any context and batch: sizes alone, so that trying a budget costs little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil, floor
from typing import Any

from llamaweb.architectures import architecture
from llamaweb.architectures.embeddings import pooling_of
from llamaweb.architectures.metadata import layer_of
from llamaweb.errors import UnsupportedError, megabytes, short
from llamaweb.graph import Graph
from llamaweb.kernels.cache import Cache, cache_format
from llamaweb.kernels.formats import format_of
from llamaweb.kernels.io import IN_FLIGHT, IO, SUBMITTED, TIMER_BYTES, readback_bytes
from llamaweb.kernels.library import attention_splits
from llamaweb.kernels.mul_mat import PRECISIONS, can_be_packed, takes_halves
from llamaweb.kernels.tuner import CHECKED_AT_ONCE
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.operations import OPERATIONS
from llamaweb.operations.step import Step
from llamaweb.planner import checking
from llamaweb.planner.checking import Checked
from llamaweb.planner.fusion import fuse
from llamaweb.planner.kv import CacheLayout, lay_out_caches
from llamaweb.planner.layout import Layout, lay_out
from llamaweb.planner.memory import align
from llamaweb.planner.plan import LONG_CONTEXT, Embeddings, HostTable, Ring
from llamaweb.planner.quantized import with_quantized
from llamaweb.planner.states import StateLayout, lay_out_states
from llamaweb.planner.tables import REGION as TABLES
from llamaweb.planner.tables import lay_out_tables, on_host
from llamaweb.planner.weights import Weights
from llamaweb.profile import DeviceProfile

_OF_INPUTS = ".input_scale"  # tensors that tell how to round what NVFP4 weights are multiplied with, which is not done
_EVALUATED_LOGITS = 64 << 20  # bytes of logits held at once when all of them are wanted

_needed, _there = partial(megabytes, rounded=ceil), partial(megabytes, rounded=floor)


@dataclass(frozen=True)
class Options:
    """What is asked of a plan besides its context and its batch; see `plan_model`."""

    memory_budget: int | None = None
    logits_all: bool = False
    type_k: str = "f16"
    type_v: str = "f16"
    tuned: bool = False
    unfused: frozenset[str] = frozenset()
    precision: str = "high"
    checked: bool = False
    offload: bool = False
    pooling: str | None = None


class Sizes:
    """One model on one device. Layouts and weights are made once, whatever is asked for."""

    def __init__(self, file: GGUFFile, profile: DeviceProfile, options: Options) -> None:
        self.profile = profile
        self.options = options
        self._file = file
        self._family = architecture(file)
        self.hparams = hp = self._family.hyperparameters(file)
        self.pooling = pooling_of(file, hp, options.pooling)
        self._splits = attention_splits(hp.n_head, profile)
        self._layouts: dict[tuple[int, str, int], Layout] = {}
        for name in (options.type_k, options.type_v):  # known ones, even where there is no attention
            cache_format(name)
        self._caches = {layer: self._cache(params) for layer, params in self._attentions.items()}

    @property
    def n_ctx_train(self) -> int:
        return int(self.hparams.n_ctx_train)

    def with_tables_on_host(self) -> Sizes | None:
        """The same with those tables on the host that may be; None: there are none that are not."""
        if self.options.offload:
            return None
        other = Sizes(self._file, self.profile, replace(self.options, offload=True))
        return other if other.tables(1) else None

    def tables(self, n_ubatch: int) -> tuple[HostTable, ...]:
        return lay_out_tables(self._shortest.steps.steps, n_ubatch, self.profile)

    def with_cache(self, type: str) -> Sizes:
        """The same with keys and values in another format; raises UnsupportedError."""
        return Sizes(self._file, self.profile, replace(self.options, type_k=type, type_v=type))

    @cached_property
    def weights(self) -> Weights:
        """All weights: the phases of a model read the same ones."""
        weights = Weights(self.profile)
        for layout in (self._shortest, self._layout(2, "last", 1)):
            for step in layout.steps.steps:
                weights.place(step)
        return weights

    @property
    def _shortest(self) -> Layout:
        """Of a single token, from which others differ by its count alone; of texts, which are batches, of two."""
        return self._layout(2 if self.pooling else 1, "last", 1)

    def batch(self, n_ctx: int, n_ubatch: int) -> int:
        """Most tokens of a batch: a text whose embedding is wanted is read at once."""
        return max(n_ctx, 2) if self.pooling else min(n_ubatch, n_ctx)

    def layouts(self, n_ctx: int, n_ubatch: int) -> dict[str, Layout]:
        """By phase."""
        n_ubatch = self.batch(n_ctx, n_ubatch)
        if self.pooling:
            return {"embed": self._layout(n_ubatch, "last", 1)}
        found = {"decode": self._layout(1, "last", 1)}
        if n_ctx > LONG_CONTEXT and self._splits > 1:
            found["decode_long"] = self._layout(1, "last", self._splits)
        if n_ubatch > 1:
            found["prefill"] = self._layout(n_ubatch, "last", 1)
        if self.options.logits_all:
            logits = min(_EVALUATED_LOGITS, self.profile.max_storage_buffer_binding_size)
            found["evaluate"] = self._layout(max(2, min(n_ubatch, 128, logits // (4 * self.hparams.n_vocab))), "all", 1)
        return found

    def caches(self, n_ctx: int, n_ubatch: int) -> CacheLayout:
        """A layer with a window keeps that and what a batch, or what is in flight, may run ahead of it."""
        ahead = max(self.batch(n_ctx, n_ubatch), IN_FLIGHT * SUBMITTED)
        caches = {}
        for layer, cache in self._caches.items():
            window = self._attentions[layer]["window"]
            ring = 0 < window < n_ctx - ahead
            caches[layer] = replace(cache, n_ctx=window + ahead if ring else n_ctx, ring=ring)
        return lay_out_caches(caches, self.profile)

    def _cache(self, params: dict[str, Any]) -> Cache:
        """Of an attention, for a token."""
        head_dim, head_dim_v, in_keys = (params[name] for name in ("head_dim", "head_dim_v", "in_keys"))
        k = cache_format(self.options.type_k, head_dim)
        v = None if in_keys else cache_format(self.options.type_v, head_dim_v)
        return Cache(k, v, params["n_head_kv"], head_dim, 1, head_dim_v=head_dim_v)

    @cached_property
    def states(self) -> StateLayout:
        return lay_out_states(self._shortest.steps.steps, self.profile)

    def copies(self, n_ctx: int, n_ubatch: int) -> int:
        """Of the states, as many as the budget leaves room for; texts whose embeddings are wanted are read but once."""
        if self.pooling:
            return 0
        budget = self.options.memory_budget
        if budget is None or not self.states.size:
            return self.states.copies(None)
        return self.states.copies(budget - self.states.size - self._need(n_ctx, n_ubatch))

    def rings(self, n_ctx: int, n_ubatch: int) -> tuple[Ring, ...]:
        caches = self.caches(n_ctx, n_ubatch).caches
        windows = {i: params["window"] for i, params in self._attentions.items()}
        return tuple(sorted({Ring(windows[i], cache.rows) for i, cache in caches.items() if cache.ring}))

    @cached_property
    def _attentions(self) -> dict[int, dict[str, Any]]:
        """What the attention of each layer that has a cache is told."""
        params = (step.params for step in self._shortest.steps.steps if "layer" in step.params)
        found = {p["layer"]: p for p in params}  # a layer has two such steps where attention is unfused
        return dict(sorted(found.items()))

    def regions(self, n_ctx: int, n_ubatch: int) -> dict[str, int]:
        """Bytes of every region."""
        states = self.states.regions(self.copies(n_ctx, n_ubatch))
        return {**self._regions(n_ctx, n_ubatch), **states, **self.weights.regions}

    def _regions(self, n_ctx: int, n_ubatch: int) -> dict[str, int]:
        """Of those that the context and the batch decide about."""
        n_ubatch = self.batch(n_ctx, n_ubatch)
        arena = max(layout.size for layout in self.layouts(n_ctx, n_ubatch).values())
        if self.options.checked:  # which happens in it before it is needed
            arena = max(arena, self._checked(n_ctx, n_ubatch).written)
        embeddings = self.embeddings(n_ctx, n_ubatch)
        io = IO.bytes(n_ubatch) + readback_bytes(n_ubatch, embeddings.bytes if embeddings else 0)
        ends = [table.binding.offset + table.binding.size for table in self.tables(n_ubatch)]
        tables = {TABLES: ends[-1]} if ends else {}
        return {**self.caches(n_ctx, n_ubatch).regions, **tables, "arena": align(arena, 4), "io": io}

    def embeddings(self, n_ctx: int, n_ubatch: int) -> Embeddings | None:
        """What a batch of texts leaves."""
        if not self.pooling:
            return None
        found = self.layouts(n_ctx, n_ubatch)["embed"].steps.logits
        return Embeddings(self.pooling.kind, found.row, found.pitch, found.n_tokens)

    def transient(self, n_ctx: int, n_ubatch: int) -> int:
        """Bytes of buffers that are made for a while: those of the self-check, or the timer's and what tuning reads a
        kernel's result through."""
        tuning = self._tuning(n_ctx, n_ubatch)
        if not self.options.checked:
            return tuning
        first = self._checked(n_ctx, n_ubatch)
        check = first.found + (0 if self.has_room(n_ctx, n_ubatch) else first.read)
        if "decode_long" in self.layouts(n_ctx, n_ubatch):  # is checked when a turn may have the regions
            check = max(check, sum(self._checked_later) + self._cached(n_ctx, n_ubatch))
        return max(check, tuning)

    def has_room(self, n_ctx: int, n_ubatch: int) -> bool:
        """Whether what the self-check only reads fits where the cache is to be. Contexts below such a one take more."""
        if not self.options.checked:
            return True
        return self.caches(n_ctx, n_ubatch).regions.get("kv.0", 0) >= self._checked(n_ctx, n_ubatch).read

    def _checked(self, n_ctx: int, n_ubatch: int) -> Checked:
        """What the self-check takes at most in a load."""
        read, written, found = self._checked_kernels
        cached = self._cached(n_ctx, n_ubatch)
        layouts = self.layouts(n_ctx, n_ubatch)
        batch = layouts.get("embed") or layouts.get("prefill")
        quantized = (
            [step.values["y"].value.bytes for step in batch.steps.steps if step.op == "quantize"] if batch else []
        )
        return Checked(read + cached, written + cached + max(quantized, default=0), found)

    def _cached(self, n_ctx: int, n_ubatch: int) -> int:
        caches = self.caches(n_ctx, n_ubatch).caches.values()
        return max((checking.of_cache(cache) for cache in caches), default=0)

    @cached_property
    def _checked_kernels(self) -> Checked:
        """What does not depend on the context and the batch."""
        batch = self._layout(2, "all" if self.options.logits_all else "last", 1)
        layouts = [self._shortest, batch]
        return checking.of_kernels([step for layout in layouts for step in layout.steps.steps], self.weights)

    @cached_property
    def _checked_later(self) -> Checked:
        """The same of the attention in a long context, whose kernels a load does not wait for."""
        steps = self._layout(1, "last", self._splits).steps.steps
        return checking.of_kernels([step for step in steps if step.op.startswith("flash_attn")], self.weights)

    def _tuning(self, n_ctx: int, n_ubatch: int) -> int:
        if not self.options.tuned:
            return TIMER_BYTES
        results = []
        for name, layout in self.layouts(n_ctx, n_ubatch).items():
            results += [step.values["y"] for step in layout.steps.steps if name in OPERATIONS[step.op].tuned]
        return TIMER_BYTES + max((4 * y.pitch * min(y.n_tokens, CHECKED_AT_ONCE) for y in results), default=0)

    def need(self, n_ctx: int, n_ubatch: int) -> int:
        """Bytes of all buffers together, when they are most."""
        states = self.states.regions(self.copies(n_ctx, n_ubatch))
        return self._need(n_ctx, n_ubatch) + sum(states.values())

    def _need(self, n_ctx: int, n_ubatch: int) -> int:
        """But for states."""
        regions = {**self._regions(n_ctx, n_ubatch), **self.weights.regions}
        return sum(regions.values()) + self.transient(n_ctx, n_ubatch)

    def refusal(self, n_ctx: int, n_ubatch: int) -> str | None:
        """Why this context with this batch cannot be: the limit that it breaks, with the figures."""
        name, most = self.profile.name, self.profile.max_compute_workgroups_per_dimension
        if self.pooling and n_ctx > most:
            return f"A text of {n_ctx} tokens is read at once, but {name} allows batches of {most}"
        most = self.profile.max_buffer_size
        regions = self.regions(n_ctx, n_ubatch)
        region = max(regions, key=lambda region: regions[region])
        if regions[region] > most:
            return f"The region {region} needs a buffer of {_needed(regions[region])}, but {name} allows {_there(most)}"
        bound = {
            "values": max(layout.largest for layout in self.layouts(n_ctx, n_ubatch).values()),
            "cached keys": self.caches(n_ctx, n_ubatch).largest,
            "weights": self.weights.largest,
        }
        what = max(bound, key=lambda what: bound[what])
        most = self.profile.max_storage_buffer_binding_size
        if bound[what] > most:
            return f"A tensor of {what} takes {_needed(bound[what])}, but a binding of {name} holds {_there(most)}"
        budget, need = self.options.memory_budget, self.need(n_ctx, n_ubatch)
        if budget is not None and need > budget:
            return (
                f"A context of {n_ctx} tokens in batches of {self.batch(n_ctx, n_ubatch)} needs {_needed(need)} of GPU "
                f"memory, but the budget is {_there(budget)}"
            )
        return None

    def _bits_of_input(self, step: Step) -> int:
        """In which a product of a batch may read its input, at most; 0: as float32 alone."""
        if takes_halves(self.profile):
            return 16
        tensor = step.weights["w"][0]
        packed = can_be_packed(format_of(tensor.type, tensor.name), self.profile)
        return PRECISIONS[self.options.precision] if packed else 0

    def _layout(self, n_tokens: int, outputs: str, splits: int) -> Layout:
        key = (n_tokens, outputs, splits)
        if key not in self._layouts:
            graph = Graph(self._file.tensors, n_tokens, outputs, self.pooling)
            self._family.build(graph, self.hparams)
            n_layer = self.hparams.n_layer
            if unread := [n for n in graph.unread if layer_of(n) < n_layer and not n.endswith(_OF_INPUTS)]:
                more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
                raise UnsupportedError(
                    f"The file has the tensor {short(unread[0], 72)}{more}, which {self._file.architecture} models do "
                    "not have here; use another model."
                )
            fused = fuse(graph, splits, self.profile.max_storage_buffers_per_shader_stage, self.options.unfused)
            fused = on_host(fused) if self.options.offload else fused
            steps = with_quantized(fused, self._bits_of_input)
            self._layouts[key] = lay_out(steps, self.profile.min_storage_buffer_offset_alignment)
        return self._layouts[key]
