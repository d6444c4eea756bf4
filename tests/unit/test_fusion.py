"""Fusion: what each layer becomes, and that nothing is lost on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamaweb import operations as ops
from llamaweb.architectures import architecture
from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from llamaweb.operations.step import Step, View
from llamaweb.planner import FUSIONS, plan_model
from llamaweb.planner.fusion import Steps, fuse
from llamaweb.rope import Rope
from tests.headers import SMOLLM2, TINY, gemma3_header, llama_header


def fused(file: GGUFFile, n_tokens: int, outputs: str = "last", max_bindings: int = 8, **options: Any) -> Steps:
    graph = Graph(file.tensors, n_tokens, outputs)
    family = architecture(file)
    family.build(graph, family.hyperparameters(file))
    return fuse(graph, max_bindings=max_bindings, **options)


def layer(steps: Steps, i: int) -> list[tuple[str, str, str]]:
    """Operation, epilogue and name of layer i's steps."""
    mine = [step for step in steps.steps if step.name.startswith(f"blk.{i}.")]
    return [(step.op, step.params.get("epilogue", ""), step.name.replace(f"blk.{i}.", "")) for step in mine]


def test_a_layer_of_one_token_is_five_steps() -> None:
    steps = fused(llama_header(**SMOLLM2), 1)
    for i in range(30):
        assert layer(steps, i) == [
            ("mul_mat_vec", "", "attn_q+attn_k+attn_v"),
            ("flash_attn_vec", "", "attn"),
            ("mul_mat_vec", "add", "attn_output"),
            ("mul_mat_vec", "swiglu", "ffn_gate+ffn_up"),
            ("mul_mat_vec", "add", "ffn_down"),
        ]
    others = [step.op for step in steps.steps if not step.name.startswith("blk.")]
    assert others == ["get_rows", "mul_mat_vec", "sample"]
    assert len(steps.steps) == 153


def test_norms_go_into_the_products_of_one_token() -> None:
    steps = fused(llama_header(**TINY), 1).steps
    norms = [step.weights["norm_weight"][0].name for step in steps if "norm_weight" in step.weights]
    expected = [f"blk.{i}.{part}_norm.weight" for i in range(2) for part in ("attn", "ffn")]
    assert norms == [*expected, "output_norm.weight"]
    assert all(step.params["eps"] == 1e-5 for step in steps if "norm_weight" in step.weights)
    assert "rms_norm" not in [step.op for step in steps]


def test_a_batch_norms_once_for_all_its_products_and_ropes_apart() -> None:
    steps = fused(llama_header(**TINY), 16)
    assert layer(steps, 1) == [
        ("rms_norm", "", "attn_norm"),
        ("mul_mat", "", "attn_q+attn_k+attn_v"),
        ("rope_kv", "", "rope"),
        ("flash_attn", "", "attn"),
        ("mul_mat", "add", "attn_output"),
        ("rms_norm", "", "ffn_norm"),
        ("mul_mat", "swiglu", "ffn_gate+ffn_up"),
        ("mul_mat", "add", "ffn_down"),
    ]


def test_the_head_of_a_batch_works_on_its_last_row_alone() -> None:
    steps = fused(llama_header(**TINY), 16)
    head = steps.steps[steps.head :]
    assert [step.op for step in head] == ["mul_mat_vec", "sample"]
    assert head[0].params["last_row"] and head[0].weights["norm_weight"][0].name == "output_norm.weight"
    assert (steps.logits.row, steps.logits.n_tokens) == (300, 1)


def test_all_logits_are_a_batch_and_give_a_cross_entropy() -> None:
    steps = fused(llama_header(**TINY), 16, "all")
    assert [step.op for step in steps.steps[steps.head :]] == ["rms_norm", "mul_mat", "cross_entropy"]
    assert (steps.logits.row, steps.logits.n_tokens) == (300, 16)


@pytest.mark.parametrize("n_tokens", [1, 16])
@pytest.mark.parametrize(
    "options",
    [{}, {"tied": False}, {"bias": True}, {"types": {"*attn_v*": "Q8_0"}}, {"types": {"*ffn_up*": "Q5_1"}}],
    ids=str,
)
def test_every_tensor_of_the_file_is_used_once_in_each_phase(n_tokens: int, options: dict[str, Any]) -> None:
    file = llama_header(**TINY, **options)
    used = Counter(
        tensor.name for step in fused(file, n_tokens).steps for stack in step.weights.values() for tensor in stack
    )
    expected = Counter(dict.fromkeys(file.tensors, 1))
    if "output.weight" not in file.tensors:
        expected["token_embd.weight"] = 2  # rows at the beginning, logits at the end
    if n_tokens == 1:  # siblings in different formats each norm their input
        for i in range(2):
            expected[f"blk.{i}.attn_norm.weight"] += "*attn_v*" in options.get("types", {})
            expected[f"blk.{i}.ffn_norm.weight"] += "*ffn_up*" in options.get("types", {})
    assert used == expected


