"""What families share: typed access to metadata, what it must agree with, and the rotary embedding it describes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np

from llamaweb.errors import ModelFileError, UnsupportedError, short
from llamaweb.graph import VECTORS
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope, Yarn
from llamaweb.strings import Strings

_MISSING = object()
MOST_WINDOW = 2**31 - 1  # tokens
_MOST_LAYERS = 512  # as llama.cpp has at most
_MOST = 1e30  # of a number, far above any sound value and well within float32
_LEAST = 1e-6  # of what is divided by or goes into a logarithm; far below any sound value


def unsound(finding: str) -> ModelFileError:
    """What a file tells contradicts itself, or cannot be."""
    return ModelFileError(f"{finding}; convert the model again.")


class Metadata:
    """A file's metadata under its architecture's prefix.

    What is asked for as one value may be written as one a layer, if it is the same for all; UnsupportedError otherwise.
    """

    def __init__(self, file: GGUFFile) -> None:
        self._all = file.metadata
        self.prefix = file.architecture

    def count(self, key: str, default: Any = _MISSING, largest: int = 1 << 20) -> int:
        """A positive whole number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
            raise unsound(f"{self.prefix}.{key} is {short(value)}, not a whole number from 1 to {largest}")
        return value

    def optional_count(self, key: str, largest: int = 1 << 20, default: Any = 0) -> int:
        """A whole number that may be missing, or 0."""
        value = self._get(key, default)
        if type(value) is not int or not 0 <= value <= largest:
            raise unsound(f"{self.prefix}.{key} is {short(value)}, not a whole number from 0 to {largest}")
        return value

    @property
    def n_layer(self) -> int:
        """Layers, without those behind them that guess further tokens (nextn)."""
        told, more = self.count("block_count", largest=_MOST_LAYERS), self.optional_count("nextn_predict_layers")
        if more >= told:
            raise unsound(
                f"{self.prefix}.nextn_predict_layers is {more}, of {told} layers in {self.prefix}.block_count in all"
            )
        return told - more

    def counts(self, key: str, largest: int = 1 << 20) -> tuple[int, ...]:
        """A whole number for each layer, which may be written as one for all."""
        value, n_layer = self._there(key, _MISSING), self.count("block_count", largest=_MOST_LAYERS)
        each = value.tolist() if isinstance(value, np.ndarray) else [value] * n_layer
        if not all(type(n) is int and 0 <= n <= largest for n in each):
            told = each if isinstance(value, np.ndarray) else value
            raise unsound(f"{self.prefix}.{key} is {short(told)}, not whole numbers from 0 to {largest}")
        if len(each) != n_layer:
            raise ModelFileError(
                f"{self.prefix}.{key} has {len(each)} values, but {self.prefix}.block_count says {n_layer} layers; "
                "fetch or convert the model again."
            )
        return tuple(each)[: self.n_layer]

    def number(self, key: str, default: Any = _MISSING, least: float = 0.0) -> float:
        """A number of at least `least`, which float32 holds with room to spare."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= _MOST:
            raise unsound(f"{self.prefix}.{key} is {short(value)}, not a number from {least:g} to {_MOST:g}")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise unsound(f"{self.prefix}.{key} is {short(value)}, not a text")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise unsound(f"{self.prefix}.{key} is {short(value)}, not true or false")
        return value

    def value(self, key: str, default: Any) -> Any:
        """Whatever the file has."""
        return self._all.get(f"{self.prefix}.{key}", default)

    def _there(self, key: str, default: Any) -> Any:
        value = self._all.get(f"{self.prefix}.{key}", default)
        if value is _MISSING:
            raise unsound(f"The file's metadata lacks {self.prefix}.{key}, which its architecture needs")
        return value

    def _get(self, key: str, default: Any) -> Any:
        value = self._there(key, default)
        return self._of_all_layers(key, value) if isinstance(value, np.ndarray) else value

    def _of_all_layers(self, key: str, values: np.ndarray) -> Any:
        n_layer = self._all.get(f"{self.prefix}.block_count")
        if not isinstance(n_layer, int):  # which is then what is wrong
            return values.tolist()
        if len(values) != n_layer:
            raise ModelFileError(
                f"{self.prefix}.{key} has {len(values)} values, but {self.prefix}.block_count says {n_layer} layers; "
                "fetch or convert the model again."
            )
        if any(values != values[0]):
            raise UnsupportedError(
                f"{self.prefix}.{key} differs from layer to layer ({short(values.tolist())}), which is not supported "
                "yet; use a model whose layers are alike."
            )
        return values[0].item()


_LAYER = re.compile(r"blk\.([0-9]{1,9})\.")


def layers(file: GGUFFile, meta: Metadata) -> int:
    """How many layers there are, in the metadata and in the tensors; ModelFileError if they differ. Those that guess
    further tokens (nextn) are the last, or are left out, and do not count."""
    wanted, told = meta.n_layer, meta.count("block_count", largest=_MOST_LAYERS)
    found = max((layer_of(name) + 1 for name in file.tensors), default=0)
    if found not in (told, wanted):
        raise ModelFileError(
            f"{file.architecture}.block_count says {told} layers, but the file has tensors of {found}; fetch or "
            "convert the model again."
        )
    return wanted


def layer_of(tensor: str) -> int:
    """The layer of a tensor of the file; -1: of none."""
    layer = _LAYER.match(tensor)
    return int(layer[1]) if layer else -1


def tokens(file: GGUFFile, n_embd: int) -> int:
    """Rows of the embedding; ModelFileError unless there are as many as tokens, of `n_embd` values each."""
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise ModelFileError("The file has no two-dimensional tensor token_embd.weight; it is not a language model.")
    row, rows = table.shape
    if row != n_embd:
        raise ModelFileError(
            f"{file.architecture}.embedding_length is {n_embd}, but the rows of token_embd.weight have {row} values; "
            "fetch or convert the model again."
        )
    told = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(told, Strings) and len(told) != rows:
        raise ModelFileError(
            f"The tokenizer has {len(told)} tokens, but token_embd.weight has {rows} rows; fetch or convert the model "
            "again."
        )
    return rows


def rope(meta: Metadata, mode: str, head_dim: int, *, yarn_told: bool = False) -> Rope:
    """A family's rotary embedding with its scaling out of the metadata. yarn_told: its files tell YaRN's betas and its
    multiplier, which llama.cpp reads of no other family."""
    n_dims = meta.count("rope.dimension_count", head_dim)
    if n_dims % 2 or n_dims > head_dim:
        raise ModelFileError(f"The rope dimension {n_dims} is odd or larger than the head dimension {head_dim}.")
    base = meta.number("rope.freq_base", 10000.0)
    if base <= 1:
        raise ModelFileError(f"rope.freq_base is {base}; it must be larger than 1.")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0)) or 1.0
    scaling, attn_factor = meta.text("rope.scaling.type", "linear"), meta.number("rope.scaling.attn_factor", 1.0)
    if factor < _LEAST:
        raise unsound(f"The rope scaling factor {factor} is too small to be meant")
    if scaling == "none":
        return Rope(mode, n_dims, base, attn_factor=attn_factor)
    if scaling in ("linear", "longrope"):  # of which the file has factors as tensors
        return Rope(mode, n_dims, base, factor, attn_factor=attn_factor)
    if scaling == "yarn":
        yarn = Yarn(meta.number("rope.scaling.original_context_length", meta.number("context_length"), least=1))
        if not yarn_told:
            return Rope(mode, n_dims, base, factor, yarn, attn_factor=attn_factor)
        yarn = replace(
            yarn,
            beta_fast=meta.number("rope.scaling.yarn_beta_fast", 32.0, _LEAST),
            beta_slow=meta.number("rope.scaling.yarn_beta_slow", 1.0, _LEAST),
        )
        attn_factor /= 1.0 + 0.1 * meta.number("rope.scaling.yarn_log_multiplier", 0.0) * math.log(max(factor, 1.0))
        return Rope(mode, n_dims, base, factor, yarn, attn_factor=attn_factor)
    raise UnsupportedError(f"The rope scaling {short(scaling)} is not supported yet; linear, longrope and yarn are.")


def with_factors(rotary: Rope, file: GGUFFile, meta: Metadata, *, needed: bool = False) -> Rope:
    """With those tensors that divide its frequencies which the file has: one, which may be needed, or one for short and
    one for long contexts (LongRoPE, arXiv:2402.13753)."""
    names = [f"{name}.weight" for name in ("rope_freqs", "rope_factors_short", "rope_factors_long")]
    for info in (file.tensors[name] for name in names if name in file.tensors):
        if info.type not in VECTORS or info.shape != (rotary.n_dims // 2,):
            raise ModelFileError(
                f"Tensor {info.name} has shape {list(info.shape)} in {info.type.name}, not [{rotary.n_dims // 2}] in "
                "F32, F16 or BF16; the file contradicts itself."
            )
    if needed and names[0] not in file.tensors:
        raise ModelFileError(
            f"The file has no tensor {names[0]} of shape [{rotary.n_dims // 2}], which its architecture needs; fetch "
            "it again."
        )
    own, short, long = (name if name in file.tensors else None for name in names)
    original = meta.count(
        "rope.scaling.original_context_length", meta.count("context_length", largest=1 << 31), largest=1 << 31
    )
    return replace(rotary, factors=own or short, long=long, n_ctx_orig=original if long else 0)


def of_text(rotary: Rope, meta: Metadata) -> Rope:
    """The rotary embedding of a model that sees pictures, for text: the sections of its pairs of values, one for each
    of a picture's dimensions, all have the token's position (M-RoPE, arXiv:2409.12191). Of others, their own."""
    sections = meta.value("rope.dimension_sections", None)
    if sections is None:
        return rotary
    if not isinstance(sections, np.ndarray) or sections.dtype.kind not in "iu" or not 3 <= len(sections) <= 4:
        raise ModelFileError(f"rope.dimension_sections is {short(sections)}, not three or four whole numbers.")
    if sections.any() and sections[:3].sum() < rotary.n_dims // 2:
        raise UnsupportedError(
            f"rope.dimension_sections is {short(sections.tolist())}, which leaves some of {rotary.n_dims // 2} pairs "
            "unrotated; that is not supported yet."
        )
    return rotary


def base_in_window(meta: Metadata, default: float = 10000.0) -> float:
    """The rotation's base in layers with a window."""
    return meta.number("rope.freq_base_swa", default, least=1 + _LEAST)


