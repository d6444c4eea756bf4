"""What a family puts together wrongly is told while its graph is built, not computed as something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamaweb import operations as ops
from llamaweb.errors import LlamaWebError
from llamaweb.graph import Graph, Tensor


def value(g: Graph, row: int, rows: int = 3) -> Tensor:
    """Some numbers of each token."""
    return g.node("view", f"v{row}", (row, rows), (g.tokens,), first=0)


def attention(g: Graph, q: int = 64, k: int | None = 32, v: int | None = 32, **options: Any) -> Tensor:
    given: dict[str, Any] = {"layer": 0, "head_dim": 16, "scale": 1.0, "name": "a", **options}
    return ops.flash_attn(g, value(g, q), value(g, k) if k else None, value(g, v) if v else None, **given)


def second_attention(g: Graph) -> Tensor:
    attention(g)
    return attention(g, name="b")


WRONG: dict[str, tuple[Callable[[Graph], Tensor], str]] = {
    "rows that do not divide": (lambda g: ops.add(g, value(g, 72), value(g, 50), "x"), r"v50 is \[50, 3\], which does"),
    "the longer one second": (lambda g: ops.add(g, value(g, 36), value(g, 72), "x"), r"v72 is \[72, 3\], which does"),
    "other tokens": (lambda g: ops.mul(g, value(g, 8), value(g, 8, 2), "x"), r"v8 is \[8, 2\], which does not repeat"),
    "values of another width": (lambda g: attention(g, v=24), "v has no whole heads, of 16 numbers in q and k and 16"),
    "half a head": (lambda g: attention(g, k=40), "k has no whole heads"),
    "heads that do not divide": (lambda g: attention(g, q=80), "5 heads of queries do not divide into 2 of keys"),
    "two that write a cache": (second_attention, "b cannot be computed: another attention writes the cache of layer 0"),
}


@pytest.mark.parametrize(("build", "said"), WRONG.values(), ids=WRONG)
def test_operands_that_do_not_fit_are_told(build: Callable[[Graph], Tensor], said: str) -> None:
    with pytest.raises(LlamaWebError, match=said):
        build(Graph({}, 3))


def test_operands_that_fit_are_taken() -> None:
    g = Graph({}, 3)
    assert ops.add(g, value(g, 72), value(g, 36), "x").shape == (72, 3)
    assert attention(g, v=24, head_dim_v=12).shape == (48, 3)
    assert attention(g, layer=1, name="b").shape == (64, 3)
    assert attention(g, k=None, v=None, n_head_kv=2, name="c").shape == (64, 3)  # reads the first one's
