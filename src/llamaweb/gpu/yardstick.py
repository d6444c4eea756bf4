"""What is measured beside our own figures: the least that decoding and loading can be, each a script of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamaweb.gpu.device import Device
from llamaweb.javascript import js_file, js_object, measured


async def floor(shape: Mapping[str, int]) -> dict[str, Any] | None:
    """A token of bare products in a model's shape (floor.js): {ms_per_token, per_second, dispatches, bytes}; None
    without subgroups."""
    found = await measured("The yardstick", js_file("gpu/floor.js")(js_object(dict(shape))))
    return found.to_py() if found else None


async def plain_load(urls: Sequence[str]) -> float:
    """Milliseconds that one loop of fetch and writeBuffer takes for the same files (plain_load.js)."""
    device = await Device.open()
    try:
        loop = js_file("gpu/plain_load.js")(device.handle)
        return float(await measured("A plain loop of fetch and writeBuffer", loop(js_object(list(urls)))))
    finally:
        device.close()
