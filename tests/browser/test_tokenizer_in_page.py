"""The tokenizer under the page's own Python: the same ids, and fast enough."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from pathlib import Path

import pytest
from browser_page import Page

from tests.golden.tokenizer_texts import plainly_spaced
from tests.vocabularies import WITHOUT_LONG_SPACES, vocabulary
from tests.vocabularies_more import vocabulary as more_vocabulary

MORE = ("bert", "rwkv", "t5")
GOLDEN = Path(__file__).parents[1] / "golden/tokenizer"


def golden(name: str) -> dict:
    return json.loads(gzip.decompress((GOLDEN / f"{name}.json.gz").read_bytes()))


@pytest.mark.parametrize("name", ("smollm2", "gpt2", "llama3", "qwen2", "gemma4", "bert", "rwkv", "t5"))
def test_ids_in_the_page_are_llama_cpps_and_take_a_few_steps_of_python_for_a_token_and_a_letter(
    page: Page, name: str, tmp_path: Path
) -> None:
    async def run(url, texts, words):
        import pickle
        import time

        from pyodide.http import pyfetch

        from llamaweb.tokenizer import load_tokenizer

        metadata = pickle.loads(await (await pyfetch(url)).bytes())
        start = time.perf_counter()
        for _ in range(1_000_000):
            pass
        looped = time.perf_counter()
        tokenizer = load_tokenizer(metadata)
        loaded = time.perf_counter()
        tokenizer.encode(words)
        encoded = time.perf_counter()
        ids = [tokenizer.encode(text.encode("latin-1")) for text in texts]
        a_round = (looped - start) / 1_000_000
        return (
            (loaded - looped) / a_round / max(tokenizer.n_vocab, 20_000),
            (encoded - loaded) / a_round / len(words),
            ids,
        )

    path = tmp_path / "metadata.pickle"
    path.write_bytes(pickle.dumps((more_vocabulary if name in MORE else vocabulary)(name)))
    texts = golden("texts")["chosen"]
    if name in WITHOUT_LONG_SPACES:
        texts = [text.decode("latin-1") for text in plainly_spaced([text.encode("latin-1") for text in texts])]
    rng = random.Random(1)
    words = " ".join("".join(rng.choices("etaoinshrdlu", k=rng.randint(4, 10))) for _ in range(10_000))
    load, encode, ids = page.run(run, url=page.file_url(path), texts=texts, words=words)
    assert ids == golden(name)["chosen"][0]
    print(f"{name}: rounds of a loop: {load:.0f} for a token of the vocabulary, {encode:.0f} for a letter")
    assert load < 400 and encode < 1_500
