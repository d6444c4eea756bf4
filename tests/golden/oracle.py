"""llama.cpp's own vocabularies, for the scripts that write golden files."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int32, c_void_p
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from llamaweb.strings import Strings
from tests.golden.llamacpp import Functions, declare, library

FUNCTIONS: Functions = {
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_get_add_eos": (c_bool, (c_void_p,)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool)),
    "llama_detokenize": (c_int32, (c_void_p, c_void_p, c_int32, c_void_p, c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_void_p, c_int32, c_int32, c_bool)),
}


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
        self._llama = declare(library(), FUNCTIONS)
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