def rope_in_window(meta: Metadata, of_all: Rope, head_dim: int) -> Rope:
    """The rotation of layers with a window, which a longer context scales in no other way than by its factor."""
    n_dims = dims_in_window(meta, of_all, head_dim)
    return Rope(of_all.mode, n_dims, base_in_window(meta), attn_factor=of_all.attn_factor)


def dims_in_window(meta: Metadata, of_all: Rope, head_dim: int) -> int:
    """How many numbers of a head layers with a window rotate."""
    n_dims = meta.count("rope.dimension_count_swa", of_all.n_dims, largest=head_dim)
    if n_dims % 2:
        raise ModelFileError(f"The rope dimension in windows is {n_dims}, which is odd; convert the file again.")
    return n_dims


def heads_by_layer(meta: Metadata) -> tuple[tuple[int, int], tuple[int, ...]]:
    """How many heads of queries and of keys layers have that have attention, and of each layer how many of keys; 0: it
    has no attention. ModelFileError where those that have it differ."""
    found = []
    for key in ("attention.head_count", "attention.head_count_kv"):
        found.append(each := meta.counts(key))
        if len(set(each) - {0}) > 1:
            raise unsound(f"{meta.prefix}.{key} is {short(list(each))}, not 0 or one number of heads a layer")
    heads, heads_kv = found
    return (max(*heads, 1), max(*heads_kv, 1)), heads_kv


