"""The header of a model with a large vocabulary, read in the browser over ranged requests."""

from __future__ import annotations

import random
from pathlib import Path

import gguf
import pytest
from browser_page import Page

N_TOKENS, N_MERGES = 128_256, 280_147


@pytest.fixture
def large_vocabulary(tmp_path: Path) -> Path:
    """A GGUF file with a vocabulary of Llama 3's size and no weights."""
    rng = random.Random(7)
    pieces = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(1, 10))) for _ in range(2000)]
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list([f"{pieces[index % 2000]}{index}" for index in range(N_TOKENS)])
    writer.add_token_types([gguf.TokenType.NORMAL] * N_TOKENS)
    writer.add_token_merges([f"{pieces[index % 2000]} {pieces[index % 1999]}" for index in range(N_MERGES)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_vocabulary_of_128k_tokens_takes_few_steps_of_python_for_a_string(page: Page, large_vocabulary: Path) -> None:
    async def read(url):
        import time

        from llamaweb.files.sources import open_source
        from llamaweb.model.gguf_file import read_header

        start = time.perf_counter()
        for _ in range(1_000_000):
            pass
        looped = time.perf_counter()
        file = await read_header(open_source(url))
        rounds = (time.perf_counter() - looped) / (looped - start) * 1_000_000
        return rounds, len(file.metadata["tokenizer.ggml.tokens"]), len(file.metadata["tokenizer.ggml.merges"])

    rounds, *counts = page.run(read, url=page.file_url(large_vocabulary))  # the first: another may come from a cache
    assert counts == [N_TOKENS, N_MERGES]
    print(f"{rounds / (N_TOKENS + N_MERGES):.0f} rounds of a loop for a string")
    assert rounds < 200 * (N_TOKENS + N_MERGES)
