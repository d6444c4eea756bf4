"""The families that are near to llama: what each adds, at a llama's price."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaweb.architectures import architecture
from llamaweb.errors import LlamaWebError, ModelFileError, UnsupportedError
from llamaweb.graph import Graph, Tensor
from llamaweb.host.cli import main
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from llamaweb.rope import Rope, Yarn, phases
from tests.families import MODELS
from tests.tiny import TinyLlama, tiny_llama, tiny_model

SPECS = {
    "qwen2": TinyLlama("qwen2", bias=True),
    "qwen2vl": TinyLlama("qwen2vl", bias=True),
    "qwen3": TinyLlama("qwen3", head_norms=True),
    "qwen3vl": TinyLlama("qwen3vl", head_norms=True),
    "seed_oss": TinyLlama("seed_oss", bias=True),
    "smollm3": TinyLlama("smollm3", n_layer=9),
}


def header(family: str) -> GGUFFile:
    return asyncio.run(read_header(BytesSource(tiny_llama(SPECS[family]))))


def hyperparameters(family: str, **keys: Any) -> Any:
    """With some keys, in which __ stands for a dot."""
    file = header(family)
    new = {f"{family}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return architecture(file).hyperparameters(replace(file, metadata={**file.metadata, **new}))


def nodes(family: str, op: str) -> list[Tensor]:
    file = header(family)
    graph = Graph(file.tensors, 1)
    architecture(file).build(graph, architecture(file).hyperparameters(file))
    assert graph.unread == []
    return [node for node in graph.nodes if node.op == op]


# Dispatches of layers, where they are not five: norms of whole queries and keys, or to a mean of theirs, are computed
# by themselves; Mamba 2's mixer takes three, and one more for a norm behind its gate, a delta net with its feed forward
# six, a gated attention eight, RWKV's two mixers nine, of which three are the first eleven products.
LAYERS = {
    "olmo2": {6},
    "stablelm, side by side": {6},
    "stablelm": {5},
    "granitehybrid": {5, 6},
    "mamba2": {4},
    "nemotron_h": {2, 3, 4},
    "falcon-h1": {8},
    "falcon-h1, Q8_0": {9},
    "qwen35": {6, 8},
    "rwkv7": {9, 10},
    # A norm, the gate, the choice among experts and their two products; beside these, experts that are every token's,
    # whose gate qwen2moe has in one more.
    "llama, experts": {8},
    "llama, experts, Q8_0": {8},
    "minicpm, experts": {8},
    "mistral3, experts": {8},
    "gpt-oss": {8},
    "granitemoe, Q4_K": {8},
    "qwen3moe": {8},
    "qwen3vlmoe": {8},
    "olmoe": {9},
    "granite, experts": {10},
    "granitemoe": {10},
    "qwen2moe": {11},
    "glm4moe": {5, 10},
    # The embeddings of each layer take two; keys that are values, too, a copy.
    "gemma4": {7},
    "gemma4, Q8_0": {6},
    "gemma4, experts": {5, 15},
    # Streams, predicted and corrected, a branch of low rank, a sum of four, and the same; few open gates take one more.
    "gemma3n": {18},
    "gemma3n, with shared keys": {17, 18},
    "lfm2moe": {5, 8},
    "lfm2moe, Q4_0": {8},
    "qwen35moe": {12, 14},
    "qwen3next": {12, 14},
    # Queries and keys of latent attention have four to six products and copies more.
    "deepseek2": {12, 17},
    "deepseek2, Q8_0": {17},
    "deepseek2, whole": {17},
    "deepseek2, lite, Q8_0": {11, 16},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_of_one_token_is_five_dispatches_or_as_many_as_are_told(name: str) -> None:
    plan = plan_model(unfused(asyncio.run(read_header(BytesSource(tiny_model(MODELS[name].spec))))))
    found = Counter(d.label.split(".")[1] for d in plan.phases["decode"].dispatches if d.label.startswith("blk."))
    told = LAYERS.get(name) or LAYERS.get(MODELS[name].spec.family) or {5}
    assert set(found.values()) == told


@pytest.mark.parametrize("family", ["qwen2", "qwen2vl", "qwen3", "qwen3vl", "seed_oss"])
def test_halves_of_a_head_are_rotated(family: str) -> None:
    assert {node.params["rope"] for node in nodes(family, "rope")} == {Rope("neox", 16)}


def test_every_fourth_layer_of_smollm3_rotates_nothing_in_the_kernels_of_the_others() -> None:
    still = [not phases(node.params["rope"]).any() for node in nodes("smollm3", "rope")]
    assert still == [i % 4 == 3 for i in range(9) for _ in "qk"]
    file = header("smollm3")
    of_layers = [d.kernel for d in plan_model(file).phases["decode"].dispatches if d.label.endswith(".attn")]
    assert len(set(of_layers)) == 1 and len(of_layers) == 9


def test_a_rotation_that_is_still_has_no_scaling_left() -> None:
    scaled = Rope("norm", 8, 500.0, 4.0, Yarn(64), "rope_freqs.weight", attn_factor=2.0)
    assert scaled.still.magnitude == 1.0 and not phases(scaled.still).any() and scaled.still.n_dims == 8


@pytest.mark.parametrize("family", ["qwen2vl", "qwen3vl", "qwen2"])
@pytest.mark.parametrize("sections", [[2, 3, 3, 0], [3, 3, 2], [8, 8, 8, 8], [0, 0, 0, 0]])
def test_sections_of_a_picture_s_dimensions_are_one_for_text(family: str, sections: list[int]) -> None:
    found = hyperparameters(family, rope__dimension_sections=np.array(sections, np.int32))
    assert found.rope == Rope("neox", 16)


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        (np.array([2, 2, 1, 3], np.int32), UnsupportedError),
        (np.array([2.0, 3.0, 3.0]), ModelFileError),
        (np.array([8], np.int32), ModelFileError),
        (np.array([1, 2, 3, 4, 5], np.int32), ModelFileError),
        (8, ModelFileError),
        ("8", ModelFileError),
    ],
)
def test_sections_that_leave_pairs_out_or_are_none_are_refused(sections: Any, error: type[LlamaWebError]) -> None:
    with pytest.raises(error, match=r"rope\.dimension_sections is .*\.$"):
        hyperparameters("qwen2vl", rope__dimension_sections=sections)


def test_the_norm_before_seed_oss_feed_forward_has_the_name_of_what_it_stands_behind() -> None:
    file = header("seed_oss")
    missing = {name: info for name, info in file.tensors.items() if name != "blk.1.post_attention_norm.weight"}
    with pytest.raises(ModelFileError, match=r"no tensor blk\.1\.post_attention_norm\.weight"):
        plan_model(replace(file, tensors=missing))


def test_an_unknown_architecture_is_named_with_those_that_run() -> None:
    file = header("qwen2")
    with pytest.raises(UnsupportedError, match=r"'qwen9' .* such as qwen3, qwen2"):
        plan_model(replace(file, metadata={**file.metadata, "general.architecture": "qwen9"}))


def test_an_unknown_architecture_is_named_before_the_tokenizer_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_model(MODELS["qwen2"].spec)
    strange = data.replace(b"\x05\0\0\0\0\0\0\0qwen2", b"\x05\0\0\0\0\0\0\0qwen9")
    (tmp_path / "model.gguf").write_bytes(strange.replace(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gpt9"))
    assert main(["inspect", str(tmp_path / "model.gguf")]) == 1
    assert "'qwen9' is not supported yet; use a model of one that is, such as qwen3" in capsys.readouterr().err
