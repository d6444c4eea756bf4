"""The types of ggml's tensors: those of llama.cpp and of gguf, no more and no less, and what is in their blocks."""

from __future__ import annotations

import json

import gguf
import pytest

from llamaweb.ggml import GGML_QUANT_SIZES, GGMLType, dequantize
from llamaweb.kernels.formats import FORMATS
from tests.golden.make_ggml_golden import PATH, blocks, sha256

GOLDEN = json.loads(PATH.read_text())
NO_WEIGHTS = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}  # the last two are of activations


def test_types_are_those_of_llama_cpp() -> None:
    found = {type.name: [type.value, *GGML_QUANT_SIZES[type]] for type in GGMLType}
    assert found == {**GOLDEN["types"], "Q8_1": [9, 32, 40]}  # gguf's size, of no tensor in a file


def test_types_that_gguf_names_have_its_numbers_and_sizes() -> None:
    for type in gguf.GGMLQuantizationType:
        assert GGMLType[type.name] == type and GGML_QUANT_SIZES[GGMLType(type)] == gguf.GGML_QUANT_SIZES[type]


def test_every_type_of_weights_is_a_format() -> None:
    assert {type.name for type in FORMATS} == GOLDEN["types"].keys() - NO_WEIGHTS


@pytest.mark.parametrize("name", GOLDEN["values"])
def test_values_of_blocks_are_llama_cpps_to_the_bit(name: str) -> None:
    type = GGMLType[name]
    assert sha256(dequantize(blocks(type), type)) == GOLDEN["values"][name]
