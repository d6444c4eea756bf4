"""Writes a GGUF file that holds the default model's tokenizer and nothing else: usage: donor.py OUT.gguf"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import gguf
import numpy as np

from llamaweb.host.models import resolve
from llamaweb.host.synthetic import add_tokenizer
from llamaweb.model.gguf_file import read_header
from llamaweb.model.source import FileSource

header = asyncio.run(read_header(FileSource(Path(resolve()))))
writer = gguf.GGUFWriter(sys.argv[1], "llama")
add_tokenizer(writer, header.metadata)
writer.add_tensor("none", np.zeros(32, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
