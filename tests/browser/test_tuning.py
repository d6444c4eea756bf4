"""Tuning in the page: variants are timed with the model's weights, only right ones are chosen, and they are kept."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from browser_page import Page

from llamaweb.errors import LlamaWebError
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from tests.families import EMBEDDERS, MODELS
from tests.tiny import TinyLlama, tiny_llama, tiny_model


@pytest.fixture(scope="module")
def model() -> bytes:
    return tiny_llama(TinyLlama(n_layer=1, type="Q4_0", n_ctx=600))


async def load(model, tune):
    from llamaweb import Llama

    async with await Llama.load(model, n_ctx=600, n_ubatch=4, tune=tune) as llm:
        async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=6):
            pass
        used = {
            tuple(dict(d.kernel.constants)[name] for name in ("k", "n", "workgroup", "lanes", "rows_per_group"))
            for d in llm.plan.phases["decode"].dispatches
            if d.kernel.template == "mul_mat_vec"
        }
        return llm.tokens, llm.trials, used


def test_full_tuning_times_every_product_and_changes_no_token(page: Page, model: bytes) -> None:
    plain, none, _ = page.run(load, model=model, tune="off")
    assert none == []

    async def tune_then_take_what_was_kept(model):
        from llamaweb import Llama
        from llamaweb.gpu import trials as module
        from llamaweb.kernels import tuner
        from llamaweb.kernels.mul_mat_vec import MulMatVec
        from llamaweb.planner import sizes

        def few(shape, profile, mode):  # each variant of each product is a shader to compile
            size = profile.subgroup_size
            if shape.op != "mul_mat_vec":
                found = kept(shape, profile, "auto")
                return [found[0], next((v for v in found if getattr(v, "kind", "") == "packed"), found[1])]
            packed = [v for v in kept(shape, profile, "full") if v.packed]
            return [kept(shape, profile, "auto")[0], MulMatVec(128, 2 * size or 16, 4, size), *packed[-1:]]

        async def run(tune):
            async with await Llama.load(model, n_ctx=600, n_ubatch=4, tune=tune) as llm:
                async for _ in llm.stream([5, 6, 7], temperature=0, max_tokens=6):
                    pass
                used = {}
                for d in [d for phase in llm.plan.phases.values() for d in phase.dispatches]:
                    shape = d.shape
                    if shape and shape.op != "mul_mat_vec":
                        used[shape] = d.kernel
                    elif shape and d in llm.plan.phases["decode"].dispatches:
                        c = dict(d.kernel.constants)
                        packed = d.kernel.template == "mul_mat_vec_packed"
                        used[shape] = MulMatVec(
                            c["workgroup"], c["lanes"], c["rows_per_group"], c["subgroup"], packed, c["blocks"]
                        )
                return llm.tokens, llm.trials, used

        kept, splits = module.candidates, sizes.attention_splits
        module.candidates = few
        sizes.attention_splits = lambda n_head, profile: 32  # of which most have no positions when they are checked
        try:
            tokens, trials, used = await run("full")
            # A later load takes the kept choices and times nothing, on a device that is worth tuning.
            worth = tuner.worth_tuning
            import llamaweb.loading

            llamaweb.loading.worth_tuning = lambda profile, mode: True
            try:
                again = await run("auto")
            finally:
                llamaweb.loading.worth_tuning = worth
        finally:
            module.candidates, sizes.attention_splits = kept, splits
        return tokens, trials, used, again

    tokens, trials, used, (again_tokens, again_trials, again_used) = page.run(tune_then_take_what_was_kept, model=model)
    assert tokens == again_tokens == plain
    assert {trial.shape for trial in trials} == set(used)
    assert {shape.op for shape in used} == {"mul_mat_vec", "mul_mat", "flash_attn_vec", "flash_attn"}
    assert {shape.splits for shape in used if shape.op == "flash_attn_vec"} == {1, 32}
    for op in ("mul_mat_vec", "mul_mat"):
        assert any(
            getattr(t.variant, "kind", "") == "packed" or getattr(t.variant, "packed", 0)
            for t in trials
            if t.shape.op == op
        )
    assert len(trials) >= 2 * len(used) and all(t.right and t.microseconds > 0 for t in trials)
    assert again_trials == [] and again_used == used


async def tune_few(model, broken, refused=False):
    """Full tuning with two variants of each product, of which `broken` does not compile (the default), and the few of
    attention that there is a default of. refused: the self-check finds that default to be wrong. Gives trials, and what
    was chosen of the products."""
    from llamaweb import Llama
    from llamaweb.gpu import executor
    from llamaweb.gpu import trials as module
    from llamaweb.kernels.mul_mat_vec import MulMatVec
    from llamaweb.kernels.tuner import choose

    def few(shape, profile, mode):
        found = kept(shape, profile, mode)
        if shape.op != "mul_mat_vec":
            return found[:1]
        size = profile.subgroup_size
        return [MulMatVec(1 << 20, size, 2, size) if broken else found[0], MulMatVec(128, 2 * size or 16, 4, size)]

    async def refusing(device, pipelines, kernels, plain, rooms):
        wrong = {kernel for kernel in kernels if refused and kernel.template == "mul_mat_vec" and kernel in plain}
        await pipelines.compile([plain[kernel] for kernel in wrong])
        return wrong | await checks(device, pipelines, [k for k in kernels if k not in wrong], plain, rooms)

    kept, module.candidates = module.candidates, few
    checks, executor.checked = executor.checked, refusing
    try:
        async with await Llama.load(model, n_ctx=64, n_ubatch=4, tune="full") as llm:
            return [t for t in llm.trials if t.shape.op == "mul_mat_vec"], choose(llm.trials)
    finally:
        module.candidates, executor.checked = kept, checks


def test_variants_that_agree_in_giving_nothing_are_not_taken_for_right(page: Page, model: bytes) -> None:
    weights = asyncio.run(read_header(BytesSource(model))).data_offset
    trials, chosen = page.run(tune_few, model=model[:weights] + bytes(len(model) - weights), broken=False)
    assert trials and not any(trial.right for trial in trials)
    assert not {trial.shape for trial in trials} & set(chosen)


def test_a_default_that_does_not_compile_is_left_out_of_tuning(page: Page, model: bytes) -> None:
    trials, chosen = page.run(tune_few, model=model, broken=True)
    assert trials and all(trial.right and not trial.default for trial in trials)
    assert {trial.shape: trial.variant for trial in trials}.items() <= chosen.items()


def test_a_default_that_the_self_check_refuses_is_left_out_of_tuning(page: Page, model: bytes) -> None:
    trials, chosen = page.run(tune_few, model=model, broken=False, refused=True)
    assert trials and all(trial.right and not trial.default for trial in trials)
    assert {trial.shape: trial.variant for trial in trials}.items() <= chosen.items()


DAMAGED = ["[1]", '{"kernels": "EDITION", "devices": {"ADAPTER": 3}}', '{"kernels": "EDITION", "devices": []}', "cut o"]


@pytest.mark.parametrize("storage", [*DAMAGED, None], ids=str)
def test_a_storage_that_is_damaged_or_refused_does_not_stop_tuning(
    page: Page, model: bytes, storage: str | None
) -> None:
    async def damage(text):
        from pyodide.code import run_js

        from llamaweb.gpu.device import Device
        from llamaweb.kernels.template import edition

        device = await Device.open()
        if text is None:
            run_js("navigator.storage.getDirectory = () => Promise.reject(new DOMException('no', 'SecurityError'))")
            return
        write = """async (text) => {
            const folder = await navigator.storage.getDirectory();
            const file = await (await folder.getFileHandle("llamaweb-tuning.json", { create: true })).createWritable();
            await file.write(text);
            await file.close();
        }"""
        await run_js(write)(text.replace("ADAPTER", device.profile.key).replace("EDITION", edition()))
        device.close()

    async def kept():
        from llamaweb.files.storage import load_json

        return await load_json("llamaweb-tuning.json")

    try:
        page.run(damage, text=storage)
        trials, _ = page.run(tune_few, model=model, broken=False)
        assert trials and all(trial.right for trial in trials)
        found = page.run(kept)
    finally:
        page.run("import js\ndel js.navigator.storage.getDirectory")  # the browser's own is the prototype's
    if storage is None:
        assert found is None
    else:
        (choices,) = found["devices"].values()
        assert {trial.shape.key for trial in trials} <= set(choices)


def test_what_was_kept_is_used_where_nothing_is_timed_and_only_for_the_same_kernels(page: Page, model: bytes) -> None:
    trials, chosen = page.run(tune_few, model=model, broken=True)  # the only other variant is chosen
    (variant,) = {chosen[trial.shape] for trial in trials}
    wanted = (variant.workgroup, variant.lanes, variant.rows)

    def used(tune):
        _, timed, found = page.run(load, model=model, tune=tune)
        assert timed == []
        return {v[2:] for v in found}

    assert used("auto") == {wanted} != used("off")

    async def another_release():
        from llamaweb.files.storage import load_json, save_json
        from llamaweb.gpu.tuning import FILE

        await save_json(FILE, {**await load_json(FILE), "kernels": "of another release"})

    page.run(another_release)
    assert used("auto") == used("off")


def test_an_unknown_mode_is_refused(page: Page, model: bytes) -> None:
    with pytest.raises(LlamaWebError, match="one of: auto, off, full"):
        page.run(load, model=model, tune="always")


async def embedded(data, tune):
    """A text's embedding, and the trials of the first two variants of each kernel."""
    from llamaweb import Llama
    from llamaweb.gpu import trials as module

    kept = module.candidates
    module.candidates = lambda shape, profile, mode: kept(shape, profile, mode)[:2]
    try:
        async with await Llama.load(data, n_ctx=32, tune=tune) as llm:
            return await llm.embed("the other king"), llm.trials
    finally:
        module.candidates = kept


