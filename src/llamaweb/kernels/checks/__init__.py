"""What each kernel must compute, as small cases that a self-check runs on a device (`gpu.selfcheck`). Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from llamaweb.kernels.checks import attention, products, rows
from llamaweb.kernels.checks.case import Case
from llamaweb.kernels.kernel import Kernel

_CODING = ("quantize", "halves")  # what makes x_q
FOUND = 64 << 10  # bytes of results that are read at once, or what the largest case has

CASES: dict[str, Callable[..., Case]] = {  # of a kernel, and of one that quantizes its input
    "cross_entropy": rows.cross_entropy,
    "elementwise": rows.elementwise,
    "flash_attn": attention.flash_attn,
    "flash_attn_reduce": attention.flash_attn_reduce,
    "flash_attn_vec": attention.flash_attn_vec,
    "get_rows": products.get_rows,
    "mul_mat": products.mul_mat,
    "mul_mat_matrix": products.mul_mat,
    "mul_mat_packed": products.mul_mat,
    "mul_mat_vec": products.mul_mat_vec,
    "mul_mat_vec_packed": products.mul_mat_vec,
    "norm": rows.norm,
    "pad_rows": rows.pad_rows,
    "rms_norm": rows.rms_norm,
    "rope": attention.rope,
    "rope_kv": attention.rope_kv,
    "vector": rows.vector,
}


def chains(kernels: Collection[Kernel]) -> list[tuple[Kernel, ...]]:
    """What is checked together: each kernel by itself, but for a product whose input another one of them quantizes."""
    kernels = list(dict.fromkeys(kernels))
    coded = {k for k in kernels if any(slot.name == "x_q" for slot in k.slots)}
    found: list[tuple[Kernel, ...]] = [(k,) for k in kernels if k.template not in _CODING and k not in coded]
    for row in dict.fromkeys(_row(k) for k in kernels if k in coded):
        first, *others = (k for k in kernels if k.template in _CODING and _row(k) == row)
        products = [k for k in kernels if k in coded and _row(k) == row]
        found += [(first, k) for k in products] + [(k, products[0]) for k in others]
    return found


def cases(chain: tuple[Kernel, ...]) -> tuple[Case, ...]:
    """All that a chain must do right."""
    *before, kernel = chain
    if kernel.template == "sample":
        return rows.sample(kernel)
    return (CASES[kernel.template](kernel, *before),)


def _row(kernel: Kernel) -> tuple[int, int, int, str]:
    """Numbers of a row, those of them that are there where that matters, tokens and codes of a batch: what a quantizing
    kernel and its products share."""
    c = dict(kernel.constants)
    there = c["columns"] * (c["used"] if c.get("own") else 1) if c["codes"] == "f16" else 0
    return c.get("x_row", c["k"]), there, c["n_tokens"], c["codes"]
