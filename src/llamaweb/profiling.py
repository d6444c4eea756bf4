"""What a profile says: each dispatch's time beside what it moves and computes, by kernel. `gpu.profiler` measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llamaweb.kernels.kernel import Kernel
from llamaweb.planner.cost import Cost, shape
from llamaweb.text_table import profile_text


@dataclass(frozen=True)
class Peaks:
    """What plain kernels reach on the device in the same run: bytes read and float32 operations a second, and the
    microseconds of a dispatch that does nothing behind another."""

    bytes_per_second: float
    flops_per_second: float
    dispatch_us: float


@dataclass(frozen=True)
class DispatchTime:
    """One dispatch: its time on the GPU in microseconds, behind another like it, and its cost."""

    label: str
    kernel: Kernel
    us: float
    cost: Cost


@dataclass(frozen=True)
class KernelTime:
    """All dispatches of one kernel, format and shape in a batch or token; `share` is of the time of all dispatches."""

    kernel: str
    format: str
    shape: str
    count: int
    us: float
    share: float
    bytes: int
    flops: int

    @property
    def bytes_per_second(self) -> float:
        return 1e6 * self.bytes / self.us if self.us else 0.0

    @property
    def flops_per_second(self) -> float:
        return 1e6 * self.flops / self.us if self.us else 0.0


@dataclass(frozen=True)
class PhaseProfile:
    """One batch ("prefill") or token ("decode"). `whole_us` is its time as the product runs it: all dispatches in one
    pass, tokens in flight; what it takes beyond the dispatches themselves is the gap between them. `pass_us` is the
    GPU's part of that."""

    phase: str
    n_tokens: int
    n_past: int
    whole_us: float
    pass_us: float
    dispatches: tuple[DispatchTime, ...]

    @property
    def dispatch_us(self) -> float:
        return sum(d.us for d in self.dispatches)

    @property
    def gap_us(self) -> float:
        """Between two dispatches, on average; negative where unlike dispatches overlap more than like ones."""
        return (self.whole_us - self.dispatch_us) / len(self.dispatches)

    @property
    def kernels(self) -> tuple[KernelTime, ...]:
        """By kernel, format and shape; what takes longest first."""
        groups: dict[tuple[str, str, str], list[DispatchTime]] = {}
        for d in self.dispatches:
            key = (d.kernel.template, str(dict(d.kernel.constants).get("format", "")), shape(d.kernel))
            groups.setdefault(key, []).append(d)
        times = [_kernel_time(*key, group, self.dispatch_us) for key, group in groups.items()]
        return tuple(sorted(times, key=lambda k: -k.us))


@dataclass(frozen=True)
class Profile:
    """A model's profile. Dispatches of one kernel are timed together, one behind another. `source`: by the GPU's
    "timestamps", or in "batches" from outside, where it has none."""

    adapter: str
    source: str
    peaks: Peaks
    phases: tuple[PhaseProfile, ...]

    def __str__(self) -> str:
        """As tables for a person."""
        return profile_text(self.report())

    def report(self) -> dict[str, Any]:
        """As JSON: times in microseconds, bytes, operations, and both as shares of the peaks."""
        return {
            "adapter": self.adapter,
            "source": self.source,
            "peaks": asdict(self.peaks),
            "phases": [self._phase(phase) for phase in self.phases],
        }

    def _phase(self, phase: PhaseProfile) -> dict[str, Any]:
        return {
            "phase": phase.phase,
            "n_tokens": phase.n_tokens,
            "n_past": phase.n_past,
            "dispatches": len(phase.dispatches),
            "whole_us": phase.whole_us,
            "pass_us": phase.pass_us,
            "dispatch_us": phase.dispatch_us,
            "gap_us": phase.gap_us,
            "kernels": [
                {
                    "kernel": k.kernel,
                    "format": k.format,
                    "shape": k.shape,
                    "count": k.count,
                    "us": k.us,
                    "share": k.share,
                    "bytes": k.bytes,
                    "flops": k.flops,
                    "of_peak_bytes": k.bytes_per_second / self.peaks.bytes_per_second,
                    "of_peak_flops": k.flops_per_second / self.peaks.flops_per_second,
                }
                for k in phase.kernels
            ],
        }


def _kernel_time(kernel: str, format: str, size: str, group: Sequence[DispatchTime], whole: float) -> KernelTime:
    us = sum(d.us for d in group)
    return KernelTime(
        kernel,
        format,
        size,
        len(group),
        us,
        us / whole if whole else 0.0,
        sum(d.cost.bytes for d in group),
        sum(d.cost.flops for d in group),
    )
