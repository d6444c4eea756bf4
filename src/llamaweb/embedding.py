"""From texts to embeddings: as many whole texts a batch as it holds, and what comes of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from llamaweb.errors import ContextError, NotANumberError
from llamaweb.kernels.io import IO
from llamaweb.planner.plan import Embeddings, ModelPlan
from llamaweb.planner.states import REGION
from llamaweb.progress import Progress

Text = Sequence[int]  # as token ids


class Runner(Protocol):
    """What embedding needs of an executor."""

    plan: ModelPlan

    def write_io(self, word: int, data: np.ndarray) -> None: ...
    def write_rows(self, tokens: Sequence[int]) -> None: ...
    def embed(self, n_tokens: int, rows: int) -> Awaitable[bytes]: ...


def check_texts(texts: Sequence[Text], plan: ModelPlan, n_ctx_train: int) -> None:
    """Raises ContextError for a text that has no embedding here. n_ctx_train: the longest context of the model."""
    for i, text in enumerate(texts):
        which = "The text" if len(texts) == 1 else f"Text {i + 1} of {len(texts)}"
        if not text:
            raise ContextError(f"{which} is empty; give at least one token.")
        if len(text) > plan.n_ctx:
            larger = ", or load the model with a larger n_ctx" if len(text) <= n_ctx_train else ""
            raise ContextError(
                f"{which} has {len(text)} tokens, but the context holds {plan.n_ctx}; shorten it{larger}."
            )


async def embed(
    runner: Runner, texts: Sequence[Text], progress: Callable[[Progress], None] | None = None
) -> list[np.ndarray]:
    """Of each text its embedding, float32 (n_embd,), or without pooling those of its tokens, (n_tokens, n_embd)."""
    plan, found, done = runner.plan, list[np.ndarray](), 0
    assert plan.embeddings
    total = sum(map(len, texts))
    for batch in batches(texts, plan):
        found += await _embedded(runner, batch, plan.embeddings)
        done += sum(map(len, batch))
        if progress:
            progress(Progress("tokens", done, total))
    return found


def batches(texts: Sequence[Text], plan: ModelPlan) -> Iterator[list[Text]]:
    """Texts one after the other, as many at once as a batch has room for; of a recurrent model one, whose states begin
    anew."""
    assert plan.embeddings
    most = 1 if REGION in plan.regions else plan.embeddings.rows
    batch: list[Text] = []
    for text in texts:
        if batch and (len(batch) == most or sum(map(len, batch)) + len(text) > plan.n_ubatch):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


async def _embedded(runner: Runner, batch: Sequence[Text], of: Embeddings) -> list[np.ndarray]:
    lengths = [len(text) for text in batch]
    begins = np.cumsum([0, *lengths])
    n_tokens = int(begins[-1])
    text_of_token, begins_of_texts = IO.texts(runner.plan.n_ubatch)
    runner.write_io(IO.n_past, np.array([0, n_tokens], np.uint32))
    tokens = [token for text in batch for token in text]
    runner.write_io(IO.tokens, np.array(tokens, np.uint32))
    runner.write_rows(tokens)
    runner.write_io(text_of_token, np.repeat(np.arange(len(batch)), lengths).astype(np.uint32))
    runner.write_io(begins_of_texts, begins.astype(np.uint32))
    rows = n_tokens if of.pooling == "none" else len(batch)
    data = await runner.embed(n_tokens, rows)
    values = np.frombuffer(data, np.float32).reshape(rows, of.pitch)[:, : of.length]
    if not np.isfinite(values).all():
        raise NotANumberError(
            "The model's embeddings are no numbers (NaN or infinite); load the model with check=True to see whether "
            "its weights are, or use another one."
        )
    return np.split(values, begins[1:-1]) if of.pooling == "none" else list(values)


def normalized(values: np.ndarray) -> np.ndarray:
    """Rows of length 1, but for those of zeros."""
    length = np.linalg.norm(values.astype(np.float64), axis=-1, keepdims=True)
    return (values / np.where(length, length, 1)).astype(np.float32)


def lines(text: bytes) -> list[bytes]:
    """The texts of a file, one a line. Raises ContextError for one that is empty, or where there are none."""
    found = text.removesuffix(b"\n").split(b"\n") if text else []
    found = [line.removesuffix(b"\r") for line in found]
    if not found:
        raise ContextError("The file is empty; give one with a text a line.")
    if b"" in found:
        raise ContextError(f"Line {found.index(b'') + 1} of the file is empty; give a text on every line.")
    return found
