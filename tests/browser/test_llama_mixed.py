"""Files of several formats, quantized by llama.cpp, in the page against its logits (tests/golden/make_mixed_golden.py).

llama.cpp on a CPU rounds activations to 8 bits for quantized weights; "exact" are its logits for the same weights as
float32, which are what a float32 engine has to give, and "file" those for the file as it is.
"""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path

import numpy as np
import pytest
from browser_page import Page
from test_llama_tiny import forward

from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from tests.reference import nmse

pytestmark = pytest.mark.usefixtures("one_device")
GOLDEN = Path(__file__).parents[1] / "golden"
LOGITS = np.load(GOLDEN / "mixed.npz")
TOKENS = LOGITS["tokens"].tolist()
MIXES = [name for name in LOGITS if name != "tokens" and not name.endswith(".file")]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with tarfile.open(GOLDEN / "mixed.tar.xz") as archive:
        return {member.name.removesuffix(".gguf"): archive.extractfile(member).read() for member in archive}


def formats(data: bytes) -> list[set[str]]:
    """The formats of each layer's matrices, and last those of the embeddings and the output."""
    found: dict[str, set[str]] = {}
    for name, tensor in asyncio.run(read_header(BytesSource(data))).tensors.items():
        if len(tensor.shape) == 2:
            found.setdefault(name.rpartition(".attn")[0] or name.rpartition(".ffn")[0], set()).add(tensor.type.name)
    return [found[part] for part in sorted(found, reverse=True)]


@pytest.mark.parametrize("mix", MIXES)
def test_logits_of_a_mixed_file_are_llama_cpps(page: Page, files: dict[str, bytes], mix: str) -> None:
    assert len(set().union(*formats(files[mix]))) >= 2
    exact, rounded = LOGITS[mix], LOGITS[mix + ".file"]
    n_prompt = len(TOKENS) - len(exact) + 1
    found, _ = page.run(forward, data=files[mix], tokens=TOKENS, n_prompt=n_prompt, n_ubatch=16, subgroups=True)
    assert found.argmax(axis=-1).tolist() == exact.argmax(axis=-1).tolist()
    errors = [nmse(a, b) for a, b in zip(found, exact, strict=True)]
    assert max(errors) <= 1e-6
    assert nmse(found, rounded) <= 1e-3


def test_layers_of_one_file_have_different_formats(files: dict[str, bytes]) -> None:
    for mix in ("Q4_K_M", "Q5_K_M"):
        first, last, _ = formats(files[mix])
        assert first != last
