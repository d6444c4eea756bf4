"""What tells devices apart, and what is known of one that names itself not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.kernels.tuner import worth_tuning
from llamaweb.profile import DESKTOP, DeviceProfile, SubgroupMatrix
from tests.no_page import no_page

LIMITS = {"maxBufferSize": 1 << 30, "maxStorageBufferBindingSize": 1 << 27, "maxStorageBuffersPerShaderStage": 32}
LIMITS |= {"maxComputeInvocationsPerWorkgroup": 1024, "maxComputeWorkgroupStorageSize": 32768}
NAMELESS = {"vendor": "", "architecture": "", "description": ""}


def profile(info: dict[str, Any], **adapter: Any) -> DeviceProfile:
    gpu = SimpleNamespace(wgslLanguageFeatures=set())
    with no_page(navigator=SimpleNamespace(gpu=gpu)):
        from llamaweb.gpu.device import _profile

        return _profile(SimpleNamespace(info=SimpleNamespace(**info), **adapter), LIMITS, ["shader-f16"])


def test_devices_without_a_name_are_told_apart_by_each_limit_and_feature() -> None:
    others = [
        replace(DESKTOP, **{field.name: value})
        for field in fields(DESKTOP)
        for now in [getattr(DESKTOP, field.name)]
        for value in [not now if isinstance(now, bool) else now + 1 if isinstance(now, int) else "other"]
        if field.name not in ("subgroup_matrices", "cores")  # what was counted is nothing that an adapter tells
    ]
    others.append(replace(DESKTOP, subgroup_matrices=(SubgroupMatrix("f16", "f32", 16, 16, 16),)))
    assert len({other.key for other in [DESKTOP, *others]}) == len(others) + 1


def test_a_devices_key_is_the_same_from_run_to_run() -> None:
    code = "from llamaweb.profile import DESKTOP; print(DESKTOP.key)"
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == replace(DESKTOP).key


@pytest.mark.parametrize("where", ["info", "adapter"])
def test_a_software_adapter_without_a_name_is_a_cpu_and_not_tuned(where: str) -> None:
    fallback = {"isFallbackAdapter": True}
    found = profile(NAMELESS | fallback) if where == "info" else profile(NAMELESS, **fallback)
    assert found.software and not worth_tuning(found, "auto") and worth_tuning(found, "full")
    assert found.name == "unnamed software adapter"


def test_a_gpu_without_a_name_is_none() -> None:
    found = profile(NAMELESS | {"isFallbackAdapter": False})
    assert not found.software and worth_tuning(found, "auto")
    assert found.name == "unnamed adapter"
