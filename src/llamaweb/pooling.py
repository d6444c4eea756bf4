"""Pooling as data: how a text's embedding is made of what a model computes of its tokens."""

from __future__ import annotations

from dataclasses import dataclass

POOLINGS = ("none", "mean", "cls", "last")  # by the number that GGUF has for each
MOST_TEXTS = 64  # of a batch


@dataclass(frozen=True)
class Pooling:
    """kind: of POOLINGS: the mean of the tokens, the first or the last one; none: every token has an embedding of its
    own. causal: a token sees those before it alone, not those behind it."""

    kind: str
    causal: bool = True

    def rows(self, n_tokens: int) -> int:
        """Embeddings of a batch of so many tokens, at most."""
        return n_tokens if self.kind == "none" else min(n_tokens, MOST_TEXTS)
