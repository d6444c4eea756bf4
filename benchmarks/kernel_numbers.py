"""Whether each kernel computes what numpy does, on this machine's GPU: defaults, plain variants, and what tuning tries.

Under node.mjs, or in a browser's page; software adapters have no f16 and no subgroup matrices, so that these run here
alone. Of an NVIDIA GPU Dawn gives them for

    DAWN="backend=vulkan enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia" \\
      /tmp/rig/node /tmp/rig/node.mjs /tmp/rig/dist SOURCE SOURCE/benchmarks/kernel_numbers.py MODE EVERY [KIND ...]

MODE: full, the whole grid of variants, or auto, what tuning tries by itself. EVERY: 1 for all kernels, N for one in N
of each kind. KIND: beginnings of the names in the table, as `mul_mat.f16`; all if none. SOURCE: this checkout. It fails
if a kernel computes something else, or does not compile.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import js

import llamaweb
from llamaweb.errors import KernelError
from llamaweb.gpu.device import Device
from llamaweb.gpu.pipelines import Pipelines
from llamaweb.gpu.selfcheck import Chain, right
from llamaweb.kernels.cache import CACHE_FORMATS
from llamaweb.kernels.checks import chains
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.kernel import Kernel, Variant
from llamaweb.kernels.tuner import Shape
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import FUSIONS, ModelPlan, Planner
from llamaweb.planner.variants import candidates
from llamaweb.profile import DeviceProfile

sys.path.append(str(Path(llamaweb.__file__).parents[2]))
from tests.families import MODELS
from tests.headers import gemma3_header, llama_header
from tests.reference import now
from tests.tiny import tiny_model

LLAMA = {"n_layer": 1, "n_embd": 2048, "n_head": 32, "n_head_kv": 8, "n_ff": 4096, "n_vocab": 32000}
GEMMA3 = {"n_layer": 1, "n_embd": 1024, "n_head": 4, "n_head_kv": 1, "n_ff": 2048, "n_vocab": 32000}
ODD = {"n_layer": 1, "n_embd": 50, "n_head": 4, "n_head_kv": 2, "n_ff": 86, "n_vocab": 300}
HEADS = (16, 24, 64, 80, 96, 100, 128, 256)
AT_ONCE = 64  # chains that are compiled side by side

# A header, options of the planner, and what the names of operations begin with whose variants are wanted.
Model = tuple[Any, dict[str, Any], str]


def models() -> Iterator[Model]:
    """A llama and a gemma3 of each format, with and without biases and fusions; heads of each size and cache."""
    for i, format in enumerate(FORMATS.values()):
        llama = llama_header(**LLAMA, type=format.type.name, bias=i % 2 == 0)
        yield llama, {"logits_all": True}, ""
        yield llama, {"precision": "fast"}, "mul_mat"
        yield gemma3_header(**GEMMA3, type=format.type.name, bias=i % 2 == 1), {}, "mul_mat"
        if i % 4 == 0:
            yield llama, {"unfused": list(FUSIONS)}, ""
            yield gemma3_header(**GEMMA3, type=format.type.name, bias=True), {"unfused": list(FUSIONS)}, ""
    for spec in (model.spec for model in MODELS.values()):
        if "expert_count" in getattr(spec, "metadata", ()):  # as the tests have experts
            yield now(read_header(BytesSource(tiny_model(spec)))), {"n_ctx": 64}, "mul_mat_id"
    for type in ("F32", "F16", "BF16"):  # rows that are no whole blocks
        yield llama_header(**ODD, head_dim=2, type=type), {"type_k": "f32"}, ""
    for head_dim in HEADS:
        for k, v in zip(CACHE_FORMATS, ["f16", *list(CACHE_FORMATS)[::-1]], strict=False):
            if all(head_dim % (CACHE_FORMATS[name].block or 1) == 0 for name in (k, v)):
                sizes = {**LLAMA, "n_head": 12, "n_head_kv": 4, "head_dim": head_dim}
                yield llama_header(**sizes, type="F32"), {"type_k": k, "type_v": v}, "flash_attn"
                sizes = {**GEMMA3, "n_layer": 6, "n_head": 12, "n_head_kv": 4, "head_dim": head_dim}
                yield gemma3_header(**sizes, type="F32"), {"type_k": k, "type_v": v}, "flash_attn"


def kernels(profile: DeviceProfile, mode: str) -> dict[Kernel, None]:
    """All that the plans of the models have on a device, with every variant that tuning would try."""
    found: dict[Kernel, None] = {}
    for file, options, tuned in models():
        planner = Planner(file, profile, **{"n_ctx": 4096, "n_ubatch": 256, "tuned": True, **options})
        plan = planner.plan({})
        found |= dict.fromkeys(plan.kernels)
        tried = {s: candidates(s, profile, mode) for s in dict.fromkeys(_shapes(plan)) if s.op.startswith(tuned)}
        for n in range(max(map(len, tried.values()))):
            choices: dict[Shape, Variant] = {s: variants[n] for s, variants in tried.items() if n < len(variants)}
            found |= dict.fromkeys(planner.plan(choices).kernels)
    return found


def _shapes(plan: ModelPlan) -> Iterator[Shape]:
    for phase in plan.phases.values():
        for dispatch in phase.dispatches:
            if dispatch.shape:
                yield dispatch.shape


def kind(kernel: Kernel) -> str:
    """A name for the table: the template, and what a device must have for it."""
    c = dict(kernel.constants)
    matrix = c.get("matrix")
    needs = [
        "f16" if c.get("half") else "",
        f"{matrix.component} {matrix.m}x{matrix.n}x{matrix.k}" if matrix else "",
        "packed dot" if c.get("packed_dot") else "",
        f"{c['subgroup']} lanes" if c.get("subgroup") else "",
    ]
    return ".".join([kernel.template, *filter(None, needs)])


async def compiles(pipelines: Pipelines, chain: Chain) -> str:
    """Why it does not; empty if it does."""
    try:
        await pipelines.compile(chain)
    except KernelError as error:
        return str(error)
    return ""


def every(chains: Iterable[Chain], nth: int) -> Iterator[Chain]:
    """One in `nth` of each kind, the first among them."""
    seen: Counter[str] = Counter()
    for chain in chains:
        if seen[kind(chain[-1])] % nth == 0:
            yield chain
        seen[kind(chain[-1])] += 1


async def main(mode: str, nth: int, asked: list[str]) -> None:
    device = await Device.open()
    pipelines = Pipelines(device)
    print(f"{device.told}; {device.profile}")
    found = chains(kernels(device.profile, mode))
    todo = list(every((c for c in found if not asked or kind(c[-1]).startswith(tuple(asked))), nth))
    print(f"{len(todo)} of {len(found)} kernels")
    counts: Counter[tuple[str, str]] = Counter()
    for at in range(0, len(todo), AT_ONCE):
        part = todo[at : at + AT_ONCE]
        refusals = await asyncio.gather(*(compiles(pipelines, chain) for chain in part))
        works = [chain for chain, why in zip(part, refusals, strict=True) if not why]
        said = dict(zip(works, await right(device, pipelines, works), strict=True))
        for chain, why in zip(part, refusals, strict=True):
            result = "refused" if why else "right" if said[chain] else "wrong"
            counts[kind(chain[-1]), result] += 1
            if result != "right":
                print(f"{result}: {kind(chain[-1])} {chain[-1].constants} {why}")
        pipelines.keep(set())
        print(f"{min(at + AT_ONCE, len(todo))} of {len(todo)}", file=sys.stderr, flush=True)
    for (name, result), count in sorted(counts.items()):
        print(f"{name}: {count} {result}")
    device.close()
    if not counts or any(result != "right" for _, result in counts):
        raise SystemExit("Not all kernels are right.")
    print(f"All {sum(counts.values())} kernels compute what numpy does.")


mode, nth, *asked = (str(word) for word in js.arguments)
await main(mode, int(nth), asked)
