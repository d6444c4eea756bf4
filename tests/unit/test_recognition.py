"""When it is measured whether an adapter is a CPU and how many cores a GPU has, and what is made of that; the measuring
itself needs a browser."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.errors import KernelError
from llamaweb.ggml import GGMLType
from llamaweb.kernels import flash_attn, mul_mat, mul_mat_vec
from llamaweb.kernels.cache import Widths
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.library import attention_splits
from llamaweb.profile import DESKTOP, MOST_CORES, DeviceProfile
from tests.no_page import no_page

NAMELESS = DeviceProfile(name="unnamed adapter")
Measured = float | Exception


class Browser:
    """Whose adapters take `cost` times longer where there are barriers and have so many cores (errors are raised), and
    what it has stored. measured, counted: how often that was asked."""

    def __init__(self, cost: Measured = 1.5, cores: Measured = 20.0, stored: Any = None) -> None:
        self.cost, self.cores, self.stored = cost, cores, stored
        self.again: float | None = None  # where the cores are not the same when they are counted once more
        self.measured = self.counted = 0

    async def load(self, name: str) -> Any:
        return self.stored

    async def save(self, name: str, value: Any) -> None:
        self.stored = value

    async def barriers_cost(self, device: Any, pipelines: Any) -> float:
        self.measured += 1
        return self.found(self.cost)

    async def cores_seen(self, device: Any, pipelines: Any) -> tuple[float, float]:
        self.counted += 1
        return self.found(self.cores), self.found(self.again or self.cores)

    def found(self, value: Measured) -> float:
        if isinstance(value, Exception):
            # Modules that were imported without a page are forgotten: the module's KernelError is another one.
            raise self.module.KernelError(str(value))
        return value

    def recognizes(self, profile: DeviceProfile) -> DeviceProfile:
        with no_page(Array=None), pytest.MonkeyPatch.context() as patch:
            self.module: Any = importlib.import_module("llamaweb.gpu.recognition")
            patch.setattr(self.module, "load_json", self.load)
            patch.setattr(self.module, "save_json", self.save)
            patch.setattr(self.module, "barriers_cost", self.barriers_cost)
            patch.setattr(self.module, "cores_seen", self.cores_seen)
            device = SimpleNamespace(profile=profile)
            asyncio.run(self.module.recognize(device, None))
            found = device.profile
        return replace(profile, software=found.software, cores=found.cores)


@pytest.mark.parametrize("profile", [NAMELESS, replace(NAMELESS, subgroup_size=8), replace(NAMELESS, subgroup_size=4)])
@pytest.mark.parametrize(("cost", "software"), [(20.0, True), (6.0, True), (1.9, False), (0.9, False)])
def test_an_adapter_to_which_barriers_cost_much_is_a_cpu_whatever_its_name(
    profile: DeviceProfile, cost: float, software: bool
) -> None:
    browser = Browser(cost)
    assert browser.recognizes(profile).software == software
    assert browser.stored == {profile.key: {"software": True} if software else {"software": False, "cores": 16}}
    # It is measured once, and another adapter of the same browser for itself.
    assert browser.recognizes(profile).software == software and browser.measured == 1
    browser.recognizes(replace(profile, max_buffer_size=1 << 30))
    assert browser.measured == 2 and len(browser.stored) == 2


@pytest.mark.parametrize(("cost", "software"), [(3.5, True), (2.5, False)])
def test_what_is_not_seen_clearly_is_not_kept(cost: float, software: bool) -> None:
    browser = Browser(cost)
    for times in (1, 2):
        assert browser.recognizes(NAMELESS).software == software
        assert browser.measured == times and "software" not in (browser.stored or {}).get(NAMELESS.key, {})


def test_whether_it_is_a_cpu_is_not_measured_where_the_browser_tells_or_subgroups_are_wide() -> None:
    browser = Browser(20.0)
    assert browser.recognizes(replace(NAMELESS, software=True)).software
    assert browser.counted == 0 and browser.stored is None  # nor are a CPU's cores counted
    for lanes in (16, 32, 64):
        assert not browser.recognizes(replace(DESKTOP, subgroup_size=lanes)).software
    assert browser.measured == 0


@pytest.mark.parametrize(
    ("seen", "cores"), [(0.9, 1), (2.1, 2), (10.7, 8), (20.0, 16), (24.0, 32), (127.6, 128), (250.0, 128)]
)
def test_the_cores_of_a_gpu_are_counted_once(seen: float, cores: int) -> None:
    browser = Browser(cores=seen)
    for _ in range(2):
        assert browser.recognizes(DESKTOP) == replace(DESKTOP, cores=cores)
    assert browser.counted == 1 and browser.stored == {DESKTOP.key: {"cores": cores}}
    # What is kept of a device is found whatever was counted.
    assert replace(DESKTOP, cores=cores).key == DESKTOP.key


@pytest.mark.parametrize(("seen", "again", "cores"), [(8.0, 120.0, 128), (60.0, 20.0, 64)])
def test_two_counts_that_differ_are_not_kept(seen: float, again: float, cores: int) -> None:
    browser = Browser(cores=seen)
    browser.again = again
    for times in (1, 2):
        assert browser.recognizes(DESKTOP).cores == cores
        assert browser.counted == times and browser.stored is None


@pytest.mark.parametrize("kept", ["yes", None, True, {"software": "yes"}, {"software": 0.5}, []])
def test_what_is_damaged_is_measured_anew(kept: Any) -> None:
    browser = Browser(20.0, stored={NAMELESS.key: kept})
    assert browser.recognizes(NAMELESS).software and browser.measured == 1
    assert browser.stored[NAMELESS.key]["software"] is True


@pytest.mark.parametrize("stored", [[], "x", {DESKTOP.key: {"cores": 20}}, {DESKTOP.key: {"cores": True}}, {"": 1}])
def test_damaged_cores_are_counted_anew(stored: Any) -> None:
    browser = Browser(stored=stored)
    assert browser.recognizes(DESKTOP).cores == 16 and browser.counted == 1
    assert browser.stored[DESKTOP.key] == {"cores": 16}


def test_what_cannot_be_measured_is_taken_for_a_large_gpu_and_not_kept() -> None:
    broken = KernelError("It does not compile.")
    for browser in (Browser(cost=broken), Browser(cores=broken)):
        assert browser.recognizes(NAMELESS) == NAMELESS and browser.stored is None
    assert NAMELESS.cores == MOST_CORES


def test_defaults_fill_as_many_cores_as_there_are() -> None:
    few, many = replace(DESKTOP, cores=16), DESKTOP
    assert (attention_splits(32, few), attention_splits(32, many)) == (4, 16)
    assert (attention_splits(9, few), attention_splits(9, many)) == (4, 16)
    assert attention_splits(9, replace(DESKTOP, software=True)) == 1
    q4, n = FORMATS[GGMLType.Q4_0], 576
    assert mul_mat.default_tile(q4, n, n, 128, few, bits=16).tile_n == 64
    assert mul_mat.default_tile(q4, n, n, 128, many, bits=16).tile_n == 32
    rows = [mul_mat_vec.default(q4, n, 4096, "store", profile).rows for profile in (few, many)]
    assert rows == [8, 2]
    queries = [flash_attn.default(Widths(64, 64), 9, 128, profile).queries for profile in (few, many)]
    assert queries[0] > queries[1] and -(-128 // queries[0]) * 9 >= 1.5 * 16
