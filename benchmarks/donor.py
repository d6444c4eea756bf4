"""Writes a GGUF file that holds a tokenizer and nothing else, the default model's or one of tests/vocabularies.py.

usage: donor.py OUT.gguf [VOCABULARY]
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llamaweb.host.models import resolve
from llamaweb.host.synthetic import add_tokenizer
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import FileSource


def tokenizer(names: Sequence[str]) -> Mapping[str, Any]:
    if not names:
        return asyncio.run(read_header(FileSource(Path(resolve())))).metadata
    from tests.vocabularies import vocabulary

    return vocabulary(names[0])


writer = gguf.GGUFWriter(sys.argv[1], "llama")
add_tokenizer(writer, tokenizer(sys.argv[2:]))
writer.add_tensor("none", np.zeros(32, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
