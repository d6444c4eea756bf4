"""`llamaweb bench` as a person and a script use it: a real process, a real browser, a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from llamaweb.ggml import GGMLType
from llamaweb.host import synthetic
from tests.splits import split
from tests.tiny import TinyLlama, tiny_llama
from tests.vocabularies import vocabulary

SIZES = ("--prompt-tokens", 20, "--gen-tokens", 9, "--reps", 2, "--depth", 6, "--context", 64)


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamaweb.host.cli", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_bench_gives_medians_all_repetitions_memory_and_a_profile_and_keeps_the_result(tmp_path: Path) -> None:
    model, output = tmp_path / "tiny.gguf", tmp_path / "results.json"
    model.write_bytes(tiny_llama(TinyLlama(type="Q4_0")))
    done = bench(model, *SIZES, "--profile", "--floor", "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name in ("prefill", "decode"):
        each = result[f"{name}_all"]
        assert len(each) == 2 and result[f"{name}_per_second"] == sum(each) / 2 > 0
    assert (result["model"], result["depth"], result["context"]) == ("tiny.gguf", 6, 64)
    assert result["memory"]["total"] > 0 and result["adapter"] and result["dispatches_per_token"] == 13
    assert result["floor_ratio"] == result["decode_per_second"] / result["floor"]["per_second"]
    assert result["profile"]["source"] == "timestamps"
    assert sum(k["count"] for k in result["profile"]["phases"][1]["kernels"]) == 13
    assert json.loads(output.read_text())["results"] == [result]

    done = bench(model, *SIZES, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "prefill of 20" in done.stdout and "GPU memory" in done.stdout
    (newer,) = json.loads(output.read_text())["results"]
    assert "profile" not in newer

    done = bench(model, *SIZES, "--type-v", "f32", "--output", output)
    assert done.returncode == 0, done.stderr
    both = json.loads(output.read_text())["results"]
    assert newer in both and sorted(r.get("type_v", "") for r in both) == ["", "f32"]


def test_the_peer_is_timed_on_the_same_file_in_the_same_browser(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama(TinyLlama(type="Q8_0", seed=4)))
    done = bench(model, "--prompt-tokens", 16, "--gen-tokens", 8, "--reps", 2, "--peer", "wllama", "--json")
    assert done.returncode == 0, done.stderr
    peer = json.loads(done.stdout)["peer"]
    assert "error" not in peer, peer
    assert peer["engine"].startswith("wllama ") and len(peer["decode_all"]) == 2
    assert peer["prefill_per_second"] > 0 and peer["decode_per_second"] > 0


def test_sizes_that_do_not_fit_the_models_context_are_one_sentence(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama(TinyLlama(n_ctx=64)))
    done = bench(model, "--prompt-tokens", 100, "--gen-tokens", 4)
    assert done.returncode == 1 and done.stdout == ""
    assert "100 tokens" in done.stderr.splitlines()[-1] and "context" in done.stderr.splitlines()[-1]


def test_loading_is_measured_beside_a_plain_loop_and_an_empty_page(tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.gguf", tmp_path / "results.json"
    shape = synthetic.Shape(2, 64, 128, 4, 2, n_vocab=128_256, head_dim=16, rope_base=1e4)
    synthetic.write(whole, shape, GGMLType.Q4_0, vocabulary("llama3"))
    for name, data in split(whole.read_bytes(), 2, "large").items():
        (tmp_path / name).write_bytes(data)
    whole.unlink()
    done = bench(
        tmp_path / "large-00001-of-00002.gguf",
        "--loading",
        "--reps",
        2,
        "--gen-tokens",
        8,
        "--output",
        output,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads(output.read_text())["results"] == [result]
    assert result["files"] == 2 and result["bytes"] == sum(file.stat().st_size for file in tmp_path.glob("*.gguf"))
    assert result["memory"]["peak"] >= result["memory"]["total"] > 0
    # A vocabulary of 128k pieces included.
    assert 0 < result["heap_growth"] <= 48 << 20
    assert len(result["load_all"]) == len(result["plain_all"]) == 2 and result["first_token_ms"] > 0
    assert result["first_visit_ms"] > 0 and result["decode_first"] > 0 and result["decode_tuned"] > 0
    assert 0.5 < result["visit_ratio"] < 2 and result["tuning_ms"] >= 0


def test_each_fusion_is_measured_beside_all_of_them(tmp_path: Path) -> None:
    model, output = tmp_path / "tiny.gguf", tmp_path / "results.json"
    model.write_bytes(tiny_llama(TinyLlama(n_layer=2, type="Q4_0")))
    sizes = ("--depth", 30, "--gen-tokens", 20, "--reps", 2, "--context", 64)
    done = bench(model, "--fusions", *sizes, "--output", output, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert json.loads(output.read_text())["results"] == [result] and result["context"] == 64
    by_name = {each["left_out"]: each for each in result["fusions"]}
    layers = {name: (each["dispatches_per_token"] - 3) / 2 for name, each in by_name.items()}
    told = {"attention": 7, "copies": 8, "siblings": 9, "epilogue": 6, "norm": 7.5, "residual": 7}
    assert layers == {None: 5, **told}
    for each in by_name.values():
        assert len(each["decode_all"]) == 2 and each["decode_per_second"] > 0 and each["gpu_us"] > 0
