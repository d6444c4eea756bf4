"""The forward passes in numpy compute what llama.cpp does, for each family."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from llamaweb.architectures import supported
from tests.families import EMBEDDERS, FOLDER, MODELS, POSITIONS, TOKENS, embeddings
from tests.reference import nmse
from tests.tiny import tiny_model


@pytest.mark.parametrize("name", MODELS)
def test_logits_in_numpy_are_llama_cpps(name: str) -> None:
    model = MODELS[name]
    found = model.reference(tiny_model(model.spec), kv_f16=False).logits(TOKENS)[POSITIONS]
    assert nmse(found, np.load(model.golden)[name]) <= model.limit


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings_in_numpy_are_llama_cpps(name: str) -> None:
    model = EMBEDDERS[name]
    assert nmse(embeddings(tiny_model(model.spec)), np.load(model.golden)[name]) <= model.limit


def test_every_family_has_a_model_and_no_others_are_kept() -> None:
    known = MODELS | EMBEDDERS
    assert {model.spec.family for model in known.values()} == set(supported())
    kept = [(path.stem, name) for path in FOLDER.iterdir() for name in np.load(path)]
    assert sorted(kept) == sorted((model.spec.family, name) for name, model in known.items())


def test_the_readme_tells_every_family() -> None:
    table = (Path(__file__).parents[2] / "README.md").read_text().split("<!-- families -->")[1]
    _, *names = re.findall(r"^\| `([\w.-]+)` \|", table, re.MULTILINE)
    assert names == list(supported())
