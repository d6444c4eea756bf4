"""A CPU is known by what it does, in a browser that does not say what its adapter is, and its cores are counted."""

from __future__ import annotations

import os
from typing import Any

from browser_page import Page

from llamaweb.host.browser import BrowserChoice
from llamaweb.profile import MOST_CORES
from tests.tiny import TinyLlama, tiny_llama


async def seen(model):
    """What barriers cost here and how many cores are seen, three times each; and what loads make of an adapter of which
    nothing is told: as it is, and where barriers are said to cost nothing."""
    from dataclasses import replace

    import llamaweb.gpu.device as module
    from llamaweb import Llama
    from llamaweb.files.storage import load_json, save_json
    from llamaweb.gpu import recognition
    from llamaweb.gpu.pipelines import Pipelines

    device = await module.Device.open()
    costs = [await recognition.barriers_cost(device, Pipelines(device)) for _ in range(3)]
    cores = [seen for _ in range(2) for seen in await recognition.cores_seen(device, Pipelines(device))]
    left = device.live_bytes
    device.close()

    told, measure, measured = module._profile, recognition.barriers_cost, 0

    async def counted(*args):
        nonlocal measured
        measured += 1
        return await measure(*args)

    async def nothing(*args):
        return 1.0

    async def load(tune):
        async with await Llama.load(model, n_ctx=64, tune=tune) as llm:
            await llm.tuned()
            profile = llm._executor.device.profile
            return profile.software, profile.cores, len(llm.trials)

    module._profile = lambda *args: replace(told(*args), name="unnamed adapter", software=False)
    try:
        recognition.barriers_cost = counted
        await save_json(recognition.FILE, {})
        as_it_is, kept = [await load("auto") for _ in range(2)], list((await load_json(recognition.FILE)).values())
        recognition.barriers_cost = nothing
        await save_json(recognition.FILE, {})
        as_a_gpu, counts = [await load("off") for _ in range(2)], list((await load_json(recognition.FILE)).values())
    finally:
        module._profile, recognition.barriers_cost = told, measure
        await save_json(recognition.FILE, {})
    return (costs, cores, left), (as_it_is, measured, kept), (as_a_gpu, counts)


def check_a_cpu(measured: Any, as_it_is: Any, as_a_gpu: Any) -> None:
    costs, cores, left = measured
    assert min(costs) > 3 and left == 0, costs  # 5 and more, unless the machine has much else to do
    # Never more than there are; a machine that has much else to do shows fewer.
    assert 0.9 < max(cores) < 1.5 * (os.cpu_count() or 1), cores
    profiles, times, kept = as_it_is
    assert profiles == [(True, MOST_CORES, 0), (True, MOST_CORES, 0)]
    # Once, where it was seen clearly, which a machine that has much else to do may have prevented.
    assert (times, kept) in ((1, [{"software": True}]), (2, [{"software": True}]), (2, []))
    (first, second), counts = as_a_gpu
    assert not first[0] and not second[0] and max(first[1], second[1]) < 2 * (os.cpu_count() or 1)
    # Two counts that differ are not kept, as on a machine that has much else to do.
    assert counts in ([{"software": False, "cores": second[1]}], [{"software": False}])


def test_barriers_cost_a_cpu_far_more_than_any_gpu_and_it_is_not_tuned(
    page: Page, browser_choice: BrowserChoice
) -> None:
    found = page.run(seen, model=tiny_llama(TinyLlama(n_layer=1, type="Q4_0")))
    if browser_choice.gpu:
        (costs, cores, left), (profiles, *_), _ = found
        assert max(costs) < 2 and left == 0, costs
        assert min(cores) > 2, cores
        assert not any(software for software, *_ in profiles)
    else:
        check_a_cpu(*found)
