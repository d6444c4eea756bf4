"""Products on matrix units, which are played (`tests/matrix_units.py`): alone, and in whole models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamaweb.ggml import GGMLType
from llamaweb.kernels import mul_mat as tiles
from llamaweb.kernels.formats import FORMATS
from llamaweb.kernels.kernel import Kernel
from llamaweb.kernels.mul_mat import MulMat, mul_mat, quantize, takes_halves
from llamaweb.kernels.template import wgsl
from llamaweb.operations import experts
from llamaweb.operations.experts import TILE, ByExpert, mul_mat_id_tiles_kernel
from llamaweb.profile import DeviceProfile, SubgroupMatrix
from tests.checked import wrong
from tests.families import MODELS, TOKENS
from tests.naga import LAVAPIPE, Naga
from tests.plan_run import PlanRun, Runner
from tests.reference import nmse
from tests.tiny import tiny_model

F32, Q4_0, Q6_K = (FORMATS[GGMLType[name]] for name in ("F32", "Q4_0", "Q6_K"))
UNITS = {  # as adapters have them
    "nvidia": SubgroupMatrix("f16", "f32", 16, 16, 16),
    "intel": SubgroupMatrix("f16", "f32", 8, 16, 16),
    "apple": SubgroupMatrix("f32", "f32", 8, 8, 8),
}
DEVICES = {name: replace(LAVAPIPE, f16=True, subgroup_matrices=(unit,)) for name, unit in UNITS.items()}


def small(unit: SubgroupMatrix) -> list[tuple[MulMat, MulMat]]:
    """Variants of few matrices, which compile in a second or two: of a batch, and of pairs of tokens and experts."""
    m, n = unit.m, unit.n
    return [
        (MulMat(m, 4 * n, 2, 1, "matrix", 1), MulMat(TILE, 2 * n, 1, TILE // m, "matrix", 1)),
        (MulMat(2 * m, 2 * n, 1, 1, "matrix", 2), MulMat(TILE, 4 * n, 2, 2, "matrix", 2)),
    ]


def kernels(profile: DeviceProfile) -> list[Kernel]:
    """With each end that a product has, in odd numbers of rows, tokens and blocks, and with rows that end in one."""
    found = []
    for v, of_experts in small(profile.subgroup_matrices[0]):
        found += [
            mul_mat(Q4_0, 96, 100, 37, profile, epilogue="swiglu", scaled=(50,), bias=True, variant=v),
            mul_mat(Q6_K, 256, 37, 20, profile, epilogue="add", offset=3, stride=48, variant=v),
            mul_mat(F32, 96, 40, 19, profile, epilogue="silu", factor=0.5, columns=75, variant=v),
        ]
        of_all = [
            ByExpert(Q4_0, 96, 40, 5, 2, stacked=2, epilogue="geglu", scaled=True, bias=True),
            ByExpert(Q4_0, 96, 70, 4, 4, own=True, bias=True, epilogue="add", factor=0.5),
            ByExpert(Q4_0, 96, 40, 6, 3, stacked=2, scaled=True, piece=(60, 90)),
        ]
        found += [mul_mat_id_tiles_kernel(e, 37, profile, of_experts) for e in of_all]
    launches = [launch for each in found for launch in (each, each.plain) if launch]
    if takes_halves(profile):
        sizes = [(96, 37, 0), (256, 20, 0), (96, 19, 75), (384, 37, 0)]
        launches += [quantize(k, n_tokens, "f16", profile, columns) for k, n_tokens, columns in sizes]
    return [launch.kernel for launch in launches]


@pytest.mark.parametrize("profile", DEVICES.values(), ids=DEVICES)
def test_products_on_matrix_units_and_what_stands_in_for_them_equal_numpys(profile: DeviceProfile) -> None:
    asked = kernels(profile)
    assert {"mul_mat_matrix", "mul_mat_id_matrix"} < {kernel.template for kernel in asked}
    assert wrong(Naga(profile), asked) == []


BREAKS = {
    "halves": ("v.zw)", "v.xy)"),
    "mul_mat_matrix": ("let found = ", "let found = 1.01 * "),
    "mul_mat_id_matrix": ("let found = ", "let found = 1.01 * "),
}


def test_a_broken_kernel_of_matrix_units_is_found() -> None:
    def broken(kernel: Kernel) -> str:
        text, (before, after) = wgsl(kernel), BREAKS.get(kernel.template, ("", ""))
        assert before in text
        return text.replace(before, after) if before else text

    found, device = kernels(DEVICES["intel"]), Naga(DEVICES["intel"])
    halves = [kernel for kernel in found if kernel.template == "halves"]
    one = {kernel.template: kernel for kernel in reversed(found)}
    for template in ("mul_mat_matrix", "mul_mat_id_matrix"):
        assert wrong(device, [one[template], *halves], lambda k: wgsl(k) if k in halves else broken(k))
    assert wrong(device, [one["mul_mat"], *halves], broken)


@pytest.mark.parametrize(
    ("name", "device"),
    [("olmo2", "intel"), ("qwen3moe", "intel"), ("qwen2moe, Q4_0", "nvidia"), ("granitehybrid", "apple")],
)
def test_logits_of_models_on_matrix_units_equal_numpys(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_batch, of_pairs = small(UNITS[device])[0]
    monkeypatch.setattr(tiles, "default_tile", lambda *_: of_batch)
    monkeypatch.setattr(experts, "_default", lambda *_: of_pairs)
    model, data = MODELS[name], tiny_model(MODELS[name].spec)
    run = PlanRun(Runner(DEVICES[device]), data, n_ctx=32, n_ubatch=16, type_k="f32", type_v="f32")
    batch = {d.kernel.template for d in run.plan.phases["prefill"].dispatches}
    assert {"mul_mat_matrix", *(["halves"] if device != "apple" else [])} < batch
    assert ("mul_mat_id_matrix" in batch) == ("moe" in name)
    found = run.logits(TOKENS[:30], 25)
    expected = model.reference(data, kv_f16=False).logits(TOKENS[:30])[24:]
    assert max(nmse(a, b) for a, b in zip(found, expected, strict=True)) <= (1e-10 if device == "apple" else 1e-5)
