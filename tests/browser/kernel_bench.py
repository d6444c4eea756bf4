"""Kernels in the page and numpy beside them: what the kernel tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from browser_page import Page

from llamaweb.ggml import dequantize
from llamaweb.kernels import library
from llamaweb.kernels.formats import FORMATS, Format, whole_blocks
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Launch
from llamaweb.kernels.mul_mat import quantize, quantized_bytes
from llamaweb.profile import DeviceProfile
from tests.blocks import quantized

GUARD = 64  # values of poison behind what a kernel may read or write


@dataclass(frozen=True)
class Case:
    """A kernel over arrays by slot; `n_tokens` counts its workgroups where they follow the batch."""

    launch: Launch
    slots: dict[str, np.ndarray]
    n_tokens: int = 1

    @property
    def writable(self) -> dict[str, np.ndarray]:
        return {s.name: self.slots[s.name] for s in self.launch.kernel.slots if s.access == "read_write"}


class Bench:
    def __init__(self, page: Page) -> None:
        self._page = page
        source = (Path(__file__).parent / "kernel_bench_page.py").read_text()

        def install(source):
            import sys
            import types

            module = sys.modules["kernel_bench_page"] = types.ModuleType("kernel_bench_page")
            exec(compile(source, "kernel_bench_page.py", "exec"), module.__dict__)

        page.run(install, source=source)

    @cached_property
    def profile(self) -> DeviceProfile:
        """The browser's device."""
        return self._page.run("from kernel_bench_page import profile\nreturn await profile()")

    def run(self, cases: Sequence[Case]) -> list[dict[str, np.ndarray]]:
        """Each case's writable slots afterwards; all kernels are compiled side by side."""
        plain = [(case.launch, case.slots, case.n_tokens) for case in cases]
        code = "from kernel_bench_page import run_cases\nreturn await run_cases(cases)"
        changed = self._page.run(code, cases=plain)
        return [{**case.writable, **found} for case, found in zip(cases, changed, strict=True)]

    def time(self, groups: Mapping[str, Sequence[Case]], n_tokens: int = 1, turns: int = 3) -> dict[str, float]:
        """Microseconds of each group of kernels, one behind the other, in one run."""
        plain = [[(case.launch, case.slots) for case in group] for group in groups.values()]
        code = "from kernel_bench_page import time_groups\nreturn await time_groups(groups, n_tokens, turns)"
        return dict(zip(groups, self._page.run(code, groups=plain, n_tokens=n_tokens, turns=turns), strict=True))

    def draw(self, launch: Launch, slots: dict[str, np.ndarray], count: int) -> np.ndarray:
        """The next token after each of `count` runs of the sampler."""
        return self._page.run(
            "from kernel_bench_page import draw\nreturn await draw(launch, slots, word, count)",
            launch=launch,
            slots=slots,
            word=IO.tokens,
            count=count,
        )

    def weight(self, format: Format, values: np.ndarray) -> Weight:
        """A matrix (rows, row length) in a format, as the upload leaves it on the GPU."""
        if not format.repacked:
            values = np.pad(values, ((0, 0), (0, -values.shape[1] % 32)))
        data = quantized(values, format.type)
        dense = dequantize(data, format.type).astype(np.float32)
        planes = self.repack(format, [data.tobytes()])[0] if format.repacked else {"w_qs": data.reshape(-1)}
        return Weight(format, dense, planes | codes(format))

    def repack(self, format: Format, datas: Sequence[bytes], chunk: int | None = None) -> list[dict[str, np.ndarray]]:
        """The planes of each of `datas`, repacked in pieces of `chunk` blocks, with poison behind them."""
        found = []
        for data in datas:
            blocks, unit = len(data) // format.block_bytes, format.unit
            planes = {
                f"w_{p.name}": np.full(-(-blocks // unit) * unit * p.bytes + GUARD, 0xA5, np.uint8)
                for p in format.planes
            }
            for first in range(0, blocks, chunk or blocks):
                count = min(chunk or blocks, blocks - first)
                raw = np.frombuffer(data[first * format.block_bytes :][: count * format.block_bytes], np.uint8)
                job = np.array([-(-count // unit), first], np.uint32)
                launch = library.repack(format, int(job[0]))
                planes = self.run([Case(launch, {"raw": raw, "job": job, **planes})])[0]
            found.append(planes)
        return found


@dataclass(frozen=True)
class Weight:
    """dense: what the format holds, float32 (rows, row length); planes: by slot, with the codebook if there is one."""

    format: Format
    dense: np.ndarray
    planes: dict[str, np.ndarray]


def codes(format: Format) -> dict[str, np.ndarray]:
    """The slot of the codebook, if the format has one."""
    return {"w_codes": format.codebook.data()} if format.codebook else {}


def each_format() -> list[Format]:
    return list(FORMATS.values())


def columns(format: Format, k: int) -> int:
    """A row length of as many blocks as k has of 32."""
    return k // 32 * format.block_size if format.block_size > 32 else k


def batch(n_tokens: int, n_past: int = 0, tokens: Sequence[int] = (), extra: int = GUARD) -> np.ndarray:
    """The I/O region for a batch."""
    words = np.zeros(IO.tokens + len(tokens) + extra, np.uint32)
    words[IO.n_past], words[IO.n_tokens] = n_past, n_tokens
    words[IO.tokens : IO.tokens + len(tokens)] = tokens
    return words


def poisoned(*shape: int) -> np.ndarray:
    """Flat float32 NaNs for a result of this shape and a guard behind it."""
    return np.full(int(np.prod(shape)) + GUARD, np.nan, np.float32)


def guarded(x: np.ndarray) -> np.ndarray:
    """An input with poison behind it."""
    return np.concatenate([x.astype(np.float32).reshape(-1), np.full(GUARD, np.nan, np.float32)])


def quantized_rows(bench: Bench, x: np.ndarray, full: int, bits: int, profile: DeviceProfile) -> np.ndarray:
    """Rows as the packed product reads them, for batches of `full` tokens."""
    n_tokens, k = x.shape
    y = np.full(quantized_bytes(k, full, bits) + 4 * GUARD, 0xA5, np.uint8)
    slots = {"x": guarded(x), "batch": batch(n_tokens), "y": y}
    found = bench.run([Case(quantize(k, full, f"i{bits}", profile), slots, n_tokens)])[0]["y"]
    assert (found[-4 * GUARD :] == 0xA5).all()
    return found[: -4 * GUARD]


def result(y: np.ndarray, *shape: int) -> np.ndarray:
    """The values a kernel wrote, after a look at the guard behind them."""
    n = int(np.prod(shape))
    assert np.isnan(y[n:]).all(), "the kernel wrote behind its result"
    assert not np.isnan(y[:n]).any(), "the kernel left a part of its result unwritten"
    return y[:n].reshape(shape)


def result_rows(y: np.ndarray, n_tokens: int, row: int) -> np.ndarray:
    """The rows a kernel wrote for a batch, each in whole blocks of 32."""
    pitch = whole_blocks(row)
    assert np.isnan(y[n_tokens * pitch :]).all(), "the kernel wrote behind its result"
    rows = y[: n_tokens * pitch].reshape(n_tokens, pitch)[:, :row]
    assert not np.isnan(rows).any(), "the kernel left a part of its result unwritten"
    return rows


def in_rows(x: np.ndarray) -> np.ndarray:
    """Rows in whole blocks of 32, with poison behind each."""
    padded = np.full((*x.shape[:-1], whole_blocks(x.shape[-1])), np.nan, np.float32)
    padded[..., : x.shape[-1]] = x
    return padded


def rms_normed(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    """Its tanh approximation."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


GLU = {"swiglu": silu, "geglu": gelu}


def in_lane_order(vector: np.ndarray) -> np.ndarray:
    """A vector as matrix-vector products read it (wgsl/common/lanes.wgsl), with zeros up to a whole block of 32."""
    vector = np.pad(vector, (0, -len(vector) % 32))
    return np.ascontiguousarray(vector.reshape(-1, 8, 4).swapaxes(0, 1)).reshape(-1)


def out_of_lane_order(vector: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vector.reshape(8, -1, 4).swapaxes(0, 1)).reshape(-1)
