"""Write tests/golden/mixed.tar.xz and mixed.npz: tiny models that llama.cpp quantized to mixes of formats, and their
logits.

Needs llama-cpp-python 0.3.36, gguf, numpy, jinja2 and this package; from the repository's top:

    python -m tests.golden.make_mixed_golden

mixed.tar.xz: NAME.gguf for each mix. All are made of the same weights, so that a tensor which has the same format in
    two of them is the same bytes, which the archive holds once.
mixed.npz: `tokens`, int64; logits after each but the first PROMPT - 1 of them, float32 (positions, n_vocab): NAME of
    the set "exact", NAME.file of the set "file" (see make_golden.py)
"""

from __future__ import annotations

import ctypes
import io
import lzma
import tarfile
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from tests.golden.make_golden import FOLDER, load, logits, write_dequantized
from tests.tiny import TinyLlama, tiny_llama, vocabulary

# Rows of one K-quant block, two layers (of which llama.cpp favours the last), an output of its own (favoured too).
SPEC = TinyLlama(n_layer=2, n_embd=256, n_head=8, n_head_kv=1, n_ff=256, tied=False, seed=20)
# What `llama-quantize` offers; but Q6_K and the plain formats, which are no mixes.
MIXES = ("Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "IQ4_XS", "IQ3_M", "IQ3_XXS", "IQ1_M")
WITH_IMPORTANCE = ("IQ3_XXS", "IQ1_M")  # llama.cpp refuses some formats of these without
N_TOKENS, PROMPT = 40, 33

Importance = llama_cpp.llama_model_imatrix_data


def main() -> None:
    tokens = np.random.RandomState(SPEC.seed).randint(3, 300, N_TOKENS)
    arrays = {"tokens": tokens}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source.gguf").write_bytes(tiny_llama(SPEC))
        for mix in MIXES:
            path, exact = folder / f"{mix}.gguf", folder / "exact.gguf"
            quantize(folder / "source.gguf", path, mix)
            write_dequantized(path, exact)
            models = {mix: load(exact, N_TOKENS, gguf.GGMLQuantizationType.F32), f"{mix}.file": load(path, N_TOKENS)}
            for key, model in models.items():
                arrays[key] = logits(model, tokens.tolist())[PROMPT - 1 :]
        write_archive(FOLDER / "mixed.tar.xz", [folder / f"{mix}.gguf" for mix in MIXES])
    np.savez_compressed(FOLDER / "mixed.npz", **arrays)


def quantize(source: Path, to: Path, mix: str) -> None:
    """What `llama-quantize` does for the mix of that name."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{mix}")
    if mix in WITH_IMPORTANCE:
        params.imatrix = importance()
    if llama_cpp.llama_model_quantize(str(source).encode(), str(to).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama.cpp does not quantize to {mix}")


def importance() -> ctypes.Array[Importance]:
    """A weight for each column of each matrix, as an importance matrix has; random, from a half to two."""
    random = np.random.RandomState(SPEC.seed)
    entries = []
    for name, values in SPEC.tensors(len(vocabulary()[0])):
        if values.ndim == 2:
            columns = random.uniform(0.5, 2, values.shape[1])
            entries.append(Importance(name.encode(), (ctypes.c_float * columns.size)(*columns), columns.size))
    return (Importance * (len(entries) + 1))(*entries)  # one without a name ends it


def write_archive(path: Path, files: list[Path]) -> None:
    """The files without dates and owners: the same bytes every time."""
    with lzma.open(path, "wb", preset=9) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for member in files:
            data = member.read_bytes()
            info = tarfile.TarInfo(member.name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
