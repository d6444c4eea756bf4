"""Models whose plans have every kernel between them, for tests that compile these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llamaweb.kernels.cache import CACHE_FORMATS
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.kernel import Kernel, Variant
from llamaweb.kernels.tuner import Shape
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import FUSIONS, plan_model
from llamaweb.planner.plan import ModelPlan
from llamaweb.planner.variants import candidates
from llamaweb.profile import DeviceProfile
from tests.families import MODELS
from tests.headers import TINY, WIDE, gemma3_header, llama_header
from tests.reference import now
from tests.tiny import tiny_model

# A layer of each kind: the others have the same kernels.
ROWS = {**TINY, "n_layer": 1}
BLOCKS = {**WIDE, "n_layer": 1}
GEMMA3 = {"n_layer": 2, "n_embd": 256, "n_head": 4, "n_head_kv": 1, "n_ff": 512, "n_vocab": 300, "head_dim": 64}
GEMMA3 |= {"metadata": {"attention.sliding_window_pattern": 2}}
HEADS = (16, 24, 64, 80, 96, 128, 256)


def models() -> Iterator[tuple[GGUFFile, dict[str, Any]]]:
    yield from of_formats()
    yield from of_heads()
    yield from of_experts()


def of_formats() -> Iterator[tuple[GGUFFile, dict[str, Any]]]:
    """A llama of each format, a gemma3 of some, with and without biases and fusion."""
    for i, format in enumerate(FORMATS.values()):
        bias = i % 2 == 0
        yield llama_header(**BLOCKS, type=format.type.name, bias=bias, tied=bias), {"logits_all": bias}
        if i % 3 == 0:
            yield gemma3_header(**GEMMA3, window=32, type=format.type.name, bias=not bias), {}
    for family in (llama_header(**BLOCKS, bias=True), gemma3_header(**GEMMA3, window=32, bias=True)):
        yield family, {"unfused": list(FUSIONS)}
    for head_dim, row in ((2, 50), (100, 172), (510, 66)):  # rows that are no whole blocks, nor heads whole eights
        odd = {"n_embd": row, "n_ff": row + 6, "head_dim": head_dim}
        yield llama_header(**{**ROWS, **odd}, type="F16"), {"type_k": "f32"}
        yield gemma3_header(**{**GEMMA3, **odd}, type="BF16"), {"unfused": list(FUSIONS)}


def of_experts() -> Iterator[tuple[GGUFFile, dict[str, Any]]]:
    """Chosen with a bias out of groups; and with nothing fused, in odd sizes. Beside some, latent attention."""
    fused = {"glm4moe, groups": True, "olmoe": False, "deepseek2": False, "deepseek2, whole": True}
    for name, whole in fused.items():
        file = now(read_header(BytesSource(tiny_model(MODELS[name].spec))))
        yield file, {"n_ctx": 256, "unfused": [] if whole else list(FUSIONS)}


def of_heads() -> Iterator[tuple[GGUFFile, dict[str, Any]]]:
    """Heads of each size and cache."""
    for head_dim in HEADS:
        for k, v in zip(CACHE_FORMATS, ["f16", *list(CACHE_FORMATS)[::-1]], strict=False):
            if all(head_dim % (CACHE_FORMATS[name].block or 1) == 0 for name in (k, v)):
                sizes = {"n_head": 12, "n_head_kv": 4, "head_dim": head_dim}
                yield llama_header(**{**ROWS, **sizes}, type="F32"), {"type_k": k, "type_v": v}
                yield gemma3_header(**{**GEMMA3, **sizes}, type="F32"), {"type_k": k, "type_v": v}


def plan(model: tuple[GGUFFile, dict[str, Any]], profile: DeviceProfile, **more: Any) -> ModelPlan:
    file, options = model
    return plan_model(file, profile, **{"n_ctx": 4096, "n_ubatch": 64, **options, **more})


def shapes(plan: ModelPlan) -> dict[Shape, None]:
    return dict.fromkeys(d.shape for phase in plan.phases.values() for d in phase.dispatches if d.shape)


def tried(
    model: tuple[GGUFFile, dict[str, Any]], profile: DeviceProfile, mode: str, kind: str | None = None
) -> Iterator[ModelPlan]:
    """With every variant that tuning tries, or those of a kind."""
    variants: dict[Shape, list[Variant]] = {
        shape: [v for v in candidates(shape, profile, mode) if kind in (None, getattr(v, "kind", ""))]
        for shape in shapes(plan(model, profile, tuned=True))
    }
    for n in range(max(map(len, variants.values()))):
        choices = {shape: found[n] for shape, found in variants.items() if n < len(found)}
        yield plan(model, profile, tuned=True, choices=choices)


def kind(kernel: Kernel) -> tuple:
    """What its code is, but for numbers."""
    return (kernel.template, *((name, value) for name, value in kernel.constants if isinstance(value, str | bool)))
