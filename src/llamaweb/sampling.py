"""Sampling parameters, checked, and as the words the sampler's kernel reads."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

from llamaweb.arguments import number, whole

_MOST = 2**32 - 1


@dataclass(frozen=True, init=False)
class Sampling:
    """Names and defaults are llama-cpp-python's; filters run in llama.cpp's order: top_k, top_p, min_p, temperature.

    temperature 0 is greedy; top_p 0 leaves the likeliest token alone. top_k 0 or -1, top_p 1 and min_p 0 switch a
    filter off. seed None or -1 takes a fresh one.
    None elsewhere is the default. Raises LlamaWebError for what is out of range or no number.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int | None

    def __init__(
        self,
        temperature: float | None = 0.8,
        top_k: int | None = 40,
        top_p: float | None = 0.95,
        min_p: float | None = 0.05,
        seed: int | None = None,
    ) -> None:
        kept = whole("top_k", top_k, 40, -1, 2**63, "a whole number of tokens, or 0 or -1 for all")
        random = whole("seed", seed, None, -1, _MOST, f"a whole number from 0 to {_MOST}, or -1 for a random one")
        checked = {
            "temperature": number("temperature", temperature, 0.8, 0, 100, "from 0 to 100"),
            "top_k": min(max(kept, 0), _MOST),
            "top_p": number("top_p", top_p, 0.95, 0, 1, "from 0 to 1"),
            "min_p": number("min_p", min_p, 0.05, 0, 1, "from 0 to 1"),
            "seed": None if random == -1 else random,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def words(self) -> np.ndarray:
        """step, seed, temperature, top_k, top_p, min_p as the I/O region holds them: uint32 (6,)."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        floats = np.array([self.temperature, self.top_p, self.min_p], np.float32).view(np.uint32)
        return np.array([0, seed, floats[0], self.top_k, floats[1], floats[2]], np.uint32)
