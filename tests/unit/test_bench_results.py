"""The results file, the README's tables made from it, and what a person sees of a bench."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from llamaweb.errors import HostError
from llamaweb.host import commands, results
from llamaweb.host.cli import main
from llamaweb.host.tables import bench_text, fusions_text, loading_text, tune_text
from llamaweb.kernels.flash_attn import FlashAttn
from llamaweb.kernels.mul_mat_vec import MulMatVec

README = "# A\n<!-- speed -->\nold\n<!-- /speed -->\nbetween\n<!-- memory -->\n<!-- /memory -->\n"
README += "<!-- fusions -->\n<!-- /fusions -->\nend\n"


def sample(**changes: Any) -> dict[str, Any]:
    memory = {"weights": 700_000_000, "kv": 67e6, "arena": 1e6, "io": 1e4, "total": 768_010_000, "wasm_heap": 52e6}
    return {
        "model": "synthetic-llama-3.2-1b-Q4_0.gguf",
        "adapter": "nvidia H200",
        "runtime": "HeadlessChrome 156",
        "prompt_tokens": 512,
        "gen_tokens": 128,
        "depth": 0,
        "context": 2048,
        "prefill_per_second": 6543.2,
        "decode_per_second": 812.34,
        "prefill_all": [6500.0, 6543.2, 6600.0],
        "decode_all": [800.0, 812.34, 820.0],
        "load_ms": 2100.0,
        "memory": memory,
        "dispatches_per_token": 83,
        **changes,
    }


def loading(**changes: Any) -> dict[str, Any]:
    same = ("model", "adapter", "runtime", "context", "memory")
    return {
        "kind": "loading",
        **{name: sample()[name] for name in same},
        "type_k": "f16",
        "type_v": "f16",
        "bytes": 767_000_000,
        "files": 1,
        "heap_growth": 40 << 20,
        "load_bytes_per_second": 400e6,
        "plain_bytes_per_second": 444e6,
        "load_ratio": 0.9,
        "first_token_ms": 2345.0,
        "first_visit_ms": 3456.0,
        "visit_ratio": 1.07,
        "decode_first": 900.0,
        "decode_tuned": 1100.0,
        "tuning_ms": 15_000.0,
        **changes,
    }


def fusions() -> dict[str, Any]:
    same = {name: sample()[name] for name in ("model", "adapter", "runtime", "context")}
    whole = {"left_out": None, "what": "", "dispatches_per_token": 83, "decode_per_second": 800.0, "gpu_us": 1000.0}
    norm = {"left_out": "norm", "what": "an rms_norm", "dispatches_per_token": 115, "decode_per_second": 600.0}
    return {"kind": "fusions", **same, "gen_tokens": 128, "depth": 0, "fusions": [whole, {**norm, "gpu_us": 1250.0}]}


def test_a_person_sees_what_each_fusion_brings() -> None:
    text = fusions_text(fusions())
    assert "(all fused)" in text and "an rms_norm" in text and "0.75" in text and "1,250" in text


def test_a_new_result_takes_the_place_of_the_old_one_of_its_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for result in (sample(), sample(depth=4096), sample(decode_per_second=900.0)):
        results.add(path, result)
    found = {r["depth"]: r["decode_per_second"] for r in results.read(path)}
    assert found == {0: 900.0, 4096: 812.34}
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("text", ["", "[]", '{"results": 3}', '{"results": [1]}'])
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(HostError, match=r"is not a file of results \(it has no list of them\); name another one with"):
        results.add(path, sample())
    assert path.read_text() == text


def test_the_readmes_tables_are_written_from_the_results(tmp_path: Path) -> None:
    peer = {"engine": "wllama 3.8.1", "prefill_per_second": 70.0, "decode_per_second": 23.0, "on_gpu": False}
    readme, path = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(README)
    results.add(path, sample(floor_ratio=0.89, peer=peer))
    results.add(path, sample(depth=4096))
    results.add(path, sample(type_k="q8_0", type_v="f16", decode_per_second=750.0))  # beside that with f16 caches
    results.add(path, sample(precision="fast", decode_per_second=812.0))  # beside that of the default
    results.add(path, loading())
    results.add(path, loading(type_k="q8_0", files=3))
    results.add(path, fusions())
    arguments = ["--results", str(path), "--readme", str(readme)]
    assert tables.main([*arguments, "--check"]) == 1
    assert readme.read_text() == README
    assert tables.main(arguments) == 0
    text = readme.read_text()
    assert "old" not in text and "between" in text and text.endswith("end\n")
    rows = [line for line in text.splitlines() if line.startswith("| synthetic-llama-3.2-1b-Q4_0 ")]
    assert rows[0].split(" | ")[1:] == [
        "0",
        "512 / 128",
        "6,543",
        "812",
        "0.89",
        "wllama 3.8.1: 70.0 / 23.0 (on the CPU) |",
    ]
    assert rows[1].split(" | ")[1] == "4,096" and len(rows) == 5 and "-Q4_0, fast |" in text
    memory = rows[2].rstrip(" |").split(" | ")[1:]
    assert memory[:3] == ["f16", "2,048", "667.6"] and memory[-10:-4] == [
        "732.4",
        "0.685",
        "40.0",
        "400",
        "0.90",
        "2.35",
    ]
    assert memory[-4:] == ["3.46", "1.07", "900", "1,100 (15 s)"]
    assert "| synthetic-llama-3.2-1b-Q4_0, 3 files | q8_0 |" in text
    assert "| synthetic-llama-3.2-1b-Q4_0 | norm | 115 | 600 | 0.75 | 1,250 |" in text
    assert "| synthetic-llama-3.2-1b-Q4_0, cache in q8_0/f16 | 0 | 512 / 128 | 6,543 | 750 |" in text
    assert tables.main([*arguments, "--check"]) == 0


def test_columns_that_no_result_fills_are_left_out() -> None:
    assert "yardstick" not in tables.filled(README, [sample()]) and "peer" not in tables.filled(README, [sample()])


def test_a_person_sees_how_a_model_loads() -> None:
    text = loading_text(loading(files=10))
    assert "in 10 files" in text and "0.90 of the plain loop's 444.0 MB/s" in text and "2.35 s" in text
    assert "more than an empty one" in text
    assert "3.46 s after loading began on the first visit, 1.07 of the time without tuning" in text
    assert "900.0 tokens a second then, 1,100.0 after 15.0 s of idling" in text


def test_a_person_sees_speeds_kernels_and_what_failed() -> None:
    kernel = {"kernel": "mul_mat_vec", "format": "q4_0", "shape": "2048×8192", "count": 16, "us": 160.0, "share": 0.8}
    kernel |= {"bytes": 16 * 10**7, "flops": 16 * 10**6, "of_peak_bytes": 0.25, "of_peak_flops": 0.01}
    phase = {"phase": "decode", "n_tokens": 1, "n_past": 16, "dispatches": 83, "dispatch_us": 200.0, "whole_us": 283.0}
    phase |= {"pass_us": 190.0, "gap_us": 1.0, "kernels": [kernel]}
    device = {"bytes_per_second": 4e12, "flops_per_second": 5e13, "dispatch_us": 2.25}
    profile = {"source": "timestamps", "peaks": device, "phases": [phase]}
    floor = {"per_second": 912.0}
    peer = {"engine": "wllama 3.8.1", "error": "it fails to load."}
    text = bench_text(sample(profile=profile, floor=floor, floor_ratio=0.89, peer=peer))
    for told in (
        "6,543.2 (6,500.0, 6,543.2, 6,600.0)",
        "912.0",
        "wllama 3.8.1: it fails to load.",
        "1,000.0       25%",
        "4,000.0 GB/s",
        "2.2 µs an empty dispatch",
        "190 µs in order",
        "1.00 µs between two",
        "0.89 of the yardstick",
    ):
        assert told in text, told
    assert "cache" not in text and "with a cache in q8_0/f16" in bench_text(sample(type_k="q8_0", type_v="f16"))
    assert "precision" not in text and "with --precision fast" in bench_text(sample(precision="fast"))
    assert json.dumps(sample())  # the sample is what JSON can hold


def test_a_device_that_cannot_run_the_yardstick_is_told() -> None:
    text = bench_text(sample(floor=None, floor_ratio=None))
    assert "The yardstick needs subgroups" in text
    assert "yardstick" not in bench_text(sample())


def test_what_tuning_tried_is_a_table_a_person_can_read() -> None:
    def trial(rows: int, us: float, **flags: bool) -> dict:
        variant = str(MulMatVec(64, 32, rows, 32, packed=rows == 4))
        return {"shape": "mul_mat_vec q4_0 576x960 store norm", "variant": variant, "microseconds": us, **flags}

    tile = {"variant": str(FlashAttn(64, 32, 64, 16, 8)), "microseconds": 123456.7, "right": True}
    attention = "flash_attn q8_0/q8_0 128x32 x512 store"
    trials = [
        {"shape": attention, **tile, "default": True, "chosen": True},
        trial(2, 7.44, right=True, default=True, chosen=False),
        trial(4, 5.72, right=True, default=False, chosen=True),
        trial(8, 3.0, right=False, default=False, chosen=False),
        trial(1, 20.9, right=True, default=False, chosen=False),
    ]
    text = tune_text({"adapter": "a GPU", "trials": trials})
    (row,) = [line.split() for line in text.splitlines() if "576x960" in line]
    assert row[:5] == ["mul_mat_vec", "q4_0", "576x960", "store", "norm"]
    assert row[5:10] == ["7.4", "5.7", "20.9", "4", "1"]
    assert "64, 32 lanes, 4 rows, packed dot" in " ".join(row)
    assert attention in text and tile["variant"] in text and "…" not in text  # nothing is cut off


def test_what_tuning_tried_is_told_without_a_default_and_without_a_choice() -> None:
    wrong = {"variant": "a tile", "microseconds": 7.4, "right": False, "default": False, "chosen": False}
    text = tune_text({"adapter": "a GPU", "trials": [{"shape": "mul_mat f16 64x64 store", **wrong}]})
    assert "none is right" in text and "a tile" not in text


@pytest.mark.parametrize("kind", [[], ["--loading"], ["--fusions"]])
def test_a_result_names_the_model_of_an_address_without_what_lets_somebody_in(
    kind: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def page(args: Any, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield None, args.model

    async def measured(*_: Any) -> dict[str, Any]:
        return {"adapter": "a"}

    monkeypatch.setattr(commands, "_model_page", page)
    monkeypatch.setattr(commands, "_call", measured)
    for name in ("bench_text", "loading_text", "fusions_text"):
        monkeypatch.setattr(f"llamaweb.host.tables.{name}", lambda result: result["model"])
    file, address = tmp_path / "results.json", "https://me:hunter2@example.org/a%20b.gguf?token=hunter3"
    assert main(["bench", address, "--output", str(file), *kind]) == 0
    assert [result["model"] for result in results.read(file)] == ["a b.gguf"]
    assert commands._name(address) == "a b.gguf" and commands._name("folder/a%20b.gguf") == "a%20b.gguf"
