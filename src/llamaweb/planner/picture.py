"""A picture of a plan for people, as SVG: the arena over time, and every other region as a bar of what lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as Xml

from llamaweb.planner.layout import Layout
from llamaweb.planner.plan import ModelPlan

_WIDTH = 1200
_MARGIN = 24
_LEFT = 110  # of the drawings: the names of regions stand before them
_SIZES = 70  # of the sizes behind bars
_ARENA = 300  # height of a phase's picture
_BAR, _GAP = 26, 10
_STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 12px; fill: #1f2430; background: #ffffff; }
.title { font-size: 18px; font-weight: 600; } .head { font-size: 14px; font-weight: 600; } .quiet { fill: #6b7280; }
.frame { fill: #f3f4f6; stroke: none; } .part { stroke: #ffffff; stroke-width: 0.6; }
.bound { stroke: #b91c1c; stroke-width: 1; stroke-dasharray: 5 4; }
"""
_COLOURS = {
    "embd": "#7c3aed",
    "attn": "#2563eb",
    "ffn": "#059669",
    "norm": "#d97706",
    "output": "#db2777",
    "other": "#64748b",
}


@dataclass(frozen=True)
class _Part:
    """What lies in a region: its name, where it begins, and its bytes."""

    name: str
    at: int
    size: int


def picture(plan: ModelPlan, layouts: dict[str, Layout], name: str = "") -> str:
    """An SVG document. layouts: the phases of the plan, whose values are drawn over their steps."""
    name = "".join(c for c in name if c.isprintable())  # XML has no other characters
    svg = Xml.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    Xml.SubElement(svg, "title").text = f"Memory plan of {name or 'a model'}"
    Xml.SubElement(svg, "style").text = _STYLE
    y = _MARGIN + 12.0
    memory = plan.memory
    _text(svg, _MARGIN, y, f"{name or 'Model'}: {_size(memory['total'])} on the GPU", "title")
    y += 22
    told = f"context of {plan.n_ctx} tokens, batches of {plan.n_ubatch}; at most {_size(memory['peak'])} at any time"
    _text(svg, _MARGIN, y, f"{told}; point at a part for its name, bytes and steps", "quiet")
    y = _legend(svg, y + 26)
    y = _bars(svg, plan, y + 30)
    for phase in ("prefill", "evaluate", "decode", "decode_long", "embed"):
        if phase in layouts:
            y = _arena(svg, phase, layouts[phase], plan, y + 34)
    height = y + _MARGIN
    svg.set("viewBox", f"0 0 {_WIDTH} {height:g}")
    svg.set("width", str(_WIDTH))
    svg.set("height", f"{height:g}")
    return Xml.tostring(svg, encoding="unicode") + "\n"


def _legend(svg: Xml.Element, y: float) -> float:
    x = float(_MARGIN)
    for kind, colour in _COLOURS.items():
        Xml.SubElement(svg, "rect", x=f"{x:g}", y=f"{y - 10:g}", width="12", height="12", fill=colour)
        _text(svg, x + 18, y, kind)
        x += 90
    return y


def _bars(svg: Xml.Element, plan: ModelPlan, y: float) -> float:
    """Every region but the arena, its length to the largest region's."""
    _text(svg, _MARGIN, y, "Regions: buffers that stay as long as the model is loaded", "head")
    y += 14
    parts = _parts(plan)
    width = _WIDTH - _LEFT - _MARGIN - _SIZES
    largest = max(plan.regions.values())
    for region, size in plan.regions.items():
        _text(svg, _MARGIN, y + 17, region)
        bar = max(width * size / largest, 2)
        frame = _rect(svg, _LEFT, y, bar, _BAR, "frame")
        Xml.SubElement(frame, "title").text = f"{region}: {_size(size)}"
        for part in parts.get(region, ()):
            x, length = width * part.at / largest, width * part.size / largest
            if length >= 0.05:  # smaller ones cannot be seen
                _drawn(svg, part, _LEFT + x, y, length, _BAR)
        _text(svg, _LEFT + bar + 6, y + 17, _size(size))
        y += _BAR + _GAP
    return y


