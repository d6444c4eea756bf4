"""A CPU is known by what it does, in a browser that does not say what its adapter is, and its cores are counted."""

from __future__ import annotations

import os
from typing import Any

from browser_page import Page

from llamaweb.host.browser import BrowserChoice
from llamaweb.profile import MOST_CORES
from tests.tiny import TinyLlama, tiny_llama

# What barriers are said to cost, load by load: a CPU on a busy machine, the same seen clearly, and a GPU.
SAID = {"cpu in doubt": 3.4, "cpu": 7.0, "cpu again": 7.0, "gpu": 1.0, "gpu again": 1.0}


async def seen(model, said):
    """What barriers cost here and how many cores are seen, some times each; and what loads make of an adapter of which
    nothing is told: by what barriers cost it as measured here, and by what they are said to cost."""
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

    told, measure = module._profile, recognition.barriers_cost

    async def load(cost, tune):
        """Whether it is a software adapter, its cores, trials, measurements, and what is kept of that."""
        measured = 0

        async def barriers_cost(*args):
            nonlocal measured
            measured += 1
            return cost

        recognition.barriers_cost = barriers_cost
        async with await Llama.load(model, n_ctx=64, tune=tune) as llm:
            await llm.tuned()
            profile = llm._executor.device.profile
            found = profile.software, profile.cores, len(llm.trials)
        return *found, measured, list((await load_json(recognition.FILE)).values())

    module._profile = lambda *args: replace(told(*args), name="unnamed adapter", software=False)
    try:
        await save_json(recognition.FILE, {})
        measured = await load(max(costs), "auto" if max(costs) > 3 else "off")
        loads = {}
        for name, cost in said.items():
            if name in ("cpu in doubt", "gpu"):
                await save_json(recognition.FILE, {})
            loads[name] = await load(cost, "auto" if name.startswith("cpu") else "off")
    finally:
        module._profile, recognition.barriers_cost = told, measure
        await save_json(recognition.FILE, {})
    return (costs, cores, left), measured, loads


def check_loads(loads: dict[str, Any]) -> None:
    """That what was seen clearly is kept, and what was in doubt or differed is measured again."""
    assert loads["cpu in doubt"] == (True, MOST_CORES, 0, 1, [])
    assert loads["cpu"] == (True, MOST_CORES, 0, 1, [{"software": True}])
    assert loads["cpu again"] == (True, MOST_CORES, 0, 0, [{"software": True}])
    first, second = loads["gpu"], loads["gpu again"]
    assert not first[0] and not second[0] and (first[3], second[3]) == (1, 0)
    for _, cores, *_, kept in (first, second):  # two counts that differ are not kept, as on a busy machine
        assert kept in ([{"software": False, "cores": cores}], [{"software": False}])


def check_a_cpu(costs: list[float], cores: list[float], left: int) -> None:
    assert max(costs) > 3 and left == 0, costs  # 5 and more, and less where the machine has much else to do
    # Never more than there are; a machine that has much else to do shows fewer.
    assert 0.9 < max(cores) < 1.5 * (os.cpu_count() or 1), cores


def test_barriers_cost_a_cpu_far_more_than_any_gpu_and_it_is_not_tuned(
    page: Page, browser_choice: BrowserChoice
) -> None:
    of_device, (software, _, trials, *_), loads = page.run(
        seen, model=tiny_llama(TinyLlama(n_layer=1, type="Q4_0")), said=SAID
    )
    check_loads(loads)
    assert trials == 0
    if browser_choice.gpu:
        costs, cores, left = of_device
        assert max(costs) < 2 and left == 0, costs
        assert min(cores) > 2, cores
        assert not software
    else:
        check_a_cpu(*of_device)
        assert software
