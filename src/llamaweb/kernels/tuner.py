"""Which variants of a kernel are worth timing on a device, and the choice among them. Pure; `gpu.tuning` times them.

A choice is kept by adapter and by what it was made for: the kernel, the format and the shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from llamaweb.kernels.cache import CacheFormat, Widths, width
from llamaweb.kernels.kernel import Variant
from llamaweb.profile import DeviceProfile

GAIN = 0.97  # a variant is taken if it needs less than this share of the default's time: timings have noise
NEAR = 1.5  # times the fastest's time: more is not noise
CHECKED_TOKENS = 67  # of a batch, at least, or one after another, whose result is compared with the plain variant's
CHECKED_AT_ONCE = 8  # … of which so many are read at a time
MODES = ("auto", "off", "full")


@dataclass(frozen=True)
class Shape:
    """What a kernel is tuned for. op: "mul_mat_vec", or "mul_mat" for batches of `n_tokens`, where W is (k, n) in
    ggml's order; "mul_mat_id" and "mul_mat_id_tiles", the same with so many `experts` of a token's, of all;
    "flash_attn_vec", of one token in `splits`, and "flash_attn", of a batch: n heads of k numbers, `v` of their values,
    `group` of them with the same key-value head, with a cache in `format`. `norm`: with the rms_norm fused; `post`:
    with a norm and an addition before that. precision: of PRECISIONS, what a batch's products may round."""

    op: str
    format: str
    k: int
    n: int
    epilogue: str
    norm: bool = False
    post: bool = False
    n_tokens: int = 1
    group: int = 1
    splits: int = 1
    precision: str = "high"
    v: int = 0
    experts: tuple[int, int] = (0, 0)

    @property
    def of_any_batch(self) -> Shape:
        """The same for every number of tokens from two on."""
        return replace(self, n_tokens=min(self.n_tokens, 2))

    @property
    def widths(self) -> Widths:
        """Of the cache's rows."""
        return Widths(width(self.k), width(self.v))

    @property
    def key(self) -> str:
        norms = f"{' norm' if self.norm else ''}{' post' if self.post else ''}"
        batch = f" x{self.n_tokens}" if self.n_tokens > 1 else ""
        group = f" {self.group} a key" if self.group > 1 else ""
        splits = f" in {self.splits} splits" if self.splits > 1 else ""
        fast = "" if self.precision == "high" else f" {self.precision}"
        values = f" values of {self.v}" if self.v not in (0, self.k) else ""
        experts = " {} of {} experts".format(*self.experts) if self.experts[1] else ""
        what = f"{self.op} {self.format} {self.k}x{self.n}{experts}{batch}"
        return f"{what} {self.epilogue}{norms}{group}{values}{splits}{fast}"


def cached(k: CacheFormat, v: CacheFormat | None) -> str:
    """The `format` of attention: those of its keys and values."""
    return f"{k.name}/{v.name}" if v else k.name


Choices = Mapping[Shape, Variant]


@dataclass(frozen=True)
class Trial:
    """One variant timed on the device. right: its result was the plain variant's."""

    shape: Shape
    variant: Variant
    microseconds: float
    right: bool
    default: bool


def worth_tuning(profile: DeviceProfile, mode: str) -> bool:
    """On a software adapter variants differ little and trying them takes long: only "full" does."""
    return mode == "full" or (mode == "auto" and not profile.software)


def finalists(trials: Sequence[Trial], count: int) -> list[list[int]]:
    """The places of those worth another timing, shape by shape: the default and the fastest `count` right ones, but for
    what is too slow to become the fastest."""
    by_shape: dict[Shape, list[int]] = {}
    for i, trial in enumerate(trials):
        by_shape.setdefault(trial.shape, []).append(i)
    found = []
    for places in by_shape.values():
        fastest = sorted((i for i in places if trials[i].right), key=lambda i: trials[i].microseconds)[:count]
        near = [i for i in fastest if trials[i].microseconds <= NEAR * trials[fastest[0]].microseconds]
        found.append(sorted({*near, *(i for i in places if trials[i].default)}))
    return found


def choose(trials: Iterable[Trial]) -> dict[Shape, Variant]:
    """The fastest right variant of each shape, or the default if that is right and slower by no more than noise. A
    shape of which nothing was right has no choice; a default that does not compile was not even tried."""
    right: dict[Shape, list[Trial]] = {}
    for trial in trials:
        if trial.right:
            right.setdefault(trial.shape, []).append(trial)
    chosen = {}
    for shape, tried in right.items():
        best = min(tried, key=lambda t: t.microseconds)
        default = next((t for t in tried if t.default), best)
        chosen[shape] = (best if best.microseconds < GAIN * default.microseconds else default).variant
    return chosen


def checked_tokens(n_tokens: int, tile: int) -> int:
    """Of a batch of `n_tokens`: more than a tile of them, so that a whole one and the beginning of another are seen."""
    return min(n_tokens, max(CHECKED_TOKENS, tile + 3))


def alike(error: float, norm: float, limit: float) -> bool:
    """Whether a sum of squared errors is within `limit` of the sum of squares that it should be small beside. Where
    that is zero, nothing was compared: two kernels that compute nothing are equal, and neither is right."""
    return 0 < norm < math.inf and error <= limit * norm


def to_json(choices: Choices) -> dict[str, Any]:
    return {shape.key: asdict(variant) for shape, variant in choices.items()}
