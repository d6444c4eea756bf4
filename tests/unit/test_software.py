"""When it is measured whether an adapter is a CPU, and what is made of that; the measuring itself needs a browser."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.errors import KernelError
from llamaweb.profile import DESKTOP, DeviceProfile
from tests.no_page import no_page

NAMELESS = DeviceProfile(name="unnamed adapter")


class Browser:
    """Whose adapters take `cost` times longer where there are barriers (an error is raised), and what it has stored."""

    def __init__(self, cost: float | Exception, stored: Any = None) -> None:
        self.cost, self.stored, self.measured = cost, stored, 0

    async def load(self, name: str) -> Any:
        return self.stored

    async def save(self, name: str, value: Any) -> None:
        self.stored = value

    async def barriers_cost(self, device: Any, pipelines: Any) -> float:
        self.measured += 1
        if isinstance(self.cost, Exception):
            raise self.cost
        return self.cost

    def recognizes(self, profile: DeviceProfile) -> DeviceProfile:
        with no_page(Array=None), pytest.MonkeyPatch.context() as patch:
            module = importlib.import_module("llamaweb.gpu.software")
            patch.setattr(module, "load_json", self.load)
            patch.setattr(module, "save_json", self.save)
            patch.setattr(module, "barriers_cost", self.barriers_cost)
            # Its own KernelError is another one: modules that were imported without a page are forgotten.
            if isinstance(self.cost, Exception):
                self.cost = module.KernelError(str(self.cost))
            device = SimpleNamespace(profile=profile)
            asyncio.run(module.recognize(device, None))
            found = device.profile
        return replace(profile, software=found.software)


@pytest.mark.parametrize("profile", [NAMELESS, replace(NAMELESS, subgroup_size=8), replace(NAMELESS, subgroup_size=4)])
@pytest.mark.parametrize(("cost", "software"), [(20.0, True), (6.0, True), (1.9, False), (0.9, False)])
def test_an_adapter_to_which_barriers_cost_much_is_a_cpu_whatever_its_name(
    profile: DeviceProfile, cost: float, software: bool
) -> None:
    browser = Browser(cost)
    assert browser.recognizes(profile).software == software
    assert browser.stored == {profile.key: software}
    # It is measured once, and another adapter of the same browser for itself.
    assert browser.recognizes(profile).software == software and browser.measured == 1
    browser.recognizes(replace(profile, max_buffer_size=1 << 30))
    assert browser.measured == 2 and len(browser.stored) == 2


@pytest.mark.parametrize(("cost", "software"), [(3.5, True), (2.5, False)])
def test_what_is_not_seen_clearly_is_not_kept(cost: float, software: bool) -> None:
    browser = Browser(cost)
    for times in (1, 2):
        assert browser.recognizes(NAMELESS).software == software
        assert browser.measured == times and browser.stored is None


def test_nothing_is_measured_where_the_browser_tells_or_subgroups_are_wide() -> None:
    browser = Browser(20.0)
    assert browser.recognizes(replace(NAMELESS, software=True)).software
    for lanes in (16, 32, 64):
        assert not browser.recognizes(replace(DESKTOP, subgroup_size=lanes)).software
    assert browser.measured == 0 and browser.stored is None


@pytest.mark.parametrize("stored", [None, [], "x", {NAMELESS.key: "yes"}, {NAMELESS.key: None}])
def test_what_is_damaged_is_measured_anew(stored: Any) -> None:
    browser = Browser(20.0, stored)
    assert browser.recognizes(NAMELESS).software and browser.measured == 1


def test_what_cannot_be_measured_is_taken_for_a_gpu_and_not_kept() -> None:
    browser = Browser(KernelError("It does not compile."))
    assert not browser.recognizes(NAMELESS).software and browser.stored is None