def test_siblings_in_different_formats_share_one_value() -> None:
    steps = fused(llama_header(**TINY, types={"*attn_v*": "Q8_0"}), 1).steps
    qk, v, attn = steps[1:4]
    assert (qk.name, v.name) == ("blk.0.attn_q+blk.0.attn_k", "blk.0.attn_v")
    joint = attn.values["qkv"].value
    assert (qk.values["y"], v.values["y"]) == (View(joint, 64 + 32), View(joint, 32, 64 + 32))
    assert joint.row == 64 + 32 + 32


def test_gate_and_up_in_different_formats_meet_in_a_swiglu_of_its_own() -> None:
    steps = fused(llama_header(**TINY, types={"*ffn_up*": "Q5_1"}), 1)
    assert [op for op, _, _ in layer(steps, 0)][-4:] == ["mul_mat_vec", "mul_mat_vec", "elementwise", "mul_mat_vec"]


def test_the_residual_is_added_in_place() -> None:
    steps = fused(llama_header(**TINY), 1).steps
    stream = steps[0].values["y"]
    adds = [step for step in steps if step.params.get("epilogue") == "add"]
    assert len(adds) == 4 and all(step.values["y"] == stream for step in adds)


@pytest.mark.parametrize("family", [llama_header, gemma3_header])
@pytest.mark.parametrize(("n_tokens", "unfused"), [(1, set()), (5, set()), (1, set(FUSIONS)), (5, set(FUSIONS))])
def test_a_row_has_room_for_whole_blocks_unless_single_numbers_are_read(
    family: Callable[..., GGUFFile], n_tokens: int, unfused: set[str]
) -> None:
    """What attention and the sampler read has none: these find parts of a row by their numbers."""
    odd = {**TINY, "n_embd": 50, "n_ff": 86, "head_dim": 6}
    values = {
        value
        for step in fused(family(**odd, type="F16"), n_tokens, unfused=unfused).steps
        for value in (view.value for view in step.values.values())
    }
    of_numbers = {value.name for value in values if not value.in_blocks}
    for value in values:
        assert (value.name in of_numbers) == (value.name.endswith(".qkv") or value.name == "logits"), value.name
        assert value.pitch == (value.row if value.name in of_numbers else -(-value.row // 32) * 32)


def test_biases_stack_with_their_products() -> None:
    product = fused(llama_header(**TINY, bias=True), 1).steps[1]
    assert [tensor.name for tensor in product.weights["bias"]] == [f"blk.0.attn_{part}.bias" for part in "qkv"]


def test_siblings_with_and_without_a_bias_are_products_of_their_own_into_one_value() -> None:
    file = llama_header(**TINY, bias=True)
    tensors: dict[str, TensorInfo] = dict(file.tensors)
    del tensors["blk.0.attn_k.bias"]
    products = fused(GGUFFile(3, file.metadata, tensors, 32, 4096, file.size), 1).steps[1:4]
    names = [[tensor.name for tensor in step.weights.get("bias", ())] for step in products]
    assert names == [["blk.0.attn_q.bias"], [], ["blk.0.attn_v.bias"]]
    assert len({step.values["y"].value for step in products}) == 1


def test_steps_only_read_what_was_computed_before() -> None:
    for n_tokens, outputs in ((1, "last"), (16, "last"), (16, "all")):
        written: set[Any] = set()
        for step in fused(llama_header(**TINY, types={"*ffn_up*": "Q5_1"}), n_tokens, outputs).steps:
            reads, writes = reads_and_writes(step)
            assert reads <= written, step.name
            written |= writes


def reads_and_writes(step: Step) -> tuple[set[Any], set[Any]]:
    slots = {"x", "qkv", "logits"} | ({"y"} if step.params.get("epilogue") == "add" else set())
    reads = {v.value for slot, v in step.values.items() if slot in slots}
    return reads, {step.values[s].value for s in ("y",) if s in step.values}


def test_a_gemma3_layer_of_one_token_is_five_steps_too() -> None:
    steps = fused(gemma3_header(types={"blk.3.attn_v*": "Q8_0"}), 1, max_bindings=10)
    for i in range(18):
        products = ["attn_q+attn_k", "attn_v"] if i == 3 else ["attn_q+attn_k+attn_v"]
        assert layer(steps, i) == [
            *(("mul_mat_vec", "", name) for name in products),
            ("flash_attn_vec", "", "attn"),
            ("mul_mat_vec", "", "attn_output"),
            ("mul_mat_vec", "geglu", "ffn_gate+ffn_up"),
            ("mul_mat_vec", "", "ffn_down"),
        ]
    assert len(steps.steps) == 5 * 18 + 1 + 3
    assert steps.steps[0].params["scale"] == 640**0.5


def test_a_normed_branch_is_added_by_the_first_product_that_reads_the_sum() -> None:
    steps = fused(gemma3_header(n_layer=2, types={"*attn_v*": "Q8_0"}), 1, max_bindings=10).steps
    sums = {step.name: step for step in steps if "post" in step.values}
    assert list(sums) == [
        "blk.0.ffn_gate+blk.0.ffn_up",
        "blk.1.attn_q+blk.1.attn_k",
        "blk.1.ffn_gate+blk.1.ffn_up",
        "logits",
    ]
    assert [s.weights["post_norm_weight"][0].name for s in sums.values()] == [
        f"blk.{i}.{norm}.weight" for i in range(2) for norm in ("post_attention_norm", "post_ffw_norm")
    ]
    by_name = {step.name: step for step in steps}
    first = sums["blk.1.attn_q+blk.1.attn_k"]
    later = (by_name["blk.1.attn_v"], sums["blk.1.ffn_gate+blk.1.ffn_up"])
    assert all(step.values["x"] == first.values["sum"] for step in later)
    assert "sum" not in sums["logits"].values  # which nothing else reads


def test_a_normed_branch_is_a_step_of_its_own_where_bindings_are_few_or_tokens_many() -> None:
    for steps in (fused(gemma3_header(n_layer=1), 1), fused(gemma3_header(n_layer=1), 16)):
        assert not any("post" in step.values for step in steps.steps)
        added = [s.name for s in steps.steps if s.op == "rms_norm" and s.params.get("epilogue") == "add"]
        assert added == ["blk.0.post_attention_norm", "blk.0.post_ffw_norm"]


@pytest.mark.parametrize(("type", "bias", "least"), [("Q8_0", False, 8), ("IQ4_NL", False, 9), ("Q8_0", True, 9)])
def test_a_normed_branch_goes_into_a_product_that_has_just_room_for_its_bindings(
    type: str, bias: bool, least: int
) -> None:
    file = gemma3_header(**TINY, head_dim=32, type=type, bias=bias)
    for most, apart in ((least, False), (least - 1, True)):
        ops = [(step.op, step.params.get("epilogue")) for step in fused(file, 1, max_bindings=most).steps]
        assert (("rms_norm", "add") in ops) == apart


def _weight(name: str, *shape: int) -> Tensor:
    return Tensor(name, "weight", shape)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("normed", [True, False])
def test_a_residual_may_stand_on_either_side_of_an_addition(normed: bool, n_tokens: int, first: bool) -> None:
    g = Graph({}, n_tokens)
    embd = ops.get_rows(g, _weight("table", 32, 9), "embd")
    wide = ops.mul_mat(g, _weight("up", 32, 64), ops.rms_norm(g, embd, _weight("n", 32), 1e-5, "norm"), "wide")
    branch = ops.mul_mat(g, _weight("down", 64, 32), wide, "branch")
    branch = ops.rms_norm(g, branch, _weight("post", 32), 1e-5, "post") if normed else branch
    x = ops.output_rows(g, ops.add(g, *((branch, embd) if first else (embd, branch)), "sum"))
    _end(g, ops.rms_norm(g, x, _weight("n", 32), 1e-5, "norm"))
    steps = fuse(g).steps
    residual = steps[0].values["y"]
    (added,) = [step for step in steps if step.params.get("epilogue") == "add"] or steps[-2:-1]
    kept = added.values["x" if "post" in added.values else "y"]  # the product behind may add them
    assert kept == residual and {"x", "y"} <= set(added.values)
    assert added.values.get("post", added.values["x"]) != residual


def _end(g: Graph, x: Tensor) -> None:
    ops.sample(g, ops.mul_mat(g, _weight("out", x.row, 9), x, "logits"))


def _read_again(g: Graph, x: Tensor) -> Tensor:
    branch = ops.mul_mat(g, _weight("w", 32, 32), x, "branch")
    return ops.add(g, ops.add(g, x, branch, "sum"), x, "sum again")


def _side_by_side(g: Graph, x: Tensor) -> Tensor:
    """Attention and feed forward of one norm, both added to what was normed."""
    h = ops.rms_norm(g, x, _weight("n", 32), 1e-5, "norm")
    one = ops.mul_mat(g, _weight("a", 32, 32), ops.unary(g, "silu", h, "silu"), "one")
    other = ops.mul_mat(g, _weight("b", 32, 32), h, "other")
    return ops.add(g, ops.add(g, x, one, "sum"), other, "second sum")


@pytest.mark.parametrize("build", [_read_again, _side_by_side])
@pytest.mark.parametrize("n_tokens", [1, 3])
def test_nothing_is_added_in_place_that_is_wanted_as_it_was(
    build: Callable[[Graph, Tensor], Tensor], n_tokens: int
) -> None:
    g = Graph({}, n_tokens)
    x = build(g, ops.get_rows(g, _weight("table", 32, 9), "embd"))
    _end(g, ops.output_rows(g, x))
    for step in fuse(g).steps:
        written = {view.value for slot, view in step.values.items() if slot == "y"}
        others = {view.value for slot, view in step.values.items() if slot != "y"}
        assert not written & others or step.op == "elementwise", step.name


def _apart(g: Graph, x: Tensor) -> Tensor:
    h = ops.rms_norm(g, x, _weight("n", 32), 1e-5, "norm")
    gate, up = ops.mul_mat(g, _weight("a", 32, 32), x, "gate"), ops.mul_mat(g, _weight("b", 32, 32), h, "up")
    return ops.swiglu(g, gate, up, "glu")


def _attention(order: str = "qkv", eps: tuple[float, ...] = (), behind: bool = False) -> Any:
    def build(g: Graph, x: Tensor) -> Tensor:
        heads = {part: ops.mul_mat(g, _weight(part, 32, 32), x, part) for part in order}
        for part, value in zip("qk", eps, strict=False):
            if not behind:
                heads[part] = ops.rms_norm(g, heads[part], _weight(f"{part}_norm", 16), value, f"{part}_norm")
        for part in "qk":
            heads[part] = ops.rope(g, heads[part], Rope("norm", 16, 1e4), 16, f"{part}_rope")
        for part, value in zip("qk", eps, strict=False):
            if behind:
                heads[part] = ops.rms_norm(g, heads[part], _weight(f"{part}_norm", 16), value, f"{part}_norm")
        return ops.flash_attn(g, *(heads[part] for part in "qkv"), layer=0, head_dim=16, scale=1.0, name="attn")

    return build


def _part_of(expression: Any) -> Any:
    def build(g: Graph, x: Tensor) -> Tensor:
        wide = ops.mul_mat(g, _weight("w", 32, 64), x, "wide")
        return ops.elementwise(g, expression, (ops.heads_of(g, wide, 8, 8, 16, "heads"),), "part")

    return build


def _put_together(g: Graph, x: Tensor) -> Tensor:
    """Heads of 8 numbers and 8 that all share, which are written where they are to be but for the latter."""
    heads, shared = (ops.mul_mat(g, _weight(name, 32, n), x, name) for name, n in (("a", 16), ("b", 8)))
    return ops.concat(g, (ops.unary(g, "silu", heads, "act"), shared), (8, 8), "together")


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (_part_of(("silu", 0)), ["mul_mat", "elementwise"]),
        (_part_of(("mul", 0, 0.5)), ["mul_mat", "elementwise"]),
        (_put_together, ["mul_mat", "elementwise", "elementwise"]),
        (_attention(), ["mul_mat", "rope_kv", "flash_attn"]),
        (_attention(eps=(1e-5, 1e-5)), ["mul_mat", "rope_kv", "flash_attn"]),
        (_attention(eps=(1e-5, 1e-5), behind=True), ["mul_mat", "rope_kv", "flash_attn"]),
        (_attention(order="kqv"), ["mul_mat", "mul_mat", "rope_kv", "flash_attn"]),
        (_attention(eps=(1e-5,)), ["mul_mat", "norm", "rope_kv", "flash_attn"]),
        (_attention(eps=(1e-5, 1e-6)), ["mul_mat", "norm", "norm", "rope_kv", "flash_attn"]),
        (_apart, ["mul_mat", "rms_norm", "mul_mat", "elementwise"]),
    ],
)
def test_what_does_not_fit_a_fused_kernel_is_computed_step_by_step(build: Any, expected: list[str]) -> None:
    g = Graph({}, 3)
    _end(g, ops.output_rows(g, build(g, ops.get_rows(g, _weight("table", 32, 9), "embd"))))
    found = [step.op for step in fuse(g).steps]
    assert sorted(found[1:-2]) == sorted(expected)


