"""llama.cpp of September 2026 through ctypes, for the scripts that write golden files.

Its libraries come out of npm's @node-llama-cpp/linux-x64, fetched once; they need glibc on x86-64. Of the variants for
CPUs the plainest is taken, so that every machine computes the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llamaweb.ggml import GGMLType
from tests.packages import ensure

VERSION, DATE = "v0.5.0", "2026-09-28"
_PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
_SHA256 = "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0"
_BASE, _GGML, _CPU, _LLAMA = "libggml-base.so", f"libggml.{VERSION}.so", "libggml-cpu-x64.so", f"libllama.{VERSION}.so"
_N_TYPES = 43  # GGML_TYPE_COUNT

Functions = dict[str, tuple[Any, tuple[Any, ...]]]  # by name, the types of result and arguments


class TypeTraits(ctypes.Structure):
    """`ggml_type_traits` of ggml.h."""

    _fields_ = (
        ("type_name", c_char_p),
        ("blck_size", c_int64),
        ("blck_size_interleave", c_int64),
        ("type_size", c_size_t),
        ("is_quantized", c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_int64)),
        ("from_float_ref", c_void_p),
    )


class ModelParams(ctypes.Structure):
    """`llama_model_params` of llama.h."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        *((name, c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        *((name, c_bool) for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc")),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    """`llama_context_params` of llama.h."""

    _fields_ = (
        *((name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type")),
        *((name, c_int32) for name in ("pooling_type", "attention_type", "flash_attn_type")),
        *((name, c_float) for name in ("rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor")),
        *((name, c_float) for name in ("yarn_beta_fast", "yarn_beta_slow")),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        *((name, c_void_p) for name in ("cb_eval", "cb_eval_user_data")),
        *((name, c_int32) for name in ("type_k", "type_v")),
        *((name, c_void_p) for name in ("abort_callback", "abort_callback_data")),
        *((name, c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified")),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """`llama_batch` of llama.h."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_SILENCE = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda level, text, data: None)
_FUNCTIONS: Functions = {
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_context_default_params": (ContextParams, ()),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_batch_init": (Batch, (c_int32, c_int32, c_int32)),
    "llama_batch_free": (None, (Batch,)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
    "llama_model_n_embd": (c_int32, (c_void_p,)),
    "llama_pooling_type": (c_int32, (c_void_p,)),
    "llama_get_embeddings": (POINTER(c_float), (c_void_p,)),
    "llama_get_embeddings_seq": (POINTER(c_float), (c_void_p, c_int32)),
}


@cache
def _libraries() -> dict[str, Any]:
    names = (_BASE, _GGML, _CPU, _LLAMA)
    folder = ensure(f"llama.cpp-{_SHA256[:12]}", _PACKAGE, _SHA256, [f"package/bins/linux-x64/{n}" for n in names])
    return {name: ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL) for name in names}


@cache
def library() -> Any:
    """libllama, silent, with a CPU to run on."""
    libraries = _libraries()
    llama = declare(libraries[_LLAMA], _FUNCTIONS)
    llama.llama_log_set(_SILENCE, None)
    libraries[_GGML].ggml_backend_load(libraries[_CPU]._name.encode())
    return llama


def declare(library: Any, functions: Functions) -> Any:
    """The library, that knows these of its functions."""
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def types() -> dict[str, tuple[int, int, int]]:
    """By name, in capital letters, every type of ggml's tensors: its number, weights and bytes of a block."""
    found = {number: _traits(number) for number in range(_N_TYPES)}
    return {t.type_name.decode().upper(): (n, t.blck_size, t.type_size) for n, t in found.items() if t.blck_size}


def dequantize(data: np.ndarray, type: GGMLType) -> np.ndarray:
    """Values of whole blocks, float32, of uint8 in one stretch; not of F32."""
    traits = _traits(type)
    values = np.empty(data.size // traits.type_size * traits.blck_size, np.float32)
    traits.to_float(data.ctypes.data, values.ctypes.data, values.size)
    return values


def _traits(type: int) -> Any:
    of = _libraries()[_BASE].ggml_get_type_traits
    of.restype = POINTER(TypeTraits)
    return of(type).contents


def logits(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """What follows each of the tokens, float32 (n_tokens, n_vocab): in one batch, with keys and values in float32.

    Raises ValueError for a file that llama.cpp refuses."""

    def found(llama: Any, model: Any, context: Any) -> np.ndarray:
        n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        return np.ctypeslib.as_array(llama.llama_get_logits(context), (len(tokens), n_vocab))

    return _computed(path, tokens, found, embeddings=False)


def embedding(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """That of a text by the file's own pooling, float32 (1, n_embd), or without any those of its tokens, (n_tokens,
    n_embd); not normalized. Raises ValueError for a file that llama.cpp refuses."""

    def found(llama: Any, model: Any, context: Any) -> np.ndarray:
        n_embd = llama.llama_model_n_embd(model)
        if llama.llama_pooling_type(context):
            return np.ctypeslib.as_array(llama.llama_get_embeddings_seq(context, 0), (1, n_embd))
        return np.ctypeslib.as_array(llama.llama_get_embeddings(context), (len(tokens), n_embd))

    return _computed(path, tokens, found, embeddings=True)


def greedy(path: Path, prompt: Sequence[int], count: int) -> list[int]:
    """The tokens that follow a prompt, each the likeliest behind those before it; of the file as it is, whose products
    round activations to 8 bits."""

    def found(llama: Any, model: Any, context: Any) -> np.ndarray:
        n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        tokens, of_last = [], len(prompt)
        for at in range(len(prompt), len(prompt) + count):
            rows = np.ctypeslib.as_array(llama.llama_get_logits(context), (of_last, n_vocab))
            tokens.append(int(rows[-1].argmax()))
            of_last = 1
            _decode(llama, context, tokens[-1:], at)
        return np.array(tokens)

    return list(map(int, _computed(path, prompt, found, embeddings=False, n_ctx=len(prompt) + count)))


def _computed(
    path: Path, tokens: Sequence[int], found: Callable[..., np.ndarray], *, embeddings: bool, n_ctx: int = 0
) -> np.ndarray:
    """A copy of what is found of a model behind one batch. n_ctx: that its context holds; 0: the batch."""
    llama = library()
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    if not model:
        raise ValueError(f"llama.cpp does not load {path}")
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n_ctx or len(tokens)
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = GGMLType.F32
    params.flash_attn_type = 0  # never: it rounds queries to f16
    params.embeddings = embeddings
    context = llama.llama_init_from_model(model, params)
    if not _decode(llama, context, tokens, 0):
        raise ValueError(f"llama.cpp does not compute {path}")
    values = found(llama, model, context).copy()
    llama.llama_free(context)
    llama.llama_model_free(model)
    return values


def _decode(llama: Any, context: Any, tokens: Sequence[int], first: int) -> bool:
    """One batch, from a position on, with the logits of all its tokens."""
    n = len(tokens)
    batch = llama.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.logits[i] = token, first + i, 1
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    failed = llama.llama_decode(context, batch)
    llama.llama_batch_free(batch)
    return not failed
