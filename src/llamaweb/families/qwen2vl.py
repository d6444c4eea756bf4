"""qwen2vl: The text of Qwen 2-VL and 2.5-VL, which is that of qwen2."""

from llamaweb.families.qwen2 import build, hyperparameters

__all__ = ["build", "hyperparameters"]
