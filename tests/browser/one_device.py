"""One device for all models of a page's tests, so that a kernel that many of them have is compiled once."""

from __future__ import annotations

from browser_page import Page


async def _keep_device():
    from llamaweb import loading
    from llamaweb.gpu.device import Device
    from llamaweb.gpu.pipelines import Pipelines

    device = await Device.open()
    profile, pipelines = device.profile, Pipelines(device)

    async def kept():
        device.profile = profile
        return device

    Device.open, Device.close = kept, lambda self: None
    loading.Pipelines = lambda device: pipelines


def keep_device(page: Page) -> None:
    """From now on, models of the page are loaded on one device, which stays open."""
    page.run(_keep_device)
