"""Cuts a GGUF file into files of at most so many megabytes, beside it: NAME-00001-of-0000N.gguf.

usage: split.py MODEL.gguf MEGABYTES
"""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
from gguf import GGUFValueType


def split(path: Path, megabytes: int) -> None:
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture, split_max_size=megabytes * 10**6)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    split(Path(sys.argv[1]), int(sys.argv[2]))
