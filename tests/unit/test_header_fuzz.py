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
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import BytesSource
from llamaweb.planner import plan_model
from llamaweb.profile import DESKTOP
from tests.families import MODELS
from tests.tiny import tiny_model

# None: the key is missing. A key gets two of them, others in each family.
WRONG: list[Any] = [None, 0, 1, 2, 3, 5, 7, 33, 255, 4096, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -(2**31)]
WRONG += [0.5, -0.0, math.nan, math.inf, -math.inf, 1e-40, 1e38, True, False, "", "neox", "yarn"]
WRONG += [np.array(each, np.int64) for each in ([], [1], [0, 0, 0], [-1, -1, -1], [2**31] * 3, [8, 0, 8], [0] * 1000)]
WRONG += [np.array([math.nan] * 3, np.float32), np.ones(3, bool)]
TRIED = 2
MOST_SAID = 500  # characters

FAMILIES = {model.spec.family: name for name, model in reversed(MODELS.items())}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_wrong_hyperparameter_is_planned_or_refused_in_a_sentence(family: str) -> None:
    file = asyncio.run(read_header(BytesSource(tiny_model(MODELS[FAMILIES[family]].spec))))
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
                plan_model(replace(file, metadata=metadata), DESKTOP, n_ctx=64, n_ubatch=16)
            except LlamaWebError as error:
                said = str(error)
                assert len(said) <= MOST_SAID and "\n" not in said and said.endswith("."), (key, wrong, said)


@pytest.mark.parametrize("wrong", [3, "yes", [True, False, True]])
def test_a_flag_is_true_or_false(wrong: Any) -> None:
    file = asyncio.run(read_header(BytesSource(tiny_model(MODELS[FAMILIES["deepseek2"]].spec))))
    wrong = np.array(wrong) if isinstance(wrong, list) else wrong
    broken = replace(file, metadata={**file.metadata, "deepseek2.expert_weights_norm": wrong})
    with pytest.raises(LlamaWebError, match=r"^deepseek2.expert_weights_norm "):
        plan_model(broken, DESKTOP, n_ctx=64)


def test_no_heads_of_keys_are_refused() -> None:
    file = asyncio.run(read_header(BytesSource(tiny_model(MODELS["gemma4"].spec))))
    broken = replace(file, metadata={**file.metadata, "gemma4.attention.head_count_kv": 0})
    with pytest.raises(LlamaWebError, match="do not divide into 0 key-value heads"):
        plan_model(broken, DESKTOP, n_ctx=64)
