"""Embeddings: which models are for them, how texts go in batches, what a plan has for that, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaweb.architectures import architecture
from llamaweb.architectures.embeddings import check_generates, pooling_of
from llamaweb.embedding import batches, check_texts, embed, lines, normalized
from llamaweb.errors import (
    ContextError,
    LlamaWebError,
    MemoryBudgetError,
    ModelFileError,
    NotANumberError,
    UnsupportedError,
)
from llamaweb.host.cli import main
from llamaweb.kernels.io import IO
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import ModelPlan, plan_model
from llamaweb.pooling import MOST_TEXTS, Pooling
from llamaweb.profile import DeviceProfile
from llamaweb.progress import Progress
from tests.families import EMBEDDERS, MODELS
from tests.headers import TINY, llama_header
from tests.tiny import TinyLlama, tiny_llama, tiny_model


def header(name: str = "bert", **keys: Any) -> GGUFFile:
    """Of one of EMBEDDERS, with some keys, in which __ stands for a dot; one that is None is left out."""
    file = unfused(asyncio.run(read_header(BytesSource(tiny_model(EMBEDDERS[name].spec)))))
    return with_keys(file, **keys)


def with_keys(file: GGUFFile, **keys: Any) -> GGUFFile:
    new = {key.replace("__", "."): value for key, value in keys.items()}
    new = {key if key.startswith("tokenizer.") else f"{file.architecture}.{key}": v for key, v in new.items()}
    return replace(file, metadata={k: v for k, v in {**file.metadata, **new}.items() if v is not None})


def pooling(file: GGUFFile, asked: str | None = None) -> Pooling | None:
    return pooling_of(file, architecture(file).hyperparameters(file), asked)


@pytest.mark.parametrize(
    ("told", "encoder", "decoder"),
    [
        (None, "none", None),
        (2**32 - 1, "none", None),  # unspecified, as llama.cpp saves it
        (0, "none", None),
        (1, "mean", "mean"),
        (2, "cls", "cls"),
        (3, "last", "last"),
    ],
)
def test_a_model_is_for_embeddings_if_it_is_an_encoder_or_its_file_has_a_pooling(
    told: int | None, encoder: str, decoder: str | None
) -> None:
    assert pooling(header(pooling_type=told)) == Pooling(encoder, causal=False)
    llama = with_keys(llama_header(**TINY), pooling_type=told)
    assert pooling(llama) == (Pooling(decoder) if decoder else None)
    assert pooling(llama, "cls") == Pooling("cls") and pooling(llama, "none") == Pooling("none")
    assert pooling(header(pooling_type=told), "last") == Pooling("last", causal=False)
    if decoder:
        with pytest.raises(LlamaWebError, match=r"gives embeddings and no text; use embed\(texts\)"):
            check_generates(llama)
    else:
        check_generates(llama)


def test_a_decoder_may_see_what_comes_behind_a_token() -> None:
    file = with_keys(llama_header(**TINY), pooling_type=1, attention__causal=False)
    assert pooling(file) == Pooling("mean", causal=False)


@pytest.mark.parametrize("told", [5, -2, True, 1.0, "mean"])
def test_a_pooling_that_is_none_is_refused_by_its_key(told: Any) -> None:
    with pytest.raises(ModelFileError, match=r"bert\.pooling_type is .*, not a whole number from 0 to 4"):
        pooling(header(pooling_type=told))


def test_what_ranks_is_refused_unless_another_pooling_is_asked_for() -> None:
    with pytest.raises(UnsupportedError, match="ranks documents"):
        plan_model(header(pooling_type=4))
    assert pooling(header(pooling_type=4), "mean") == Pooling("mean", causal=False)


@pytest.mark.parametrize(
    ("name", "keys", "sentence"),
    [
        ("bert", {"tokenizer__ggml__token_type_count": None}, "token_type_count is None, not a whole number from 1"),
        ("bert", {"tokenizer__ggml__token_type_count": 0}, "token_type_count is 0, not a whole number from 1"),
        ("bert", {"tokenizer__ggml__token_type_count": 3}, "Tensor token_types.weight has shape"),
        ("bert", {"context_length": 255}, "Tensor position_embd.weight has shape"),
        ("modern-bert", {"hidden_activation": "relu"}, "The activation 'relu' is not supported; gelu and silu are"),
        ("gemma-embedding", {"dense_2_feat_out": 101}, "Tensor dense_2.weight has shape"),
    ],
)
def test_what_contradicts_itself_is_refused(name: str, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedError), match=sentence):
        plan_model(header(name, **keys))


@pytest.mark.parametrize("name", ["bert", "nomic-bert", "modern-bert", "gemma-embedding"])
def test_whatever_metadata_hold_is_taken_or_refused_in_a_sentence(name: str) -> None:
    file = header(name)
    own = [key for key in file.metadata if key.startswith((file.architecture, "tokenizer.ggml.token_type"))]
    more = ("attention.sliding_window_pattern", "hidden_activation", "dense_2_feat_out", "rope.scaling.type")
    odd = (-1, 0, 1, 2**20, 2**63, 1.5, float("nan"), "x", True, np.array([1, 2, 3]), np.array([]), np.array([1.5] * 8))
    for key in (*own, *(f"{file.architecture}.{key}" for key in more)):
        for value in odd:
            with suppress(LlamaWebError):
                pooling(replace(file, metadata={**file.metadata, key: value}))


def test_of_three_layers_of_modern_bert_the_first_sees_all() -> None:
    file = header("modern-bert", block_count=5, attention__sliding_window=9)
    assert architecture(file).hyperparameters(file).windows == (0, 9, 9, 0, 9)
    told = with_keys(file, attention__sliding_window_pattern=1)
    assert architecture(told).hyperparameters(told).windows == (0,) * 5


# Dispatches of a batch in a layer that takes most: a llama's take eight.
LAYERS = {
    "bert": 7,
    "bert, Q8_0": 7,
    "bert, each token": 7,
    "nomic-bert": 8,
    "nomic-bert, Q4_0": 8,
    "modern-bert": 8,
    "modern-bert, SwiGLU": 8,
    "gemma-embedding": 11,
    "gemma-embedding, Q8_0": 11,
    "qwen3, embeddings": 9,
    "qwen3, both ways": 9,
    "lfm2, embeddings": 9,
}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_texts_have_a_phase_of_their_own_whose_batch_is_the_context_and_no_cache(name: str) -> None:
    plan = plan_model(header(name), DeviceProfile(), n_ctx=100, n_ubatch=16)
    assert list(plan.phases) == ["embed"] and (plan.n_ctx, plan.n_ubatch, plan.phases["embed"].n_tokens) == (100,) * 3
    assert plan.memory["kv"] == 0 and not any(region.startswith(("kv", "state.copies")) for region in plan.regions)
    assert ("state" in plan.memory) == (name == "lfm2, embeddings")
    assert sum(size for _, size in plan.buffers) == plan.memory["total"]
    layers = Counter(d.label.split(".")[1] for d in plan.phases["embed"].dispatches if d.label.startswith("blk."))
    assert max(layers.values()) == LAYERS[name]
    assert plan.embeddings and plan.embeddings.rows == (100 if name == "bert, each token" else MOST_TEXTS)
    assert plan.dispatches_per_token == len(plan.phases["embed"].dispatches)


@pytest.mark.parametrize("name", ["gpt2", "mistral3", "gpt-oss", "falcon-h1", "gemma2", "qwen2moe", "cohere2"])
def test_any_decoders_graph_can_be_pooled(name: str) -> None:
    file = unfused(asyncio.run(read_header(BytesSource(tiny_model(MODELS[name].spec)))))
    plan = plan_model(file, n_ctx=64, pooling="mean")
    assert list(plan.phases) == ["embed"] and plan.embeddings
    assert (plan.embeddings.pooling, plan.embeddings.length) == ("mean", file.metadata[f"{name}.embedding_length"])


def test_a_context_of_one_token_is_planned_for() -> None:
    plan = plan_model(header(), n_ctx=1)
    assert (plan.n_ctx, plan.n_ubatch) == (1, 2)


def test_the_context_of_texts_is_fitted_to_the_budget_and_to_the_device() -> None:
    file = header("nomic-bert", context_length=1000)
    whole = plan_model(file, n_ctx=0)
    assert whole.n_ctx == 1000
    budget = whole.memory["peak"] - whole.memory["arena"] // 2
    half = plan_model(file, n_ctx=0, memory_budget=budget, offload="none")
    assert 400 < half.n_ctx < 600 and half.n_ubatch == half.n_ctx and half.memory["peak"] <= budget
    with pytest.raises(MemoryBudgetError, match=f"in batches of 1000 needs .*; a context of {half.n_ctx} fits"):
        plan_model(file, n_ctx=1000, memory_budget=budget, offload="none")
    on_host = plan_model(file, n_ctx=64, offload="embeddings")
    assert [table.name for table in on_host.tables] == ["token_embd.weight"]
    long = with_keys(llama_header(**TINY), pooling_type=3, context_length=100_000)
    assert plan_model(long, n_ctx=0).n_ctx == 65535
    with pytest.raises(
        MemoryBudgetError, match=r"A text of 70000 tokens is read at once, but .* of 65535; a context of 65"
    ):
        plan_model(long, n_ctx=70_000)


class FakeGPU:
    """A runner whose embedding of a text is the sum of its tokens and how many they are."""

    def __init__(self, plan: ModelPlan, numbers: bool = True) -> None:
        self.plan = plan
        self.numbers = numbers
        self.io = np.zeros(IO.bytes(plan.n_ubatch) // 4, np.uint32)
        self.ran: list[tuple[int, int]] = []

    def write_io(self, word: int, data: np.ndarray) -> None:
        assert data.dtype == np.uint32 and word + len(data) <= len(self.io)
        self.io[word : word + len(data)] = data

    def write_rows(self, tokens: Sequence[int]) -> None:
        assert tokens == self.io[IO.tokens :][: len(tokens)].tolist()

    async def embed(self, n_tokens: int, rows: int) -> bytes:
        assert self.plan.embeddings
        assert (self.io[IO.n_past], self.io[IO.n_tokens]) == (0, n_tokens)
        self.ran.append((n_tokens, rows))
        text_of, begins = IO.texts(self.plan.n_ubatch)
        tokens, of = self.io[IO.tokens :][:n_tokens], self.io[text_of:][:n_tokens]
        values = np.full((rows, self.plan.embeddings.pitch), np.nan, np.float32)
        values[:, : self.plan.embeddings.length] = 0 if self.numbers else np.inf
        for i in range(rows):
            first, end = (i, i + 1) if self.plan.embeddings.pooling == "none" else self.io[begins + i :][:2]
            assert self.plan.embeddings.pooling == "none" or of[first:end].tolist() == [i] * (end - first)
            values[i, :2] = tokens[first:end].sum(), end - first
        return values.tobytes()


def run(gpu: FakeGPU, texts: Sequence[Sequence[int]], **options: Any) -> list[np.ndarray]:
    return asyncio.run(embed(gpu, texts, **options))


TEXTS = [[3, 4], [5], [6] * 9, [7] * 12, [8], [9]]


def test_texts_go_side_by_side_as_far_as_a_batch_reaches() -> None:
    gpu, told = FakeGPU(plan_model(header(), n_ctx=12)), list[Progress]()
    found = run(gpu, TEXTS, progress=told.append)
    assert [row[:2].tolist() for row in found] == [[sum(text), len(text)] for text in TEXTS]
    assert all(row.shape == (72,) for row in found)
    assert gpu.ran == [(12, 3), (12, 1), (2, 2)]
    assert [(p.phase, p.done, p.total) for p in told] == [("tokens", n, 26) for n in (12, 24, 26)]
    assert run(gpu, []) == []


def test_no_more_texts_go_side_by_side_than_are_planned() -> None:
    plan = plan_model(header(), n_ctx=200)
    assert [len(batch) for batch in batches([[5]] * 150, plan)] == [64, 64, 22]


def test_of_a_recurrent_model_texts_go_one_by_one() -> None:
    plan = plan_model(header("lfm2, embeddings"), n_ctx=12)
    assert list(batches(TEXTS, plan)) == [[text] for text in TEXTS]


def test_without_pooling_each_token_has_its_embedding() -> None:
    gpu = FakeGPU(plan_model(header("bert, each token"), n_ctx=12))
    found = run(gpu, TEXTS[:3])
    assert [rows.shape for rows in found] == [(2, 72), (1, 72), (9, 72)]
    assert [rows[:, 0].tolist() for rows in found] == TEXTS[:3]


def test_embeddings_that_are_no_numbers_are_an_error() -> None:
    gpu = FakeGPU(plan_model(header(), n_ctx=12), numbers=False)
    with pytest.raises(NotANumberError, match="embeddings are no numbers"):
        run(gpu, TEXTS[:1])


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([[]], "The text is empty; give at least one token."),
        ([[5], []], "Text 2 of 2 is empty; give at least one token."),
        (
            [[5] * 13],
            "The text has 13 tokens, but the context holds 12; shorten it, or load the model with a larger n_ctx",
        ),
        ([[5] * 13, [5]], "Text 1 of 2 has 13 tokens, but the context holds 12"),
    ],
)
def test_a_text_without_an_embedding_is_refused(texts: list[list[int]], sentence: str) -> None:
    plan = plan_model(header(), n_ctx=12)
    check_texts([[5] * 12], plan, 64)
    with pytest.raises(ContextError, match=sentence):
        check_texts(texts, plan, 64)


def test_a_text_that_is_longer_than_the_models_own_context_is_to_be_shortened() -> None:
    plan = plan_model(header(), n_ctx=12)
    with pytest.raises(ContextError, match=r"has 13 tokens, but the context holds 12; shorten it\.$"):
        check_texts([[5] * 13], plan, 12)


def test_a_files_lines_are_its_texts() -> None:
    assert lines(b"one\r\ntwo  words\n") == lines(b"one\ntwo  words") == [b"one", b"two  words"]
    for text, sentence in (
        (b"", "The file is empty"),
        (b"\n", "Line 1 of the file"),
        (b"a\n\nb\n", "Line 2 of the file"),
    ):
        with pytest.raises(ContextError, match=f"{sentence}.* is empty" if text else sentence):
            lines(text)


def test_normalized_rows_have_length_one_and_zeros_stay() -> None:
    rows = np.array([[3, 4], [0, 0], [-1e-20, 0]], np.float32)
    np.testing.assert_allclose(normalized(rows), [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)
    np.testing.assert_allclose(normalized(rows[0]), [0.6, 0.8], rtol=1e-6)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "bert.gguf"
    path.write_bytes(tiny_model(EMBEDDERS["bert"].spec))
    return str(path)


@pytest.mark.parametrize("command", [["run", "-p", "Hello"], ["run"], ["perplexity", "--file", __file__]], ids=str)
def test_a_model_for_embeddings_is_asked_for_no_text(command: list[str], model: str, capsys: Any) -> None:
    assert main([command[0], model, *command[1:], "--chrome", "/no/browser"]) == 1
    told = "This model gives embeddings and no text; use llamaweb embed, or another model for text.\n"
    assert capsys.readouterr().err == told


def test_a_model_for_text_is_asked_for_no_embeddings_unless_it_is_told_how(tmp_path: Path, capsys: Any) -> None:
    path, text = tmp_path / "llama.gguf", tmp_path / "texts.txt"
    path.write_bytes(tiny_llama(TinyLlama()))
    text.write_text("one\n")
    command = ["embed", str(path), "--file", str(text), "--chrome", "/no/browser"]
    assert main(command) == 1
    assert capsys.readouterr().err == "This model was loaded for text; load it with --pooling mean to embed texts.\n"
    assert main([*command, "--pooling", "mean"]) == 1
    assert "/no/browser" in capsys.readouterr().err


def test_inspect_tells_what_embedding_takes(model: str, capsys: Any) -> None:
    assert main(["inspect", model, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pooling"] == "cls" and report["memory"]["kv"] == 0 and report["dispatches_per_token"] > 20
    assert main(["inspect", model, "--pooling", "mean"]) == 0
    assert f"{report['dispatches_per_token']} dispatches a batch of texts" in capsys.readouterr().out


def test_a_file_with_an_empty_line_is_refused_before_a_browser_starts(model: str, tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("one\n\ntwo\n")
    assert main(["embed", model, "--file", str(text), "--chrome", "/no/browser"]) == 1
    assert capsys.readouterr().err == "Line 2 of the file is empty; give a text on every line.\n"
