"""Writes picture.svg, the picture of a small plan that is made by hand: `python -m tests.golden.make_picture_golden`.

Look at it in a browser before it is kept: it is what a person sees.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as Xml

from llamaweb.ggml import GGMLType
from llamaweb.kernels.formats import format_of
from llamaweb.kernels.kernel import Slot, kernel
from llamaweb.operations.step import Step, Value, View
from llamaweb.planner import Binding, Dispatch, ModelPlan, Phase
from llamaweb.planner.fusion import Steps
from llamaweb.planner.layout import Layout, lay_out
from llamaweb.planner.picture import picture
from llamaweb.planner.plan import Slice, WeightPlan

PICTURE = Path(__file__).parent / "picture.svg"

WIDEST = 1_992_000_000  # bytes, of which 100,000 are just wide enough to be seen


def weight(names: str, type: GGMLType, *places: tuple[int, int]) -> WeightPlan:
    """Tensors joined by `+`, with the offset and the bytes of each plane, in the first region."""
    planes = tuple(Binding("weights.0", at, size) for at, size in places)
    slices = tuple(Slice(name, 0, 32) for name in names.split("+"))
    return WeightPlan(slices, format_of(type, names), 32, len(slices), planes)


def attention(label: str, *caches: tuple[str, int, int]) -> Dispatch:
    """What reads caches: for each the slot, its offset and its bytes."""
    made = kernel("flash_attn_vec", [Slot(slot, "u32", "read_write") for slot, _, _ in caches])
    return Dispatch(label, made, tuple(Binding("kv.0", at, size) for _, at, size in caches), (1, 1, 1))


def small_plan() -> tuple[ModelPlan, dict[str, Layout]]:
    weights = (
        weight("token_embd.weight", GGMLType.Q4_0, (0, 10**9), (10**9, 250_000_000)),
        weight("blk.0.attn_q.weight+blk.0.attn_k.weight", GGMLType.F32, (1_300_000_000, 40_000_000)),
        weight("blk.0.ffn_up.weight", GGMLType.F32, (1_400_000_000, 10**6)),
        weight("blk.0.ffn_norm.weight", GGMLType.F32, (1_500_000_000, 100_000)),
        weight("blk.1.ffn_norm.weight", GGMLType.F32, (1_600_000_000, 99_000)),
        weight("output.weight", GGMLType.F32, (1_700_000_000, 200_000_000)),
        weight("rope_freqs.weight", GGMLType.F32, (1_950_000_000, 30_000_000)),
    )
    decode = (
        attention("blk.0.rope", ("k_cache", 0, 40_000_000), ("v_cache", 40_000_000, 20_000_000)),
        attention("blk.0.attn", ("k_cache", 0, 40_000_000), ("v_cache", 40_000_000, 20_000_000), ("y", 0, 4)),
    )
    plan = ModelPlan(
        n_ctx=640,
        n_ubatch=3,
        phases={"decode": Phase(1, decode, 1)},
        regions={"kv.0": 60_000_000, "arena": 16_000, "io": 999, "weights.0": WIDEST},
        weights=weights,
        rope_tables=(),
        codebooks={},
        arena_lower_bound=0,
        logits={},
        transient=10**9,
    )
    return plan, {
        "decode_long": layout(1, 2),
        "decode": layout(1, 3),
        "evaluate": layout(2, 2),
        "prefill": layout(3, 4),
    }


def layout(n_tokens: int, n_steps: int) -> Layout:
    """Steps of which each reads what the one before wrote, and the last what the first did, too."""
    rows = {"embd": 640, "blk.0.attn": 96, "blk.0.ffn_up": 320, "logits": 32}
    values = [View.of(Value(name, row, n_tokens)) for name, row in rows.items()][:n_steps]
    steps = [Step("get_rows", values[0].value.name, {"y": values[0]})]
    for x, y in pairwise(values):
        steps.append(Step("mul_mat", y.value.name, {"x": x, "y": y}))
    steps[-1].values["more"] = values[0]
    return lay_out(Steps(steps, 0, values[-1].value), 1024)


def drawn(name: str = "A <model>") -> str:
    """An element a line."""
    svg = Xml.fromstring(picture(*small_plan(), name))
    Xml.indent(svg)
    Xml.register_namespace("", "http://www.w3.org/2000/svg")
    return Xml.tostring(svg, encoding="unicode") + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawn())
