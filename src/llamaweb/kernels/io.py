"""The layout of the I/O region: what the CPU writes for a batch, and what the GPU leaves for it, in 32-bit words.

The token and the position live here, so that nothing else changes from token to token while decoding: the sampler
writes the next token, advances the position, and the same dispatches run again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IOLayout:
    n_past: int = 0  # tokens in the cache before this batch
    n_tokens: int = 1  # tokens of this batch
    step: int = 2  # tokens sampled so far: the counter of the random generator
    seed: int = 3
    temperature: int = 4  # f32
    top_k: int = 5  # 0: off
    top_p: int = 6  # f32, 1: off
    min_p: int = 7  # f32, 0: off
    tokens: int = 64  # the batch's tokens; word `tokens` is also where the sampler leaves the next one

    def targets(self, n_ubatch: int) -> int:
        """First word of the targets of a cross-entropy."""
        return self.tokens + n_ubatch

    def results(self, n_ubatch: int) -> int:
        """First word of a cross-entropy's results: log-probability (f32) and most likely token, for each row."""
        return self.tokens + 2 * n_ubatch

    def texts(self, n_ubatch: int) -> tuple[int, int]:
        """First words of what a batch of several texts has: of each token, which text it is of; and the first token of
        each text, with one past the last token behind them."""
        return self.tokens + n_ubatch, self.tokens + 2 * n_ubatch

    def bytes(self, n_ubatch: int) -> int:
        return 4 * (self.tokens + 4 * n_ubatch)


IO = IOLayout()

NO_TOKEN = 2**32 - 1  # left in a token's place where logits are no numbers, or none is above -infinity
IN_FLIGHT = 8  # submits whose tokens may be waited for at once: the ring of read-back buffers
SUBMITTED = 4  # tokens a submit at most
TIMER_BYTES = 32  # of the buffers through which timestamps are read, while something is timed


def results_bytes(n_ubatch: int, embeddings: int = 0) -> int:
    """The buffer through which the results of a cross-entropy, or so many bytes of embeddings, are read."""
    return embeddings or 8 * n_ubatch


def readback_bytes(n_ubatch: int, embeddings: int = 0) -> int:
    """Mappable buffers that belong to the I/O region: the ring of tokens, and that of results."""
    return 4 * SUBMITTED * IN_FLIGHT + results_bytes(n_ubatch, embeddings)
