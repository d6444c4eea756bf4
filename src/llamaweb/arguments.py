"""What callers give, checked where it comes in: each of these gives the value as what it stands for, or raises a
LlamaWebError that names the argument, what it is and what it must be. None stands for the default."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Iterable, Mapping, Set
from difflib import get_close_matches
from numbers import Rational, Real
from operator import index
from typing import Any, TypeVar

from llamaweb.errors import LlamaWebError, OptionWarning, short

T = TypeVar("T")
OFFLOADS = ("auto", "embeddings", "none")  # of Llama.load
_BOOLS = ("bool", "bool_")  # Python's and NumPy's


def as_whole(value: Any) -> int | None:
    """A whole number of any kind (Python's, NumPy's, a float as 2e9); None for what is none."""
    if type(value).__name__ in _BOOLS:
        return None
    try:
        return index(value)
    except TypeError:
        pass
    if isinstance(value, Rational):
        return int(value.numerator) if value.denominator == 1 else None
    return int(float(value)) if isinstance(value, Real) and float(value).is_integer() else None


def whole(name: str, value: Any, default: T, least: float, most: float, told: str) -> int | T:
    """A whole number from `least` to `most`; told: what it must be, for a person."""
    if value is None:
        return default
    number = as_whole(value)
    if number is None or not least <= number <= most:
        raise wrong(name, value, told)
    return number


def number(name: str, value: Any, default: float, least: float, most: float, told: str) -> float:
    """A number from `least` to `most`."""
    if value is None:
        return default
    real = isinstance(value, Real) and type(value).__name__ not in _BOOLS
    if not real or not least <= value <= most:  # which not-a-number is not
        raise wrong(name, value, told)
    return float(value)


def flag(name: str, value: Any, default: bool = False) -> bool:
    """True or False, which 1 and 0 may stand for."""
    if value is None:
        return default
    if type(value).__name__ not in _BOOLS and as_whole(value) not in (0, 1):
        raise wrong(name, value, "True or False")
    return bool(value)


def flag_or(name: str, value: Any, default: bool, word: str) -> bool | str:
    """True, False, or the word."""
    if isinstance(value, str) and value == word:
        return word
    try:
        return flag(name, value, default)
    except LlamaWebError:
        raise wrong(name, value, f"True, False or {word!r}") from None


def one_of(name: str, value: Any, default: str, known: Iterable[str]) -> str:
    """One of the known words."""
    if value is None:
        return default
    if not isinstance(value, str) or value not in known:
        raise wrong(name, value, f"one of: {', '.join(known)}")
    return value


def some_of(name: str, value: Any, known: Collection[str]) -> tuple[str, ...]:
    """Several of the known words, or none of them."""
    told = f"a list of names out of: {', '.join(known)}"
    if value is None:
        return ()
    found = tuple(sorted(value, key=str) if isinstance(value, Set) else _listed(name, value, told))
    for each in found:
        if not isinstance(each, str) or each not in known:
            raise wrong(name, each, told)
    return found


def callback(name: str, value: Any) -> Any:
    """A function, or None."""
    if value is not None and not callable(value):
        raise wrong(name, value, "a function that is called as the work goes on, or None")
    return value


def word(name: str, value: Any, default: str | None, told: str) -> str | None:
    """A text that is not empty; where the default is None, an empty one is left out, too."""
    value = default if value is None else value
    if value is None or (default is None and isinstance(value, str) and not value):
        return None
    if not isinstance(value, str) or not value:
        raise wrong(name, value, told)
    return value


def text(name: str, value: Any) -> str | bytes:
    """A text, or its bytes."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise wrong(name, value, "a text, or the bytes of one")


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Texts, or one; empty ones cannot be meant and are left out."""
    told = "a text or a list of texts"
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else _listed(name, value, told)
    for each in found:
        if not isinstance(each, str):
            raise wrong(name, each, told)
    return tuple(each for each in found if each)


def token_ids(name: str, value: Any, n_vocab: int, told: str = "a list of token ids") -> list[int]:
    """Token ids of a vocabulary, out of any list of whole numbers."""
    found = []
    for each in _listed(name, value, told):
        id = as_whole(each)
        if id is None:
            raise LlamaWebError(f"{name} has {short(each)} in it, which is no token id; give whole numbers.")
        if not 0 <= id < n_vocab:
            raise LlamaWebError(
                f"{name} has the token id {short(id)} in it, but the model's go from 0 to {n_vocab - 1}; "
                "give ids of this model."
            )
        found.append(id)
    return found


def prompt(name: str, value: Any, n_vocab: int) -> str | bytes | list[int]:
    """A text, its bytes, or token ids."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return text(name, value)
    return token_ids(name, value, n_vocab, "a text, its bytes, or a list of token ids")


def prompts(name: str, value: Any, n_vocab: int) -> list[str | bytes | list[int]]:
    """Several of these, or one text."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return [text(name, value)]
    return [prompt(name, each, n_vocab) for each in _listed(name, value, "a text or a list of texts")]


# Of llama-cpp-python's Llama: how a CPU, a file system or several GPUs are used.
_MEANINGLESS = (
    *("n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "n_threads", "n_threads_batch", "numa", "n_batch"),
    *("use_mmap", "use_mlock", "use_direct_io", "verbose", "no_perf", "flash_attn", "offload_kqv", "op_offload"),
    *("swa_full", "low_vram", "f16_kv"),
)


def check_others(call: str, given: Collection[str], known: Iterable[str]) -> None:
    """Of options that a call does not have: raises LlamaWebError that names the nearest one for what nobody has, and
    warns once of those that mean nothing here. known: the options it has."""
    for name in given:
        if name not in _MEANINGLESS:
            raise unknown(call, name, known)
    if given:
        told = (
            f"{', '.join(sorted(given))}: {'means' if len(given) == 1 else 'mean'} nothing in a browser; leave it out."
        )
        warnings.warn(told, OptionWarning, stacklevel=3)


def unknown(call: str, name: str, known: Iterable[str]) -> LlamaWebError:
    """What is said of an option that there is not."""
    near = get_close_matches(name, known := sorted(known), 1)
    advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
    return LlamaWebError(f"{call} has no option {short(name)}; {advice}")


def keywords(function: Any) -> tuple[str, ...]:
    """The names of a function's options."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def wrong(name: str, value: Any, told: str) -> LlamaWebError:
    """What is said of an argument."""
    return LlamaWebError(f"{name} is {short(value)}; it must be {told}.")


def _listed(name: str, value: Any, told: str) -> list[Any]:
    """Whatever is in an order; a text, a dict or a set is something else."""
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping | Set):
        raise wrong(name, value, told)
    try:
        return list(value)
    except TypeError:
        raise wrong(name, value, told) from None
