"""Which context and which batch keep to the device's limits and to a memory budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from llamaweb.arguments import as_whole
from llamaweb.errors import ContextError, MemoryBudgetError, UnsupportedError, short
from llamaweb.planner.sizes import Sizes

LEAST_BATCH = 32  # tokens: smaller batches save little memory, and make reading a prompt slow
LEAST_CONTEXT = 256  # tokens: what is not worth having without being asked for
_MOST = 2**63  # tokens or bytes that can be meant
_SMALLER_CACHES = ("q8_0", "q4_0")


def asked(n_ctx: Any, n_ubatch: Any, memory_budget: Any) -> tuple[int | None, int, int | None]:
    """What a person asks for, as whole numbers; a float may be one, as 2e9. Raises ContextError or MemoryBudgetError
    for what is none."""
    told = "it must be a whole number of"
    context, batch, budget = (as_whole(value) for value in (n_ctx, n_ubatch, memory_budget))
    if n_ctx is not None and (context is None or not 0 <= context <= _MOST):
        raise ContextError(f"n_ctx is {short(n_ctx)}; {told} tokens, or 0 for as many as fit.")
    if batch is None or not 1 <= batch <= _MOST:
        raise ContextError(f"n_ubatch is {short(n_ubatch)}; {told} tokens from 1 on.")
    if memory_budget is not None and (budget is None or not 1 <= budget <= _MOST):
        raise MemoryBudgetError(f"memory_budget is {short(memory_budget)}; {told} bytes, as 2_000_000_000, or None.")
    return context, batch, budget


def fit(sizes: Sizes, n_ctx: int, n_ubatch: int) -> tuple[int, int]:
    """The context and the batch to take: the context as asked for, or for 0 the longest that fits; then the largest
    batch that fits beside it. Raises MemoryBudgetError, which names what would fit."""
    least = min(n_ubatch, LEAST_BATCH)
    if n_ctx == 0:
        n_ctx = longest_context(sizes, least)
        if n_ctx < min(LEAST_CONTEXT, sizes.n_ctx_train):
            raise _does_not_fit(sizes, min(LEAST_CONTEXT, sizes.n_ctx_train), least)
    elif sizes.refusal(n_ctx, least):
        raise _does_not_fit(sizes, n_ctx, least)
    return n_ctx, sizes.batch(n_ctx, _largest_batch(sizes, n_ctx, least, min(n_ubatch, n_ctx)))


def longest_context(sizes: Sizes, n_ubatch: int) -> int:
    """The longest context that fits beside a batch, up to the model's own; 0 if none does."""

    def fits(n_ctx: int) -> bool:
        return sizes.refusal(n_ctx, n_ubatch) is None

    cramped = _most(sizes.n_ctx_train, lambda n_ctx: not sizes.has_room(n_ctx, n_ubatch))
    if cramped < sizes.n_ctx_train and fits(cramped + 1):
        return cramped + 1 + _most(sizes.n_ctx_train - cramped - 1, lambda more: fits(cramped + 1 + more))
    return _most(cramped, fits)


def _largest_batch(sizes: Sizes, n_ctx: int, least: int, most: int) -> int:
    """In steps of LEAST_BATCH below `most`."""
    if most <= least or sizes.refusal(n_ctx, most) is None:
        return most
    steps = _most(-(-most // LEAST_BATCH) - 1, lambda n: sizes.refusal(n_ctx, n * LEAST_BATCH) is None)
    return max(steps * LEAST_BATCH, least)


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, where all below one that fits do; 0 if none does."""
    return bisect_left(range(1, most + 1), True, key=lambda n: not fits(n))


def _does_not_fit(sizes: Sizes, n_ctx: int, n_ubatch: int) -> MemoryBudgetError:
    fitting = longest_context(sizes, n_ubatch)
    advice = [f"a context of {fitting} fits"] if fitting else []
    for type in _SMALLER_CACHES:
        try:
            smaller = sizes.with_cache(type)
        except UnsupportedError:
            continue
        longest = min(longest_context(smaller, n_ubatch), n_ctx)
        if longest > fitting:
            advice.append(f"{longest} tokens fit with type_k and type_v {type}")
            fitting = longest
    what = ", or ".join(advice) or "no context fits, so use a smaller model"
    return MemoryBudgetError(f"{sizes.refusal(n_ctx, n_ubatch)}; {what}.")
