"""A plan and its kernels' texts are the same wherever they are made, to the letter."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from dataclasses import replace

from browser_page import Page

from llamaweb.profile import DESKTOP, DeviceProfile, SubgroupMatrix
from tests.headers import WIDE, gemma3_header, llama_header

GEMMA3 = {"n_layer": 6, "n_embd": 256, "n_head": 4, "n_head_kv": 1, "n_ff": 512, "n_vocab": 300, "head_dim": 64}
MATRICES = replace(DESKTOP, f16=True, subgroup_matrices=(SubgroupMatrix("f16", "f32", 16, 16, 16),))
# Headers, devices and options: both families, codebooks, split weights and caches, rings, what is left unfused.
MODELS = [
    (llama_header(**WIDE, type="Q4_K", bias=True), DESKTOP, {"logits_all": True}),
    (llama_header(**WIDE, type="IQ2_XS", types={"*ffn*": "IQ3_S"}, tied=False), MATRICES, {"precision": "fast"}),
    (
        llama_header(**WIDE),
        replace(DeviceProfile(), max_storage_buffer_binding_size=40000),
        {"n_ctx": 300, "n_ubatch": 8},
    ),
    (gemma3_header(**GEMMA3, window=32, type="Q5_0", bias=True), DESKTOP, {"n_ctx": 0, "memory_budget": 5_000_000}),
    (gemma3_header(**GEMMA3, window=32, type="IQ4_XS"), DeviceProfile(), {"unfused": ["norm", "siblings"]}),
]


def digests(models):
    """Of each model, how many letters its plan and kernels have, and their sha256."""
    import hashlib

    from llamaweb.kernels.template import wgsl
    from llamaweb.planner import plan_model

    found = []
    for file, profile, options in models:
        plan = plan_model(file, profile, **options)
        kernels = dict.fromkeys(d.kernel for phase in plan.phases.values() for d in phase.dispatches)
        text = "\n".join([repr(plan), repr(plan.memory), *map(wgsl, kernels)])
        found.append((len(text), hashlib.sha256(text.encode()).hexdigest()))
    return found


def in_cpython(hash_seed: int) -> list[tuple[int, str]]:
    """In a process of its own, where texts have other hashes."""
    source = inspect.getsource(digests)
    source += (
        "import pickle, sys\nmodels = pickle.load(sys.stdin.buffer)\npickle.dump(digests(models), sys.stdout.buffer)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        input=pickle.dumps(MODELS),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


def test_a_plan_is_the_same_to_the_letter_in_the_page_and_in_cpython_whatever_hashes_texts_have(page: Page) -> None:
    here = in_cpython(1)
    assert len(set(here)) == len(MODELS) and all(letters > 30_000 for letters, _ in here)
    assert in_cpython(2) == here
    assert [tuple(each) for each in page.run(digests, models=MODELS)] == here
