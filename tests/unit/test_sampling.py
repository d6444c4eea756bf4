"""Sampling parameters: checked, and laid out as the kernel reads them."""

from __future__ import annotations

import numpy as np
import pytest

from llamaweb.errors import LlamaWebError
from llamaweb.kernels.io import IO
from llamaweb.sampling import Sampling


def test_words_lie_as_the_io_region_says() -> None:
    words = Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.1, seed=123).words()
    assert words.dtype == np.uint32 and len(words) == 6
    floats = words.view(np.float32)
    at = {name: getattr(IO, name) - IO.step for name in ("step", "seed", "temperature", "top_k", "top_p", "min_p")}
    assert (words[at["step"]], words[at["seed"]], words[at["top_k"]]) == (0, 123, 40)
    np.testing.assert_allclose([floats[at[name]] for name in ("temperature", "top_p", "min_p")], [0.7, 0.9, 0.1])


def test_without_a_seed_each_generation_draws_its_own() -> None:
    assert len({int(Sampling().words()[1]) for _ in range(20)}) > 15
    assert Sampling(seed=0).words()[1] == 0 and Sampling(seed=2**32 - 1).words()[1] == 2**32 - 1


def test_a_huge_top_k_is_all_tokens() -> None:
    assert Sampling(top_k=2**40).words()[3] == Sampling(top_k=2**63).words()[3] == 2**32 - 1


def test_the_defaults_are_llama_cpp_pythons_and_none_stands_for_them() -> None:
    assert Sampling() == Sampling(None, None, None, None, None) == Sampling(0.8, 40, 0.95, 0.05, -1)
    assert Sampling().seed is None and Sampling(top_k=0).top_k == Sampling(top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temperature", 100.1, "from 0 to 100"),
        ("top_k", 2**63 + 1, "a whole number of tokens, or 0 or -1 for all"),
        ("top_p", 1.1, "from 0 to 1"),
        ("min_p", -1, "from 0 to 1"),
        ("seed", 0.5, "a whole number from 0 to 4294967295, or -1 for a random one"),
    ],
)
def test_who_gives_a_wrong_value_is_told_what_it_must_be(name: str, value: float, told: str) -> None:
    with pytest.raises(LlamaWebError) as caught:
        Sampling(**{name: value})
    assert str(caught.value) == f"{name} is {value}; it must be {told}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -2),
        ("top_p", -0.01),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("seed", -2),
        ("seed", 2**32),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(LlamaWebError, match=rf"{name} is "):
        Sampling(**{name: value})


@pytest.mark.parametrize("value", [0, 1, 100])
def test_values_at_the_ends_of_their_ranges_are_taken(value: float) -> None:
    Sampling(temperature=value, top_k=value, top_p=min(value, 1), min_p=min(value, 1))
