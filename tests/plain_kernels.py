"""Kernels of elementwise operations as graphs have them, for tests of kernels."""

from __future__ import annotations

from llamaweb.kernels.formats import whole_blocks
from llamaweb.kernels.kernel import Launch
from llamaweb.operations.elementwise import elementwise_kernel
from llamaweb.operations.operand import Operand


def glu(kind: str, n: int, n_tokens: int) -> Launch:
    """Gate and up lie side by side in rows of 2 n numbers; results in rows of whole blocks."""
    operands = {"x0": Operand("x", 0, 2 * n), "x1": Operand("x", n, 2 * n)}
    return elementwise_kernel((kind, 0, 1), n, n_tokens, operands, Operand("y", 0, whole_blocks(n)))


def add(n: int, n_tokens: int) -> Launch:
    """y += x, rows of n numbers in whole blocks."""
    pitch = whole_blocks(n)
    operands = {"x0": Operand("y", 0, pitch), "x1": Operand("x", 0, pitch)}
    return elementwise_kernel(("add", 0, 1), n, n_tokens, operands, Operand("y", 0, pitch))