def test_a_norm_of_heads_behind_their_rotation_goes_into_the_attention_as_such() -> None:
    g = Graph({}, 1)
    build = _attention(eps=(1e-5, 1e-5), behind=True)
    _end(g, build(g, ops.get_rows(g, _weight("table", 32, 9), "embd")))
    (attention,) = [step for step in fuse(g).steps if step.op == "flash_attn_vec"]
    assert attention.params["norm_behind"] and attention.params["head_eps"] == 1e-5
    assert [w.name for w in attention.weights["head_norm"]] == ["q_norm", "k_norm"]


def test_windows_are_in_the_steps_of_their_layers() -> None:
    attention = [s.params for s in fused(gemma3_header(), 1, max_bindings=10).steps if s.op == "flash_attn_vec"]
    assert [p["window"] for p in attention] == [0 if i % 6 == 5 else 512 for i in range(18)]
    assert [p["rope"].base for p in attention] == [1e6 if i % 6 == 5 else 1e4 for i in range(18)]
    assert all(p["head_eps"] == 1e-6 for p in attention)


def test_which_layers_have_a_window_may_be_told_layer_by_layer() -> None:
    file = gemma3_header(n_layer=4)
    file.metadata["gemma3.attention.sliding_window_pattern"] = np.array([True, False, False, True])
    attention = [s.params for s in fused(file, 1, max_bindings=10).steps if s.op == "flash_attn_vec"]
    assert [p["window"] for p in attention] == [512, 0, 0, 512]
    file.metadata["gemma3.attention.sliding_window_pattern"] = np.array([True])  # llama.cpp takes it, too
    attention = [s.params for s in fused(file, 1, max_bindings=10).steps if s.op == "flash_attn_vec"]
    assert [p["window"] for p in attention] == [512, 0, 0, 0]
    file.metadata["gemma3.attention.sliding_window_pattern"] = np.array([1.0, 0.0])
    with pytest.raises(ModelFileError, match="sliding_window_pattern"):
        fused(file, 1)


