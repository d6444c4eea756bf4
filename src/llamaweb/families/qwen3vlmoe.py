"""qwen3vlmoe: The text of Qwen 3-VL with experts, which is that of qwen3moe."""

from llamaweb.families.qwen3moe import build, hyperparameters

__all__ = ["build", "hyperparameters"]
