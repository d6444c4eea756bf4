"""Fusion: what each layer becomes, and that nothing is lost on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamaweb.architectures import architecture
from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.graph import Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile, TensorInfo
from llamaweb.planner import FUSIONS, plan_model
from llamaweb.planner.fusion import Step, Steps, fuse
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
    assert qk.values["y"] is v.values["y"] is attn.values["qkv"]
    assert (qk.params.get("offset", 0), v.params["offset"]) == (0, 64 + 32)
    assert qk.values["y"].row == 64 + 32 + 32


def test_gate_and_up_in_different_formats_meet_in_a_swiglu_of_its_own() -> None:
    steps = fused(llama_header(**TINY, types={"*ffn_up*": "Q5_1"}), 1)
    assert [op for op, _, _ in layer(steps, 0)][-4:] == ["mul_mat_vec", "mul_mat_vec", "glu", "mul_mat_vec"]


def test_the_residual_is_added_in_place() -> None:
    steps = fused(llama_header(**TINY), 1).steps
    stream = steps[0].values["y"]
    adds = [step for step in steps if step.params.get("epilogue") == "add"]
    assert len(adds) == 4 and all(step.values["y"] is stream for step in adds)


@pytest.mark.parametrize("family", [llama_header, gemma3_header])
@pytest.mark.parametrize(("n_tokens", "unfused"), [(1, set()), (5, set()), (1, set(FUSIONS)), (5, set(FUSIONS))])
def test_a_row_has_room_for_whole_blocks_unless_single_numbers_are_read(
    family: Callable[..., GGUFFile], n_tokens: int, unfused: set[str]
) -> None:
    """What attention, a gated linear unit and the sampler read has none: these find parts of a row by their numbers."""
    odd = {**TINY, "n_embd": 50, "n_ff": 86, "head_dim": 6}
    values = {
        value
        for step in fused(family(**odd, type="F16"), n_tokens, unfused=unfused).steps
        for value in step.values.values()
    }
    of_numbers = {value.name for value in values if not value.in_blocks}
    for value in values:
        assert (value.name in of_numbers) == ("+" in value.name or value.name == "logits"), value.name
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
    assert len({step.values["y"] for step in products}) == 1


def test_steps_only_read_what_was_computed_before() -> None:
    for n_tokens, outputs in ((1, "last"), (16, "last"), (16, "all")):
        written: set[Any] = set()
        for step in fused(llama_header(**TINY, types={"*ffn_up*": "Q5_1"}), n_tokens, outputs).steps:
            reads, writes = reads_and_writes(step)
            assert reads <= written, step.name
            written |= writes


def reads_and_writes(step: Step) -> tuple[set[Any], set[Any]]:
    slots = {"x", "qkv", "logits"} | ({"y"} if step.params.get("epilogue") == "add" else set())
    return {v for slot, v in step.values.items() if slot in slots}, {step.values[s] for s in ("y",) if s in step.values}


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
    assert by_name["blk.1.attn_v"].values["x"] is first.values["sum"] is sums["blk.1.ffn_gate+blk.1.ffn_up"].values["x"]
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
    graph = Graph({}, n_tokens)
    embd = graph.get_rows(_weight("table", 32, 9), "embd")
    wide = graph.mul_mat(_weight("up", 32, 64), graph.rms_norm(embd, _weight("n", 32), 1e-5, "norm"), "wide")
    branch = graph.mul_mat(_weight("down", 64, 32), wide, "branch")
    branch = graph.rms_norm(branch, _weight("post", 32), 1e-5, "post") if normed else branch
    x = graph.output_rows(graph.add(*((branch, embd) if first else (embd, branch)), "sum"))
    graph.sample(graph.mul_mat(_weight("out", 32, 9), graph.rms_norm(x, _weight("n", 32), 1e-5, "norm"), "logits"))
    steps = fuse(graph).steps
    residual = steps[0].values["y"]
    (added,) = [step for step in steps if "add" in (step.op, step.params.get("epilogue"))] or steps[-2:-1]
    kept = added.values["x" if "post" in added.values else "y"]  # the product behind may add them
    assert kept is residual and {"x", "y"} <= set(added.values)
    assert added.values.get("post", added.values["x"]) is not residual


def _scaled(g: Graph, x: Tensor) -> Tensor:
    return g.scale(g.rms_norm(x, _weight("n", 32), 1e-5, "norm"), 2.0, "scaled")


def _residual_that_is_read_again(g: Graph, x: Tensor) -> Tensor:
    return g.add(g.add(x, g.mul_mat(_weight("w", 32, 32), x, "branch"), "sum"), x, "sum again")


def _sum_of_one_product_of_two(g: Graph, x: Tensor) -> Tensor:
    h = g.rms_norm(x, _weight("n", 32), 1e-5, "norm")
    one, other = (g.mul_mat(_weight(name, 32, 32), h, name) for name in ("one", "other"))
    return g.add(g.add(one, x, "sum"), other, "second sum")


def _gate_and_up_of_two_inputs(g: Graph, x: Tensor) -> Tensor:
    h = g.rms_norm(x, _weight("n", 32), 1e-5, "norm")
    return g.swiglu(g.mul_mat(_weight("a", 32, 32), x, "gate"), g.mul_mat(_weight("b", 32, 32), h, "up"), "glu")


def _norm_of_heads(g: Graph, x: Tensor) -> Tensor:
    return g.rms_norm(g.mul_mat(_weight("w", 32, 32), x, "product"), _weight("n", 16), 1e-5, "norm of heads")


def _attention(g: Graph, x: Tensor, order: str = "qkv", eps: tuple[float, ...] = ()) -> Tensor:
    heads = {part: g.mul_mat(_weight(part, 32, 32), x, part) for part in order}
    for part, value in zip("qk", eps, strict=False):
        heads[part] = g.rms_norm(heads[part], _weight(f"{part}_norm", 16), value, f"{part}_norm")
    parts, rope = (heads[part] for part in "qkv"), Rope("norm", 16, 1e4)
    return g.flash_attn(*parts, layer=0, head_dim=16, rope=rope, scale=1.0, name="attn")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (_scaled, "scaled: scaling anything but embeddings is not supported."),
        (_sum_of_one_product_of_two, "sum: an addition that is not a residual is not supported."),
        (_residual_that_is_read_again, "sum: an addition that is not a residual is not supported."),
        (_gate_and_up_of_two_inputs, "glu: gate and up have different inputs, which is not supported."),
        (_norm_of_heads, "norm of heads: a norm of heads outside attention is not supported."),
        (
            lambda g, x: _attention(g, x, order="kqv"),
            "attn: q, k and v are not products of one input, which is not supported.",
        ),
        (
            lambda g, x: _attention(g, x, order="qvk"),
            "attn: q, k and v are not products of one input, which is not supported.",
        ),
        (lambda g, x: _attention(g, x, eps=(1e-5,)), "q_norm and k are normed differently, which is not supported."),
        (
            lambda g, x: _attention(g, x, eps=(1e-5, 1e-6)),
            "q_norm and k_norm are normed differently, which is not supported.",
        ),
    ],
)
def test_what_no_step_computes_is_refused_in_a_sentence_with_its_name(
    build: Callable[[Graph, Tensor], Tensor], sentence: str
) -> None:
    graph = Graph({}, 3)
    x = build(graph, graph.get_rows(_weight("table", 32, 9), "embd"))
    graph.sample(graph.mul_mat(_weight("out", x.row, 9), graph.output_rows(x), "logits"))
    with pytest.raises(UnsupportedError) as caught:
        fuse(graph)
    assert str(caught.value) == sentence


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


# What a layer of one token takes beyond its five steps without each fusion; None: the family does not have it.
UNFUSED = {
    "norm": (2, 4),
    "post_norm": (None, 2),
    "residual": (2, None),
    "glu": (1, 1),
    "siblings": (4, 4),
    "attention": (1, 1),
}


@pytest.mark.parametrize("left_out", FUSIONS)
def test_each_fusion_can_be_left_out(left_out: str) -> None:
    for file, more in zip((llama_header(**TINY), gemma3_header(n_layer=2)), UNFUSED[left_out], strict=True):
        whole, steps = (fused(file, 1, max_bindings=10, unfused=out) for out in (frozenset(), frozenset({left_out})))
        assert len(layer(whole, 1)) == 5
        assert len(layer(steps, 1)) == 5 + (more or 0)
        assert more or len(steps.steps) == len(whole.steps)
        assert weights_of(steps) == weights_of(whole)


def weights_of(steps: Steps) -> set[str]:
    return {tensor.name for step in steps.steps for stack in step.weights.values() for tensor in stack}


def test_nothing_is_fused_where_everything_is_left_out() -> None:
    steps = fused(llama_header(**TINY), 1, unfused=frozenset(FUSIONS))
    assert [op for op, _, _ in layer(steps, 0)] == [
        *("rms_norm", "mul_mat_vec", "mul_mat_vec", "mul_mat_vec", "rope_kv", "flash_attn_vec", "mul_mat_vec", "add"),
        *("rms_norm", "mul_mat_vec", "mul_mat_vec", "glu", "mul_mat_vec", "add"),
    ]
    assert not any(step.params["lane_order"] for step in steps.steps if step.op in ("rms_norm", "add", "glu"))


def test_an_unknown_fusion_is_named_with_those_there_are() -> None:
    with pytest.raises(UnsupportedError, match=r"'rope'.*norm, post_norm, residual"):
        plan_model(llama_header(**TINY), unfused=["rope"])
