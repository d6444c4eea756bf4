"""Wrong values of each family's hyperparameters: what the header says is planned, or refused in a sentence."""

from __future__ import annotations

import asyncio
import math
from binascii import crc32
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llamaweb.errors import LlamaWebError
from llamaweb.model.fused import unfused
from llamaweb.model.gguf_file import GGUFFile, read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from llamaweb.profile import DESKTOP
from llamaweb.rope import phases
from tests.families import EMBEDDERS, MODELS
from tests.tiny import tiny_model

# None: the key is missing. A key gets two of them, others in each family.
WRONG: list[Any] = [None, 0, 1, 2, 3, 5, 7, 33, 255, 4096, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -(2**31)]
WRONG += [0.5, -0.0, math.nan, math.inf, -math.inf, 1e-40, 1e38, True, False, "", "neox", "yarn"]
WRONG += [np.array(each, np.int64) for each in ([], [1], [0, 0, 0], [-1, -1, -1], [2**31] * 3, [8, 0, 8], [0] * 1000)]
WRONG += [np.array([math.nan] * 3, np.float32), np.ones(3, bool)]
TRIED = 2
MOST_SAID = 500  # characters

FAMILIES = {model.spec.family: model for model in reversed([*MODELS.values(), *EMBEDDERS.values()])}


def header(family: str) -> GGUFFile:
    return unfused(asyncio.run(read_header(BytesSource(tiny_model(FAMILIES[family].spec)))))


def planned(file: GGUFFile) -> None:
    """A plan, and the angles of its rotations."""
    for table in plan_model(file, DESKTOP, n_ctx=64, n_ubatch=16).rope_tables:
        factors = np.ones(table.rope.n_dims // 2, np.float32) if table.rope.factors else None
        with np.errstate(all="raise", under="ignore"):
            phases(table.rope, factors)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_wrong_hyperparameter_is_planned_or_refused_in_a_sentence(family: str) -> None:
    file = header(family)
    keys = [key for key in file.metadata if key.startswith(f"{family}.")]
    assert len(keys) > 5
    for key in keys:
        first = crc32(key.encode())
        for i in range(TRIED):
            wrong = WRONG[(first + i * 17) % len(WRONG)]
            metadata = {**file.metadata, key: wrong} if wrong is not None else {**file.metadata}
            if wrong is None:
                del metadata[key]
            try:
                planned(replace(file, metadata=metadata))
            except LlamaWebError as error:
                said = str(error)
                assert len(said) <= MOST_SAID and "\n" not in said and said.endswith("."), (key, wrong, said)


@pytest.mark.parametrize("wrong", [3, "yes", [True, False, True]])
def test_a_flag_is_true_or_false(wrong: Any) -> None:
    file = header("deepseek2")
    wrong = np.array(wrong) if isinstance(wrong, list) else wrong
    broken = replace(file, metadata={**file.metadata, "deepseek2.expert_weights_norm": wrong})
    with pytest.raises(LlamaWebError, match=r"^deepseek2.expert_weights_norm "):
        plan_model(broken, DESKTOP, n_ctx=64)


def test_no_heads_of_keys_are_refused() -> None:
    file = header("gemma4")
    broken = replace(file, metadata={**file.metadata, "gemma4.attention.head_count_kv": 0})
    with pytest.raises(LlamaWebError, match="do not divide into 0 key-value heads"):
        plan_model(broken, DESKTOP, n_ctx=64)


@pytest.mark.parametrize(
    "family", ["gemma3", "gemma3n", "gemma4", "gemma-embedding", "modern-bert", "olmo2", "gpt-oss"]
)
@pytest.mark.parametrize("base", [0, 1e-40, 1.0, -5.0])
def test_a_base_of_which_no_angles_come_is_refused(family: str, base: float) -> None:
    file = header(family)
    broken = replace(file, metadata={**file.metadata, f"{family}.rope.freq_base_swa": base})
    with pytest.raises(LlamaWebError, match=f"^{family}.rope.freq_base_swa is "):
        plan_model(broken, DESKTOP, n_ctx=64)
