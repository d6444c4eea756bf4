"""Sampling parameters, checked, and as the words the sampler's kernel reads."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

from llamaweb.errors import LlamaWebError


@dataclass(frozen=True)
class Sampling:
    """Names and defaults are llama-cpp-python's; filters run in llama.cpp's order: top_k, top_p, min_p, temperature.

    temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 switch a filter off. seed None takes a fresh one.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "temperature": (self.temperature, 0 <= self.temperature <= 100, "from 0 to 100"),
            "top_k": (self.top_k, self.top_k >= 0, "0 (off) or more"),
            "top_p": (self.top_p, 0 < self.top_p <= 1, "above 0, up to 1"),
            "min_p": (self.min_p, 0 <= self.min_p <= 1, "from 0 to 1"),
            "seed": (self.seed, self.seed is None or 0 <= self.seed < 2**32, "from 0 to 4294967295"),
        }
        for name, (value, right, range) in checks.items():
            if not right:
                raise LlamaWebError(f"{name} is {value}; it must be {range}.")

    def words(self) -> np.ndarray:
        """step, seed, temperature, top_k, top_p, min_p as the I/O region holds them: uint32 (6,)."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        floats = np.array([self.temperature, self.top_p, self.min_p], np.float32).view(np.uint32)
        return np.array([0, seed, floats[0], min(self.top_k, 2**32 - 1), floats[1], floats[2]], np.uint32)
