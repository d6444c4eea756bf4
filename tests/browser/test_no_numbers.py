"""Weights and logits that are no numbers: said, located, and never sampled from; the model is usable afterwards."""

from __future__ import annotations

import re

import gguf
import numpy as np
import pytest
from browser_page import Page
from kernel_bench import Bench, Case, codes, each_format

from llamaweb.errors import NotANumberError
from llamaweb.ggml import dequantize
from llamaweb.kernels import library
from llamaweb.kernels.formats import BLOCK, Format
from tests.tiny import TinyLlama, tiny_llama

NONE = 0xFFFFFFFF
SPEC = TinyLlama(type="F32", n_layer=2)


def spoiled(tensor: str, row: int, value: float = np.nan, spec: TinyLlama = SPEC) -> bytes:
    """The tiny model with one weight of a row that is no number."""
    data = tiny_llama(spec)
    changed = np.frombuffer(data, np.uint8).copy()
    with open_gguf(data) as reader:
        found = next(t for t in reader.tensors if t.name == tensor)
        at = int(found.data_offset) + row * int(found.n_bytes) // int(np.prod(found.shape[1:]))
    changed[at + 4 : at + 8] = np.array([value], np.float32).view(np.uint8)
    return changed.tobytes()


class open_gguf:
    """gguf's reader of bytes, which wants a file."""

    def __init__(self, data: bytes) -> None:
        import tempfile

        self._file = tempfile.NamedTemporaryFile(suffix=".gguf")  # noqa: SIM115
        self._file.write(data)
        self._file.flush()

    def __enter__(self) -> gguf.GGUFReader:
        return gguf.GGUFReader(self._file.name)

    def __exit__(self, *_: object) -> None:
        self._file.close()


async def answers(data, packed=False, **options):
    """What prompts with and without token 5 give, alternately, and what a perplexity does."""
    import dataclasses

    from llamaweb import Llama
    from llamaweb.errors import LlamaWebError
    from llamaweb.gpu.device import Device

    opened = Device.open

    async def open_packed():
        device = await opened()
        device.profile = dataclasses.replace(device.profile, subgroup_size=0, packed_dot=True)
        return device

    plain = {"temperature": 0, "max_tokens": 5, "ignore_eos": True}
    found = []
    try:
        if packed:
            Device.open = open_packed
        llm = await Llama.load(data, n_ctx=64, n_ubatch=16, tune="off", logits_all=True, **options)
    finally:
        Device.open = opened
    without, with_it = list(range(20, 50)), [*range(20, 40), 5, *range(41, 50)]
    for prompt in (without, with_it, without, [*without[:12], 5, 60, 61], without[:20], [5], without):
        try:
            found.append(await llm.complete(prompt, **plain) and list(llm.tokens))
        except LlamaWebError as error:
            found.append(error)
    try:
        found.append(await llm.log_probabilities(with_it))
    except LlamaWebError as error:
        found.append(error)
    found.append([float(p) for p in (await llm.log_probabilities(without))[0]])
    await llm.close()
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_a_token_whose_weights_are_no_numbers_is_an_error_and_others_are_answered_as_before(
    page: Page, packed: bool
) -> None:
    spec = TinyLlama(type="F32", tied=False)
    right = page.run(answers, data=tiny_llama(spec), packed=packed)
    found = page.run(answers, data=spoiled("token_embd.weight", 5, spec=spec), packed=packed)
    for n in (1, 3, 5, 7):
        assert isinstance(found[n], NotANumberError) and "check=True" in str(found[n])
    assert "after 30 tokens" in str(found[1]) and "after 1 tokens" in str(found[5])
    # Attention of a batch gives those before it in the batch a part of nothing, which is no number either.
    assert int(str(found[7]).split("after ")[1].split()[0]) in range(17, 22)
    for n in (0, 2, 4, 6, 8):
        assert found[n] == right[n], n


def test_a_model_that_is_loaded_to_be_checked_says_where_numbers_that_are_none_begin(page: Page) -> None:
    """Its weights are numbers, but one is so large that what is computed from it is none: by the products, or by the
    attention that reads them."""

    async def ask(data):
        from llamaweb import Llama

        async with await Llama.load(data, n_ctx=64, n_ubatch=16, tune="off", logits_all=True, check=True) as llm:
            said = []
            for work in (llm.complete([20, 21, 22]), llm.perplexity("the king"), llm.complete([20, 21, 22])):
                try:
                    await work
                except Exception as error:
                    said.append(error)
            return said

    errors = page.run(ask, data=spoiled("blk.1.attn_norm.weight", 0, 3e38))
    assert len(errors) == 3
    for error in errors:
        assert isinstance(error, NotANumberError) and re.fullmatch(
            r"The model's logits after 1 tokens are no numbers \(NaN or infinite\), which begins in "
            r"blk\.1\.attn(_q\+blk\.1\.attn_k\+blk\.1\.attn_v \(mul_mat_vec\)| \(flash_attn_vec\)); "
            r"fetch the file again, or use another model\.",
            str(error),
        )


@pytest.mark.parametrize(
    ("tensor", "row"), [("blk.1.ffn_down.weight", 3), ("token_embd.weight", 5), ("blk.0.attn_norm.weight", 0)]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_found_by_name_and_row_when_a_model_is_loaded_to_be_checked(
    page: Page, tensor: str, row: int, value: float
) -> None:
    async def load(data):
        from llamaweb import Llama
        from llamaweb.gpu.device import Device

        opened = Device.open
        devices = []

        async def kept():
            devices.append(await opened())
            return devices[0]

        Device.open = kept
        try:
            await Llama.load(data, n_ctx=64, n_ubatch=16, tune="off", check=True)
        except Exception as error:
            return error, devices[0].live_bytes
        finally:
            Device.open = opened

    error, left = page.run(load, data=spoiled(tensor, row, value))
    assert isinstance(error, NotANumberError) and left == 0
    assert f"Row {row} of the model's tensor '{tensor}'" in str(error)


def test_the_first_block_that_has_no_number_is_found_in_every_format(bench: Bench) -> None:
    """In numpy's reading of the same bytes, too."""
    cases, expected = [], []
    for format in each_format():
        blocks = 96
        for broken in ((), (70,), (41, 90)):
            data = block_bytes(format, blocks, broken)
            with np.errstate(all="ignore"):
                dense = dequantize(data.reshape(1, -1), format.type).astype(np.float32).reshape(-1)
            wrong = np.flatnonzero(~np.isfinite(dense).reshape(-1, BLOCK).all(axis=1))
            expected.append(int(wrong[0]) if len(wrong) else NONE)
            planes = bench.repack(format, [data.tobytes()])[0] if format.repacked else {"w_qs": data.view(np.uint8)}
            launch = library.find_nan(format, len(dense) // BLOCK)
            cases.append(Case(launch, {**planes, **codes(format), "found": np.array([NONE], np.uint32)}))
    found = [int(each["found"][0]) for each in bench.run(cases)]
    assert found == expected
    assert sum(each != NONE for each in expected) > len(expected) // 2


def block_bytes(format: Format, blocks: int, broken: tuple[int, ...]) -> np.ndarray:
    """Blocks of a format whose bits are small numbers, but for some that are all ones: those of NaN, where a scale is a
    float."""
    from tests.blocks import quantized

    rng = np.random.default_rng(blocks)
    values = rng.standard_normal((blocks, format.block_size)).astype(np.float32)
    data = quantized(values, format.type).reshape(blocks, -1).view(np.uint8).copy()
    for block in broken:
        data[block] = 0xFF
    return data.reshape(-1)
