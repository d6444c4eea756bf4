"""Embeddings in the page: of tiny models of every family that gives some, beside numpy's; and what else is said."""

from __future__ import annotations

import numpy as np
import pytest
from browser_page import Page
from test_llama_tiny import LIMIT

from llamaweb.errors import ContextError, LlamaWebError
from llamaweb.planner import FUSIONS
from tests.families import EMBEDDERS, TEXTS, embeddings
from tests.reference import nmse
from tests.tiny import TinyLlama, tiny_llama, tiny_model

N_CTX = 48  # tokens: TEXTS go in two batches


async def embedded(data, texts, options):
    """Their embeddings, and the batches that they took."""
    from llamaweb.llama import Llama

    async with await Llama.load(data, tune="off", **options) as llm:
        told = []
        found = await llm.embed(texts, normalize=False, progress=lambda p: told.append(p.done))
        return [row.tolist() for row in found], told


def check(page: Page, name: str, **options: object) -> None:
    data = tiny_model(EMBEDDERS[name].spec)
    found, told = page.run(embedded, data=data, texts=TEXTS, options={"n_ctx": N_CTX, **options})
    assert nmse(np.vstack([np.array(row) for row in found]), embeddings(data)) <= LIMIT
    assert told == ([40, 47, 48, 75] if name.startswith("lfm2") else [48, 75])


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings_equal_numpys(page: Page, name: str) -> None:
    check(page, name)


@pytest.mark.parametrize("name", ["bert", "gemma-embedding", "qwen3, embeddings"])
def test_embeddings_are_the_same_where_nothing_is_fused(page: Page, name: str) -> None:
    check(page, name, unfused=list(FUSIONS))


def test_the_table_of_tokens_may_stay_outside_of_the_gpu(page: Page) -> None:
    check(page, "gemma-embedding, Q8_0", offload="embeddings")


async def said(data, options, calls):
    """What each call gives or is refused with; a call is a method's name and its arguments."""
    from llamaweb.errors import LlamaWebError
    from llamaweb.llama import Llama

    async with await Llama.load(data, tune="off", **options) as llm:
        found = []
        for name, *arguments in calls:
            try:
                result = getattr(llm, name)(*arguments)
                found.append(await result if hasattr(result, "__await__") else [piece async for piece in result])
            except LlamaWebError as error:
                found.append(error)
        return found


def test_a_text_has_a_vector_of_length_one_and_texts_have_rows(page: Page) -> None:
    data = tiny_model(EMBEDDERS["bert"].spec)
    calls = [("embed", texts) for texts in ("the king", [b"the king", "a hill"], ["a hill"], [])]
    one, two, listed, none = page.run(said, data=data, options={}, calls=calls)
    assert one.dtype == np.float32 and one.shape == (72,) and none.shape == (0, 72)
    np.testing.assert_allclose(np.linalg.norm(two, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(two, [one, listed[0]], atol=1e-6)
    assert abs(float(two[0] @ two[1])) < 0.999


def test_what_cannot_be_embedded_is_said_and_so_is_that_there_is_no_text(page: Page) -> None:
    data = tiny_model(EMBEDDERS["bert"].spec)
    refused = [("embed", texts) for texts in ("", ["a", b""], "on and " * 50, [3, 4], 5, [[10**6]])]
    text = [("stream", "a"), ("complete", "a"), ("chat", [{"role": "user", "content": "a"}]), ("profile",)]
    text += [("perplexity", "the king on the hill"), ("log_probabilities", [3, 4])]
    *errors, after = page.run(said, data=data, options={"n_ctx": 64}, calls=[*refused, *text, ("embed", "a")])
    assert after.shape == (72,)
    told = [
        "The text is empty",
        "Text 2 of 2 is empty",
        "tokens, but the context holds 64; shorten it, or load the model with a larger n_ctx.",
        "texts is 3; it must be",
        "texts is 5; it must be a text or a list of texts",
        "texts has the token id 1000000 in it",
        *["This model gives embeddings and no text; use embed(texts), or another model for text."] * len(text),
    ]
    for error, sentence in zip(errors, told, strict=True):
        assert isinstance(error, LlamaWebError) and sentence in str(error), (error, sentence)
    assert all(isinstance(error, ContextError) for error in errors[:3])


def test_any_model_gives_embeddings_if_a_pooling_is_asked_for(page: Page) -> None:
    data = tiny_llama(TinyLlama())
    (refused,) = page.run(said, data=data, options={}, calls=[("embed", "the king")])
    assert str(refused) == 'This model was loaded for text; load it with pooling="mean" to embed texts.'
    calls = [("embed", ["the king on the hill", "and"])]
    (tokens,), (mean,), (last,) = (
        page.run(said, data=data, options={"pooling": kind}, calls=calls) for kind in ("none", "mean", "last")
    )
    assert mean.shape == last.shape == (2, 64)
    np.testing.assert_allclose([rows[-1] for rows in tokens], last, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.vstack(tokens), axis=1), 1, rtol=1e-6)