def _parts(plan: ModelPlan) -> dict[str, list[_Part]]:
    found: dict[str, list[_Part]] = {}
    for weight in plan.weights:
        name = "+".join(weight.names)
        for plane, binding in zip(weight.format.planes, weight.planes, strict=True):
            label = f"{name}, {weight.format.name} {plane.name}"
            found.setdefault(binding.region, []).append(_Part(label, binding.offset, binding.size))
    caches: dict[tuple[str, int], _Part] = {}
    for dispatch in plan.phases["decode"].dispatches if "decode" in plan.phases else ():
        for slot, binding in zip(dispatch.kernel.slots, dispatch.bindings, strict=True):
            if slot.name in ("k_cache", "v_cache"):
                part = _Part(f"{dispatch.label}, {slot.name[0]}", binding.offset, binding.size)
                caches[binding.region, binding.offset] = part
    for (region, _), part in caches.items():
        found.setdefault(region, []).append(part)
    return found


def _arena(svg: Xml.Element, phase: str, layout: Layout, plan: ModelPlan, y: float) -> float:
    """A phase's values: steps from left to right, addresses from the bottom up."""
    steps, tokens = layout.steps.steps, layout.steps.steps[0].values["y"].n_tokens
    bound = f"{_size(layout.lower_bound)} of it live at once, at most"
    _text(svg, _MARGIN, y, f"Arena in phase {phase}: {_size(layout.size)} for {_count(tokens)}; {bound}", "head")
    y += 14
    width = _WIDTH - _LEFT - _MARGIN
    frame = _rect(svg, _LEFT, y, width, _ARENA, "frame")
    share = 100 * layout.size / plan.regions["arena"]
    Xml.SubElement(frame, "title").text = f"{len(steps)} steps; {share:.0f} % of the region"
    for value, at in layout.offsets.items():
        life = layout.lives[value]
        x = width * life.first / len(steps)
        length = width * (life.last + 1 - life.first) / len(steps)
        height = _ARENA * value.bytes / layout.size
        span = f"steps {life.first} to {life.last}: {steps[life.first].name} to {steps[life.last].name}"
        part = _Part(value.name, at, value.bytes)
        _drawn(svg, part, _LEFT + x, y + _ARENA * (1 - at / layout.size) - height, length, height, span)
    _text(svg, _LEFT - 8, y + 10, _size(layout.size), "quiet", end=True)
    _text(svg, _LEFT - 8, y + _ARENA, "0", "quiet", end=True)
    line = y + _ARENA * (1 - layout.lower_bound / layout.size)
    ends = {"x1": str(_LEFT), "x2": str(_LEFT + width), "y1": f"{line:.1f}", "y2": f"{line:.1f}"}
    Xml.SubElement(svg, "line", ends | {"class": "bound"})
    y += _ARENA + 16
    _text(svg, _LEFT, y, f"step 0: {steps[0].name}", "quiet")
    _text(svg, _LEFT + width / 2, y, "steps to the right, addresses upwards", "quiet")
    _text(svg, _LEFT + width, y, f"step {len(steps) - 1}: {steps[-1].name}", "quiet", end=True)
    return y


def _drawn(svg: Xml.Element, part: _Part, x: float, y: float, width: float, height: float, more: str = "") -> None:
    rect = _rect(svg, x, y, width, height, "part")
    rect.set("fill", _COLOURS[_kind(part.name)])
    Xml.SubElement(rect, "title").text = "\n".join(
        [part.name, f"bytes {part.at} to {part.at + part.size} ({_size(part.size)})", *([more] if more else [])]
    )
    if width > 7 * len(part.name) + 8 and height > 14:
        _text(svg, x + 5, y + height / 2 + 4, part.name, light=True)


def _kind(name: str) -> str:
    """The colour's name for a tensor or a value: by what it is called."""
    for kind in ("norm", "embd", "attn", "ffn"):
        if kind in name:
            return kind
    return "output" if "output" in name or "logits" in name else "other"


def _rect(svg: Xml.Element, x: float, y: float, width: float, height: float, kind: str) -> Xml.Element:
    sides = {"x": f"{x:.2f}", "y": f"{y:.2f}", "width": f"{width:.2f}", "height": f"{height:.2f}"}
    return Xml.SubElement(svg, "rect", sides | {"class": kind})


def _text(
    svg: Xml.Element, x: float, y: float, text: str, kind: str = "", *, end: bool = False, light: bool = False
) -> None:
    attributes = {"x": f"{x:g}", "y": f"{y:g}"}
    attributes |= {"class": kind} if kind else {}
    attributes |= {"text-anchor": "end"} if end else {}
    attributes |= {"fill": "#ffffff"} if light else {}
    attributes |= {"pointer-events": "none"}
    Xml.SubElement(svg, "text", attributes).text = text


def _count(tokens: int) -> str:
    return "1 token" if tokens == 1 else f"{tokens} tokens"


def _size(count: int) -> str:
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"
