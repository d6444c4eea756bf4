"""How well a model foresees a text: its perplexity, from the log-probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llamaweb.progress import Progress


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-probability of `tokens` tokens."""

    perplexity: float
    tokens: int


async def perplexity(
    log_probabilities: Callable[[Sequence[int]], Awaitable[tuple[np.ndarray, np.ndarray]]],
    ids: Sequence[int],
    chunk: int,
    progress: Callable[[Progress], None] | None = None,
) -> Perplexity:
    """Over all tokens but each chunk's first, which has none before it. log_probabilities: as of `Llama`."""
    total, count = 0.0, 0
    for at in range(0, len(ids), chunk):
        log_p, _ = await log_probabilities(ids[at : at + chunk])
        total -= float(log_p.astype(np.float64).sum())
        count += len(log_p)
        if progress:
            progress(Progress("tokens", min(at + chunk, len(ids)), len(ids)))
    with np.errstate(over="ignore"):  # of a text that the model takes for impossible, which is infinite
        return Perplexity(float(np.exp(total / count)), count)
