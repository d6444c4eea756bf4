"""The picture of a plan: every tensor and value in its place, at its time, named for who points at it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from llamaweb.host.cli import main
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.planner import DESKTOP, ModelPlan, plan_model
from llamaweb.planner.layout import Layout
from llamaweb.planner.picture import picture
from llamaweb.planner.sizes import Options, Sizes
from tests.golden.make_picture_golden import PICTURE, small_plan
from tests.golden.make_picture_golden import drawn as drawn_small
from tests.headers import SMOLLM2, TINY, gemma3_header, llama_header
from tests.tiny import tiny_llama

HEADERS = {
    "tiny": llama_header(**TINY),
    "smollm2": llama_header(**SMOLLM2, type="Q4_1"),
    "gemma3": gemma3_header(n_layer=6),
}
BY_MODEL = pytest.mark.parametrize("name", HEADERS)
SVG = "{http://www.w3.org/2000/svg}"


def drawn(file: GGUFFile, title: str = "A <model> & more") -> tuple[ModelPlan, dict[str, Layout], Xml.Element]:
    plan = plan_model(file)
    layouts = Sizes(file, DESKTOP, Options()).layouts(plan.n_ctx, plan.n_ubatch)
    return plan, layouts, Xml.fromstring(picture(plan, layouts, title))


def titles(svg: Xml.Element) -> list[str]:
    return [title.text or "" for title in svg.iter(SVG + "title")]


def test_a_small_plan_is_drawn_as_it_was_looked_at() -> None:
    assert drawn_small() == PICTURE.read_text()


def test_a_plan_without_a_name_is_a_models() -> None:
    text = picture(*small_plan())
    assert "<title>Memory plan of a model</title>" in text and ">Model: 2.1 GB on the GPU</text>" in text
    assert text.startswith("<svg ") and text.endswith("</svg>\n")


@BY_MODEL
def test_every_tensor_cache_and_region_is_named(name: str) -> None:
    plan, _, svg = drawn(HEADERS[name])
    found = titles(svg)
    assert found[0] == "Memory plan of A <model> & more"
    for weight in plan.weights:
        smallest = min(binding.size for binding in weight.planes)
        if smallest > 1e-4 * max(plan.regions.values()):
            assert any(title.startswith("+".join(weight.names)) for title in found), weight.names
    for region in plan.regions:
        assert any(title.startswith(region + ":") for title in found), region
    caches = [title for title in found if re.match(r"blk\.\d+\.attn, [kv]\n", title)]
    assert len(caches) == 2 * HEADERS[name].metadata[f"{HEADERS[name].architecture}.block_count"]


@BY_MODEL
def test_values_that_live_at_once_are_drawn_apart(name: str) -> None:
    _, layouts, svg = drawn(HEADERS[name])
    places = []
    for rect in svg.iter(SVG + "rect"):
        title = rect.find(SVG + "title")
        if title is not None and ("\nsteps " in (title.text or "")):
            places.append([float(rect.get(side, "")) for side in ("x", "y", "width", "height")])
    assert len(places) == sum(len(layout.offsets) for layout in layouts.values())
    for i, (x, y, width, height) in enumerate(places):
        for left, top, wide, high in places[:i]:
            slack = 0.05  # coordinates are rounded
            beside = x + width <= left + slack or left + wide <= x + slack
            assert beside or y + height <= top + slack or top + high <= y + slack


@BY_MODEL
def test_all_is_inside_of_the_picture(name: str) -> None:
    _, _, svg = drawn(HEADERS[name])
    width, height = (float(svg.get(side, "")) for side in ("width", "height"))
    assert svg.get("viewBox") == f"0 0 {width:g} {height:g}"
    for rect in svg.iter(SVG + "rect"):
        assert float(rect.get("x", "")) >= 0 and float(rect.get("x", "")) + float(rect.get("width", "")) <= width
        assert float(rect.get("y", "")) >= 0 and float(rect.get("y", "")) + float(rect.get("height", "")) <= height
    for text in svg.iter(SVG + "text"):
        assert 0 <= float(text.get("x", "")) <= width and 0 <= float(text.get("y", "")) <= height


def test_a_name_of_any_characters_is_drawn() -> None:
    _, _, svg = drawn(HEADERS["tiny"], "a\x00b\x1b[1m \ufffe\ud800<&> 名")
    assert titles(svg)[0] == "Memory plan of ab[1m <&> 名"


def test_inspect_writes_the_picture_beside_its_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, svg = tmp_path / "tiny.gguf", tmp_path / "plan.svg"
    model.write_bytes(tiny_llama().replace(b"general.name", b"general.nick"))
    assert main(["inspect", str(model), "--context", "100", "--budget", "1M", "--svg", str(svg), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["budget"] == 1_000_000 and answer["memory"]["peak"] <= answer["budget"]
    text = svg.read_text()
    assert (
        "context of 100 tokens" in text
        and "Memory plan of tiny.gguf" in text
        and Xml.fromstring(text).tag == SVG + "svg"
    )
    assert main(["inspect", str(model), "--svg", str(tmp_path / "no" / "plan.svg")]) == 1
    assert "cannot be written" in capsys.readouterr().err