def token_types(file: GGUFFile) -> int:
    """How many types of tokens an encoder tells apart (sentences of a pair, say)."""
    key, most = "tokenizer.ggml.token_type_count", 1 << 20
    count = file.metadata.get(key)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= most:
        raise unsound(f"{key} is {short(count)}, not a whole number from 1 to {most}")
    return count


def windows(
    meta: Metadata, n_layer: int, pattern: int, *, window: int | None = None, whole: int = -1
) -> tuple[int, ...]:
    """Of each layer, how many of the last tokens it sees; 0: all. window, unless the file tells, which it has to
    without. pattern, unless the file tells: of so many layers all but one have the window, the last or, with 0 for
    `whole`, the first; or 0: all of them."""
    default = _MISSING if window is None else window
    window = meta.optional_count("attention.sliding_window", MOST_WINDOW, default)
    if not window:
        return (0,) * n_layer
    told = meta.value("attention.sliding_window_pattern", pattern)
    if isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= _MOST_LAYERS:
        within = [told == 0 or i % told != whole % told for i in range(n_layer)]
    elif isinstance(told, np.ndarray) and told.dtype.kind in "biu" and len(told) <= _MOST_LAYERS:
        within = [i < len(told) and bool(told[i]) for i in range(n_layer)]  # the last ones may be left out
    else:
        raise unsound(f"{meta.prefix}.attention.sliding_window_pattern is no number, nor one for each layer")
    return tuple(window if inside else 0 for inside in within)


def caches(meta: Metadata, windows: tuple[int, ...], shared: int = 0) -> tuple[int, ...]:
    """Of each layer, the one whose keys and values it reads: its own, or, of the last `attention.shared_kv_layers`,
    those of the last one before them that has a window, or none, as it has. shared: how many, unless the file tells."""
    n_layer = len(windows)
    n_own = n_layer - meta.optional_count("attention.shared_kv_layers", default=shared)
    if n_own < min(n_layer, 2):
        raise unsound(
            f"{meta.prefix}.attention.shared_kv_layers is {n_layer - n_own}, but of {n_layer} layers at least "
            f"{min(n_layer, 2)} must have keys of their own"
        )
    found = tuple(i if i < n_own else n_own - (2 if window else 1) for i, window in enumerate(windows))
    for i, cache in enumerate(found):
        if windows[i] != windows[cache]:
            raise unsound(f"Layer {i} is to read the keys and values of layer {cache}, whose window differs")
    return found
