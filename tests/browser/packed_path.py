"""The kernels that devices with the packed integer dot use, on the software adapter, which by itself takes others."""

from __future__ import annotations


async def load_packed(url, **options):  # type: ignore[no-untyped-def]
    """For `Page.run`: loads a model as `packed`, and gives the bits of activations in its batches, by phase.

    Its device says nothing of subgroups or of being a software adapter. The tile is one that it computes quickly.
    """
    import builtins
    from dataclasses import replace

    from llamaweb import Llama, loading
    from llamaweb.gpu.device import Device
    from llamaweb.kernels import mul_mat

    opened, default_tile, recognize = Device.open, mul_mat.default_tile, loading.recognize

    async def open_as_a_gpu():
        device = await opened()
        device.profile = replace(device.profile, subgroup_size=0, software=False)
        return device

    async def as_it_says(device, pipelines): ...

    def small_tile(*args, **kwargs):
        tile = default_tile(*args, **kwargs)
        return replace(tile, tile_m=16, tile_n=32, wx=4, wy=8, depth=1) if tile.kind == "packed" else tile

    Device.open, mul_mat.default_tile, loading.recognize = open_as_a_gpu, small_tile, as_it_says
    try:
        builtins.packed = llm = await Llama.load(url, tune="off", **options)
    finally:
        Device.open, mul_mat.default_tile, loading.recognize = opened, default_tile, recognize
    products = [
        (name, dict(d.kernel.constants).get("bits", 32))
        for name, phase in llm.plan.phases.items()
        for d in phase.dispatches
        if d.kernel.template in ("mul_mat", "mul_mat_packed")
    ]
    return {name: {bits for phase, bits in products if phase == name} for name, _ in products}


async def close_packed():  # type: ignore[no-untyped-def]
    """For `Page.run`: gives its memory back."""
    import builtins

    await builtins.packed.close()
    del builtins.packed