# What a token takes beyond its five steps a layer and three without each fusion, with two layers: llama, gemma3
UNFUSED = {
    "norms": (0, 0),
    "rotations": (0, 0),
    "attention": (4, 6),
    "copies": (6, 6),
    "siblings": (8, 8),
    "experts": (0, 0),  # of which these have none
    "epilogue": (2, 2),
    "scales": (0, 0),
    "results": (0, 0),
    "inputs": (0, 0),
    "convolutions": (0, 0),
    "scale": (0, 1),
    "norm": (5, 9),
    "last_row": (0, 0),
    "post_norm": (0, 4),
    "residual": (4, 0),
    "chains": (0, 0),
    "planes": (0, 0),
}


@pytest.mark.parametrize("left_out", FUSIONS)
def test_each_fusion_can_be_left_out(left_out: str) -> None:
    for file, more in zip((llama_header(**TINY), gemma3_header(n_layer=2)), UNFUSED[left_out], strict=True):
        whole, steps = (fused(file, 1, max_bindings=10, unfused=out) for out in (frozenset(), frozenset({left_out})))
        assert len(whole.steps) == 13
        assert len(steps.steps) == 13 + more
        assert weights_of(steps) == weights_of(whole)


def weights_of(steps: Steps) -> set[str]:
    return {tensor.name for step in steps.steps for stack in step.weights.values() for tensor in stack}


def test_nothing_is_fused_where_everything_is_left_out() -> None:
    steps = fused(llama_header(**TINY), 1, unfused=frozenset(FUSIONS))
    assert [op for op, _, _ in layer(steps, 0)] == [
        *("rms_norm", "mul_mat_vec", "mul_mat_vec", "mul_mat_vec", "rope", "rope"),
        *("elementwise", "elementwise", "elementwise", "rope_kv", "flash_attn_vec", "mul_mat_vec", "elementwise"),
        *("rms_norm", "mul_mat_vec", "mul_mat_vec", "elementwise", "mul_mat_vec", "elementwise"),
    ]


def test_an_unknown_fusion_is_named_with_those_there_are() -> None:
    with pytest.raises(UnsupportedError, match=r"'rope'.*norm, last_row, post_norm, residual, chains"):
        plan_model(llama_header(**TINY), unfused=["rope"])
