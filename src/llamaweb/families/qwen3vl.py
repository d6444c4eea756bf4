"""qwen3vl: The text of Qwen 3-VL, which is that of qwen3."""

from llamaweb.families.qwen3 import build, hyperparameters

__all__ = ["build", "hyperparameters"]
