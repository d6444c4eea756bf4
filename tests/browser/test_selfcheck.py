"""The self-check in the page: what computes something else than it should gives way, or ends the load."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser_page import Page
from kernel_bench import Bench

from llamaweb.errors import KernelError, KernelWarning
from tests.tiny import TinyLlama, tiny_llama


@pytest.fixture(scope="module")
def model() -> bytes:
    return tiny_llama(TinyLlama(n_layer=1, type="Q4_0", n_ctx=600))


async def load(model, breaks=(), templates=(), plain=False, forget=True, **options):
    """Loads and answers. `breaks` are made in the shaders of templates that use subgroups, or with `plain` in all.
    Gives tokens, warnings, and how many cases were run."""
    import warnings

    from llamaweb import Llama
    from llamaweb.files.storage import save_json
    from llamaweb.gpu import pipelines
    from llamaweb.gpu import selfcheck as check

    if forget:
        await save_json(check.FILE, None)
    kept, cases, ran = pipelines.wgsl, check.cases, 0

    def broken(kernel):
        text = kept(kernel)
        if kernel.template in templates and (plain or dict(kernel.constants).get("subgroup")):
            for before, after in breaks:
                text = text.replace(before, after)
        return text

    def counted(chain):
        nonlocal ran
        found = cases(chain)
        ran += len(found)
        return found

    pipelines.wgsl, check.cases = broken, counted
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            async with await Llama.load(model, n_ctx=600, n_ubatch=64, tune="off") as llm:
                async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=6):
                    pass
                peaks = llm._executor.device.peak_bytes, llm.plan.memory["peak"]
                return llm.tokens, [w.message for w in told], ran, peaks
    finally:
        pipelines.wgsl, check.cases = kept, cases


PRODUCT = {"breaks": [("acc[0] * scale", "acc[0] * scale * 1.5")], "templates": ["mul_mat_vec"]}


def test_a_broken_variant_gives_way_with_a_warning_and_the_answer_is_right(page: Page, model: bytes) -> None:
    tokens, told, ran, (peak, planned) = page.run(load, model=model)
    assert told == [] and ran > 10 and peak <= planned
    found, told, ran, _ = page.run(load, model=model, **PRODUCT)
    assert found == tokens and ran > 10
    (warning,) = told
    assert isinstance(warning, KernelWarning)
    assert re.match(
        r"The kernel mul_mat_vec \(.*\) computes wrong numbers here; its plain variant is used", str(warning)
    )
    # It is not tried again, but told.
    found, told, ran, _ = page.run(load, model=model, forget=False, **PRODUCT)
    assert found == tokens and ran == 0 and [str(w) for w in told] == [str(warning)]


def test_what_is_wrong_without_a_way_out_ends_the_load_in_a_sentence(page: Page, model: bytes, bench: Bench) -> None:
    for broken in (PRODUCT, {"breaks": [("inverseSqrt(", "1.01 * inverseSqrt(")], "templates": ["rms_norm"]}):
        with pytest.raises(KernelError) as raised:
            page.run(load, model=model, plain=True, **broken)
        text = str(raised.value)
        assert f"The kernel {broken['templates'][0]} (" in text and "answers would be gibberish" in text
        assert f"adapter {bench.profile.name}, driver: vendor " in text and "update the graphics driver" in text
        assert ("so does its plain variant" in text) == (broken is PRODUCT)


def test_what_was_found_is_kept_for_these_kernels_on_this_device(page: Page, model: bytes) -> None:
    async def change(release):
        from llamaweb.files.storage import load_json, save_json
        from llamaweb.gpu.selfcheck import FILE

        kept = await load_json(FILE)
        if release:
            await save_json(FILE, {**kept, "kernels": "of another release"})
        else:
            await save_json(FILE, {**kept, "devices": {f"another {name}": v for name, v in kept["devices"].items()}})

    def ran(**options: Any) -> int:
        tokens, told, count, _ = page.run(load, model=model, **options)
        assert len(tokens) == 6 and told == []
        return int(count)

    every = ran()
    assert every > 10 and ran(forget=False) == 0
    for release in (True, False):
        page.run(change, release=release)
        assert ran(forget=False) == every


@pytest.mark.parametrize("stored", [[1], {"kernels": "EDITION", "devices": 3}, {"kernels": "EDITION", "devices": {}}])
def test_a_storage_that_is_damaged_costs_another_check(page: Page, model: bytes, stored: Any) -> None:
    async def damage(stored):
        from llamaweb.files.storage import save_json
        from llamaweb.gpu.selfcheck import FILE
        from llamaweb.kernels.template import edition

        await save_json(FILE, {**stored, "kernels": edition()} if isinstance(stored, dict) else stored)

    page.run(damage, stored=stored)
    _, told, ran, _ = page.run(load, model=model, forget=False)
    assert told == [] and ran > 10