def test_what_embeds_texts_is_tuned_and_gives_the_same(page: Page) -> None:
    data = tiny_model(EMBEDDERS["bert, each token"].spec)
    (plain, none), (found, trials) = (page.run(embedded, data=data, tune=tune) for tune in ("off", "full"))
    assert none == [] and all(t.right and t.microseconds > 0 for t in trials)
    assert {t.shape.op for t in trials} == {"mul_mat", "flash_attn"} and len(trials) == 2 * len(
        {t.shape for t in trials}
    )
    np.testing.assert_allclose(found, plain, atol=1e-4)


async def with_experts(data, tune, deaf=False):
    """An answer, the trials of three variants of experts' products, of which the last are packed.
    deaf: the packed ones compute nothing."""
    from dataclasses import replace

    from llamaweb import Llama
    from llamaweb.gpu import trials as module

    def few(shape, profile, mode):
        found = kept(shape, profile, mode)
        packed = [v for v in found if getattr(v, "packed", False) or getattr(v, "kind", "") == "packed"]
        return list(dict.fromkeys([*found[:2], *packed[-1:]])) if "id" in shape.op else []

    def step(self, d):
        c = dict(d.kernel.constants)
        if deaf and (c.get("chunk") or d.kernel.template == "mul_mat_id_packed"):
            d = replace(d, workgroups=(0, 1, 1))
        return made(self, d)

    kept, made = module.candidates, module.Trials._step
    module.candidates, module.Trials._step = few, step
    try:
        async with await Llama.load(data, n_ctx=128, n_ubatch=20, tune=tune) as llm:
            async for _ in llm.stream(range(5, 40), temperature=0, max_tokens=6):
                pass
            return llm.tokens, llm.trials
    finally:
        module.candidates, module.Trials._step = kept, made


def test_experts_are_tuned_with_routes_of_their_own(page: Page) -> None:
    data = tiny_model(MODELS["qwen3moe, Q6_K"].spec)
    plain, none = page.run(with_experts, data=data, tune="off")
    tokens, trials = page.run(with_experts, data=data, tune="full")
    assert none == [] and tokens == plain
    assert {t.shape.op for t in trials} == {"mul_mat_id", "mul_mat_id_tiles"}
    assert all(t.right and t.microseconds > 0 for t in trials)
    assert {t.shape.experts for t in trials} == {(2, 5)}
    _, trials = page.run(with_experts, data=data, tune="full", deaf=True)
    packed = [getattr(t.variant, "packed", False) or getattr(t.variant, "kind", "") == "packed" for t in trials]
    assert any(packed) and [t.right for t in trials] == [not each for each in packed]
